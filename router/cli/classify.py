"""``tierwise classify``: prompts on standard input, signals on standard output, one JSON object a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from policies.values import KEPT
from router.cli import cache_dir

if TYPE_CHECKING:
    from classifiers.classifier import Classifier
    from classifiers.encoder import Encoder
    from classifiers.prepare import Device
    from classifiers.static import StaticEncoder

BATCH = 64


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--artifact", type=Path, metavar="DIR", help="trained artifact (default: the one shipped)")
    which.add_argument("--policy", type=Path, metavar="FILE", help="predict success for this policy's tiers")
    parser.add_argument("--look", choices=("lexical", "static", "full"), default="full", help="how hard to look")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder with the encoder's weights")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Classify every line; 1 when the artifact, the encoder, or a line is not to be used."""
    from classifiers.artifact import ArtifactError
    from classifiers.datasets import DataError
    from classifiers.encoder import EncoderUnavailable

    try:
        classifier = _classifier(args)
        for line in _signals(classifier, args.look):
            sys.stdout.buffer.write(line)
        sys.stdout.flush()
    except (ArtifactError, DataError, EncoderUnavailable, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"tierwise classify: {error}", file=sys.stderr)
        return 1
    return 0


def add_device(parser: argparse.ArgumentParser) -> None:
    """Give a subcommand the ``--device`` option."""
    where = "where the full encoder runs (default: on a GPU where there is one and the extra torch)"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=where)


def encoders(look: str, weights: Path | None, device: Device = "auto") -> tuple[StaticEncoder | None, Encoder | None]:
    """The encoders that a look needs, prepared first where they are not yet. Raises `EncoderUnavailable`."""
    if look == "lexical":
        return None, None
    from rich.console import Console

    from classifiers import prepare
    from router.cli.prepare import prepare_with_progress

    prepare_with_progress(cache_dir(), Console(stderr=True), weights=weights)
    if look == "static":
        return prepare.load_static(cache_dir()), None
    both = prepare.load(cache_dir(), device=device, weights=weights)
    return both.static, both.full


def _classifier(args: argparse.Namespace) -> Classifier:
    static, full = encoders(args.look, args.weights, args.device)
    if args.policy is not None:
        from router.settings import load_policy
        from router.signals import load_classifier

        return load_classifier(load_policy(args.policy).policy, static, full)
    from classifiers.artifact import default_artifact, load
    from classifiers.classifier import Classifier, Target

    artifact = load(args.artifact or default_artifact())
    return Classifier(artifact, [Target(model, model) for model in artifact.models], static=static, full=full)


def _signals(classifier: Classifier, look: Any) -> Iterator[bytes]:
    import orjson

    from classifiers.datasets import read_lines

    rows = read_lines(sys.stdin.buffer, "standard input")
    while batch := list(islice(rows, BATCH)):
        started = perf_counter()
        found = classifier.classify([row.features for row in batch], look=look)
        each = (perf_counter() - started) * 1e3 / len(batch)
        for row, signals in zip(batch, found, strict=True):
            yield orjson.dumps(
                {
                    "id": row.id,
                    "domain": signals.domain,
                    "domain_probs": {k: round(v, 5) for k, v in signals.domain_probs.items()},
                    "complexity": signals.complexity,
                    "band": signals.band,
                    "success": {k: round(s.probability, 5) for k, s in signals.success.items()},
                    "standard_error": {k: round(s.standard_error, 5) for k, s in signals.success.items()},
                    "shared_error": {k: round(s.shared, 5) for k, s in signals.success.items()},
                    "enough": {
                        k: {f"{keep:g}": share for keep, share in zip(KEPT, s.enough, strict=True)}
                        for k, s in signals.success.items()
                        if s.enough
                    },
                    "language": row.features.language,
                    "ood": signals.ood,
                    "look": signals.look,
                    "missing": signals.missing,
                    "classify_ms": round(each, 4),
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
