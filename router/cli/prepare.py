"""``tierwise prepare``: verify the encoder's weights, convert them, and distil the static vectors, once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from router.cli import cache_dir

if TYPE_CHECKING:
    from rich.console import Console

    from classifiers.prepare import Prepared


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder with model.safetensors and tokenizer.json")
    parser.add_argument("--download", action="store_true", help="allow fetching the pinned revision from the hub")


def run(args: argparse.Namespace) -> int:
    """Prepare the encoder; 1 when its weights are not to be had or are not the published ones."""
    from rich.console import Console

    from classifiers.encoder import EncoderUnavailable

    try:
        prepared = prepare_with_progress(cache_dir(), Console(), weights=args.weights, download=args.download)
    except EncoderUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    print(prepared)
    return 0


def prepare_with_progress(
    folder: Path, console: Console, *, weights: Path | None = None, download: bool = False
) -> Prepared:
    """Prepare into ``folder`` with a progress bar; at once when it is prepared already. Raises `EncoderUnavailable`."""
    from rich.progress import Progress

    from classifiers.prepare import prepare

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Preparing the encoder", total=1.0)
        return prepare(
            folder,
            weights,
            allow_download=download,
            progress=lambda stage, share: progress.update(task, description=stage, completed=share),
        )
