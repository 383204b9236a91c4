"""Subjects measured side by side, in interleaved rounds: what `overhead` and `streaming` have in common."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks import figures, machine, subjects

Measure = Callable[[subjects.Subject, float, dict[int, float]], dict[str, float]]
"""One round of one subject, from how many seconds each measurement takes, and what the round found without a proxy."""


def run(benchmark: str, about: str | None, measure: Measure, arguments: Sequence[str] | None = None) -> None:
    """Measure everything as the command line says, print a table of ratios to the floor, and write it where asked."""
    options = figures.parser(about, rounds=5, seconds=2)
    options.add_argument("--with", dest="peers", default="", help=f"peers, of: {', '.join(subjects.PEERS)}")
    args = options.parse_args(arguments)
    machine.pin(machine.cores()[1])
    found = figures.Figures(benchmark)
    peers = [name for name in args.peers.split(",") if name]
    with tempfile.TemporaryDirectory() as folder, subjects.side_by_side(Path(folder), peers) as running:
        direct, *others = running
        found.versions = {subject.name: subject.version for subject in running}
        for number in range(args.rounds):
            bare: dict[int, float] = {}
            for subject in (direct, *figures.rotated(others, number)):
                found.add(subject.name, **measure(subject, args.seconds, bare))
    found.print("floor")
    found.write(args.json)
