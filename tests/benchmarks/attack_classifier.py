"""How far fixed texts around a question move routing: ``python -m tests.benchmarks.attack_classifier``.

For each style of gadget and each defence, the share of prompts that would go small as they are and go large with the
gadget before or after them, when a quarter of the clean prompts goes large; then how often honest rewordings flip the
choice either way. ``--data FILE…`` (the shared data) adds what the defences cost: heads are fitted on four fifths of
the rows, and routing is compared on the fifth that they never saw. ``--json FILE`` writes every figure.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from classifiers import defence, gadgets, lexical, members, metrics, prepare
from classifiers.artifact import DEFAULT
from classifiers.attack import (
    LARGE_SHARE,
    TARGETS,
    Gains,
    Reading,
    Remembered,
    driven_up,
    flipped,
    raw,
    readings_of,
    searched,
)  # fmt: skip
from classifiers.classifier import AT_STAKE, READ_AGAIN, Classifier
from classifiers.datasets import Row, read
from classifiers.features import from_text
from classifiers.heads import sigmoid
from policies.decide import decide
from policies.document import load
from policies.values import Features, Signals, View
from router.cli import cache_dir

EVERYDAY = Path(__file__).parents[1] / "classifiers" / "data" / "everyday_prompts.jsonl"
PAIRS = (("mixtral-8x7b-instruct", "gpt-4-1106-preview"), ("7b-class", "50b-class"))
_UNBOUNDED = np.full(len(lexical.LEXICAL), np.inf, np.float32)
POLICY = """
version: 1
tiers:
  small:
    backends:
      - {name: s, kind: simulated, model: acme-7b, cost: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.1}}
  large:
    backends:
      - {name: l, kind: simulated, model: gpt-4-1106-preview, cost: {input_usd_per_mtok: 10, output_usd_per_mtok: 30}}
baseline: large
objective: {keep_quality: 0.9}
"""


def main() -> int:
    """Print the tables; exit code 1 where a published style drives more than a tenth up with every defence on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=120, help="how many everyday prompts are attacked")
    parser.add_argument("--artifact", type=Path, default=DEFAULT, help="the artifact to attack")
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="scored rows, for what the defences cost")
    parser.add_argument("--work", type=Path, help="keep vectors here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    both = prepare.load(cache_dir())
    full: Any = Remembered(both.full)
    classifier = Classifier.load(args.artifact, TARGETS, static=both.static, full=full, baseline="large")
    prompts = [row.features.text for row in read([EVERYDAY])]
    prompts = random.Random(1).sample(prompts, min(args.prompts, len(prompts)))
    readings = dict(readings_of(classifier, uncapped=uncapped))
    styles = {**gadgets.STYLES, **searched(classifier)}
    figures = {name: driven_up(reading, prompts, styles) for name, reading in readings.items()}
    flips = {name: flipped(reading, prompts) for name, reading in readings.items()}
    _print(f"{len(prompts)} everyday prompts, {LARGE_SHARE:.0%} large as they are: driven up, mean / worst", figures)
    _print("flipped by rewording, either way", flips)
    policies = dict(by_policy(classifier))
    for name, reading in policies.items():
        print(f"keep_quality 0.9, {name}: {reading(prompts).mean():.0%} of clean prompts go large")
    chosen = {name: driven_up(reading, prompts, styles, 0.5) for name, reading in policies.items()}
    _print("driven up where the policy keeps 90% of the large tier's quality, mean / worst", chosen)
    cost = {} if not args.data else price(args.data, {"static": both.static, "full": both.full}, args.work)
    for name, row in cost.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if args.json:
        args.json.write_text(
            json.dumps({"driven_up": figures, "flipped": flips, "kept": chosen, "cost": cost}, indent=1) + "\n"
        )
    return int(max(figures["full: all"][style][0] for style in gadgets.STYLES) > 0.1)


def uncapped(reading: Reading) -> Reading:
    """The same with lexical facts as they are counted, without the cap on each one's pull."""

    def read_uncapped(texts: Sequence[str]) -> Gains:
        with patch.multiple(lexical, _LOW=-_UNBOUNDED, _HIGH=_UNBOUNDED):
            assert np.abs(lexical.lexical(raw("= " * 99))).max() > 1.0
            return reading(texts)

    return read_uncapped


def by_policy(classifier: Classifier) -> Iterator[tuple[str, Reading]]:
    """The choices of a policy that keeps 90% of the large tier's quality, by the full look: 1 is large."""
    loaded, view = load(POLICY, file="attack.yaml", environ={}), View(datetime(2026, 1, 1, tzinfo=UTC))

    def choices(reads: Callable[[str], Features], classify: Callable[..., list[Signals]]) -> Reading:
        def read_all(texts: Sequence[str]) -> Gains:
            batch = [reads(text) for text in texts]
            tiers = (decide(loaded, one, s, view).tier for one, s in zip(batch, classify(batch), strict=True))
            return np.array([float(tier == "large") for tier in tiers])

        return read_all

    yield "none", choices(raw, classifier.read)
    yield "all", choices(from_text, classifier.classify)


def price(paths: Sequence[Path], encoders: Mapping[str, Any], work: Path | None) -> dict[str, dict[str, float]]:
    """What setting aside costs on rows that the heads never saw: APGR, and what moves, by look and pair of models."""
    rows = list(read(sorted(paths)))
    cores = [(row, core) for row in rows for core in defence.cores(row.features.last_text)]
    rest = [Row(f"{row.id}#{at}", from_text(core), task=row.task) for at, (row, core) in enumerate(cores)]
    data = members.corpus([*rows, *rest], encoders, work or cache_dir() / "attack")
    origin = {row.id: at for at, row in enumerate(rows)}
    folds = members.fold_of([row.id for row in rows], 0)
    folds = np.where(folds == 0, 0, -1)
    folds = np.concatenate([folds, folds[[origin[row.id] for row, _ in cores]]])
    held = members.held_out(data, folds, members.Settings())
    of: dict[int, list[int]] = {}
    for at, (row, _) in enumerate(cores):
        of.setdefault(origin[row.id], []).append(len(rows) + at)
    found = {}
    for pair in PAIRS:
        y = data.rows.scores[: len(rows), [data.models.index(model) for model in pair]]
        tested = np.flatnonzero((folds[: len(rows)] == 0) & np.isfinite(y).all(axis=1))
        gains = {}
        for look in ("static", "full"):
            scale, shift = members.calibrate(held[look].logits[tested], data.rows.scores[tested])
            p = sigmoid(held[look].logits * scale + shift)[:, [data.models.index(model) for model in pair]]
            gains[look] = (p[:, 1] - p[:, 0]).astype(float)
        for look, gain in gains.items():
            kept = np.array([_kept(at, of.get(int(at), []), gain, gains["static"], look) for at in tested])
            small, large = y[tested, 0], y[tested, 1]
            found[f"{look}, {pair[0]} to {pair[1]}"] = {
                "rows": float(len(tested)),
                "set aside": float((kept != gain[tested]).mean()),
                "APGR without": metrics.apgr(gain[tested], small, large),
                "APGR with": metrics.apgr(kept, small, large),
            }
    return found


def _kept(row: int, cores: Sequence[int], gain: Gains, static: Gains, look: str) -> float:
    """The gain of a row as `Classifier.classify` chooses it among the row and its cores."""
    if not cores or abs(gain[row]) <= AT_STAKE:
        return float(gain[row])
    if look == "full":
        cores = sorted(cores, key=lambda at: abs(static[at]))[:READ_AGAIN]
    least = min(cores, key=lambda at: abs(gain[at]))
    return float(gain[least] if abs(gain[least]) < abs(gain[row]) else gain[row])


def _print(title: str, figures: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    print(title)
    names = list(next(iter(figures.values())))
    print(f"{'':>26}" + "".join(f"{name:>22}" for name in figures))
    for name in names:
        cells = (figures[column][name] for column in figures)
        print(f"{name:>26}" + "".join(f"{f'{first:.0%} / {second:.0%}':>22}" for first, second in cells))


if __name__ == "__main__":
    sys.exit(main())
