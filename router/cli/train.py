"""``tierwise train``: scored rows to an artifact that `serve` can use."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.cli import cache_dir
from router.cli.classify import add_device, encoders

if TYPE_CHECKING:
    from classifiers.artifact import Artifact
    from classifiers.prepare import Device
    from router.learning import Log


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], metavar="FILE", help="rows with scores, .jsonl or .jsonl.gz"
    )
    parser.add_argument(
        "--from-ledger", type=Path, nargs="+", default=[], metavar="JOURNAL", help="entries with feedback, as rows too"
    )
    parser.add_argument(
        "--feedback", type=Path, nargs="+", default=[], metavar="FILE", help='lines of {"request_id", "score"}'
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="with --from-ledger: call backends what this policy's tiers are known as",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the artifact to")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--default", action="store_true", help="rebuild the artifact that ships with the package")
    kind.add_argument(
        "--onboard", type=Path, metavar="DIR", help="add the rows' models to this artifact from 200 to 500 rows"
    )
    parser.add_argument("--look", choices=("lexical", "static", "full"), default="full", help="the best look to train")
    parser.add_argument("--encoder", metavar="MODEL", help="a sentence-transformers model instead of the built-in one")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder with the built-in encoder's weights")
    add_device(parser)
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep vectors here, so that an interrupted run resumes"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed and rows give the same bytes")


def run(args: argparse.Namespace) -> int:
    """Train and save; 1 when rows, encoder or artifact are not to be used, 2 without any. Nothing is half-written."""
    from classifiers.artifact import ArtifactError, save
    from classifiers.datasets import DataError
    from classifiers.encoder import EncoderUnavailable
    from policies.document import PolicyErrors

    if not args.data and not args.from_ledger:
        print("tierwise train: nothing to learn from: give --data or --from-ledger", file=sys.stderr)
        return 2
    if (args.feedback or args.policy) and not args.from_ledger:
        print("tierwise train: --feedback and --policy go with --from-ledger", file=sys.stderr)
        return 2

    try:
        with work_folder(args.work) as work, progress() as told:
            artifact = save(_train(args, work, told), args.out)
    except (ArtifactError, DataError, EncoderUnavailable, PolicyErrors, ValueError, OSError) as error:
        print(f"tierwise train: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: artifact {artifact.id}, {artifact.about['rows']} rows, {len(artifact.models)} success columns")
    return 0


@contextmanager
def progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar per stage on standard error; what training and evaluation tell of long work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def told(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield told


def encoders_for(look: str, model: str | None, weights: Path | None, device: Device) -> dict[str, Any]:
    """The encoders to train with, by look. Raises `EncoderUnavailable`."""
    if model is not None:
        from classifiers.torch_encoder import TorchEncoder

        return {"full": TorchEncoder(model, device=None if device == "auto" else device)}
    static, full = encoders(look, weights, device)
    return {name: encoder for name, encoder in (("static", static), ("full", full)) if encoder is not None}


@contextmanager
def work_folder(folder: Path | None) -> Iterator[Path]:
    """The folder that keeps vectors: the one named, else one in the cache that goes when the work is done."""
    if folder is not None:
        yield folder
        return
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="training-", dir=cache_dir()) as temporary:
        yield Path(temporary)


def _train(args: argparse.Namespace, work: Path, told: Callable[[str, int, int | None], None]) -> Artifact:
    from classifiers import members, onboard, train
    from classifiers.artifact import load
    from classifiers.datasets import read, sha256

    chosen = encoders_for(args.look, args.encoder, args.weights, args.device)
    about: dict[str, Any] = {
        "code": version("tierwise"),
        "data": {path.name: sha256(path) for path in sorted(args.data)},
    }
    about["runtimes"] = {look: encoder.runtime for look, encoder in chosen.items()}
    rows = read(args.data)
    if args.from_ledger:
        log = _log(args)
        about["ledger"] = log.about()
        rows = chain(rows, log.rows())
    if args.onboard is not None:
        return onboard.onboard(load(args.onboard), rows, chosen, work, told)
    if args.default:
        return train.train_default(sorted(args.data), chosen, work, told, about)
    return train.train(rows, chosen, work, members.Settings(seed=args.seed), told, about)


def _log(args: argparse.Namespace) -> Log:
    from router.learning import Log, names_in
    from router.settings import load_policy

    names = names_in(load_policy(args.policy).policy) if args.policy else {}
    return Log(args.from_ledger, args.feedback, names)
