"""Whether memory stays flat: ``python -m tests.benchmarks.memory [--requests 1000000]``.

Resident memory of a worker after its start, after the encoder is warm, and after every tenth of many requests to
``tier/small`` and ``auto`` in turn; with two workers, how much of theirs is shared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import figures, load, machine, subjects
from tests.benchmarks.classify import PACKAGED, prompts
from tests.benchmarks.classify import bodies as classified
from tests.benchmarks.overhead import bodies


def main(arguments: Sequence[str] | None = None) -> None:
    options = figures.parser(__doc__, rounds=1, seconds=0)
    options.add_argument("--requests", type=int, default=1_000_000)
    args = options.parse_args(arguments)
    machine.pin(machine.cores()[1])
    found = figures.Figures("memory")
    with tempfile.TemporaryDirectory() as folder, subjects.upstream() as url:
        with subjects.tierwise(url, Path(folder), part="full") as subject:
            worker = next(pid for pid in subject.pids if pid not in subject.helpers)
            _note(found, "warm", worker, subject.helpers)
            kinds = (bodies("tier/small", 5000), classified("auto", prompts(PACKAGED)))
            for tenth in range(1, 11):
                result = load.drive(subject.url, kinds[tenth % 5 == 0], 16, 0, requests=args.requests // 10)
                if result.failures:
                    raise RuntimeError(f"{len(result.failures)} requests failed: {result.failures[0][:200]!r}")
                _note(found, f"after {args.requests * tenth // 10:,} requests", worker, subject.helpers)
        with subjects.tierwise(url, Path(folder), "--workers", "2", part="full") as subject:
            load.drive(subject.url, bodies("auto"), 16, 0, requests=500)
            for number, pid in enumerate(pid for pid in subject.pids if pid not in subject.helpers):
                _note(found, f"two workers, process {number}", pid, ())
    found.print()
    found.write(args.json)


def _note(found: figures.Figures, moment: str, worker: int, helpers: Sequence[int]) -> None:
    measured = {"resident MiB": machine.resident_mib(worker), "proportional MiB": machine.proportional_mib(worker)}
    if helpers:
        measured["store MiB"] = sum(map(machine.resident_mib, helpers))
    found.add(moment, **measured)


if __name__ == "__main__":
    main()
