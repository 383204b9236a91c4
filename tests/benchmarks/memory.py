"""Whether memory stays flat: ``python -m tests.benchmarks.memory [--requests 1000000]``.

Resident memory of a worker once the encoder is warm, and after every tenth of many requests, of which every fifth tenth
is ``auto`` with other texts each time and the others ``tier/small``: how much is its own, how much are pages of files
(libraries, mostly) that the kernel may take back and workers share, and its share of the whole where those are split
among who uses them. Beside it the encoder's process and the store, which all workers share. Then the same for two and
for four workers: the mean of a worker's, and what all processes take together, the store apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from statistics import mean

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
    texts, numbers = prompts(PACKAGED), count()
    with tempfile.TemporaryDirectory() as folder, subjects.upstream() as url:
        with subjects.tierwise(url, Path(folder), part="full") as subject:
            _note(found, "warm", subject)
            for tenth in range(1, 11):
                left = args.requests // 10
                while left > 0:
                    if tenth % 5:
                        wires = bodies("tier/small", 5000)
                    else:
                        wires = classified("auto", [f"{text} [{next(numbers)}]" for text in texts])
                    result = load.drive(subject.url, wires, 16, 0, requests=min(left, 5000))
                    left -= result.requests
                    if result.failures:
                        raise RuntimeError(f"{len(result.failures)} requests failed: {result.failures[0][:200]!r}")
                _note(found, f"after {args.requests * tenth // 10:,} requests", subject)
        for workers in (2, 4):
            with subjects.tierwise(url, Path(folder), "--workers", f"{workers}", part="full") as subject:
                load.drive(subject.url, classified("auto", texts), 16, 0, requests=1000 * workers)
                _note(found, f"{workers} workers, each", subject)
    found.print()
    found.write(args.json)


def _note(found: figures.Figures, moment: str, subject: subjects.Subject) -> None:
    workers, everybody = subject.workers(), [pid for pid in subject.pids if pid not in subject.helpers]
    own, files = (mean(part) for part in zip(*map(machine.own_and_file_mib, workers), strict=True))
    measured = {
        "resident MiB": own + files,
        "its own": own,
        "of files": files,
        "proportional": mean(map(machine.proportional_mib, workers)),
        "encoder": sum(map(machine.resident_mib, subject.encoders)),
        "proportional, encoder": sum(map(machine.proportional_mib, subject.encoders)),
        "together": sum(map(machine.resident_mib, everybody)),
        "proportional, together": sum(map(machine.proportional_mib, everybody)),
        "store": sum(map(machine.resident_mib, subject.helpers)),
    }
    found.add(moment, **measured)
    print(moment, {name: round(value, 1) for name, value in measured.items()}, flush=True)


if __name__ == "__main__":
    main()
