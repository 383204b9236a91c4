"""Whether memory stays flat: ``python -m tests.benchmarks.memory [--requests 1000000]``.

Resident memory of a worker once the encoder is warm, and after every tenth of many requests, of which every fifth tenth
is ``auto`` with other texts each time and the others ``tier/small``: how much is its own, how much are pages of files
(libraries, mostly) that the kernel may take back and workers share, and its share of the whole where those are split
among who uses them. Then the same for two workers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import count
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
    texts, numbers = prompts(PACKAGED), count()
    with tempfile.TemporaryDirectory() as folder, subjects.upstream() as url:
        with subjects.tierwise(url, Path(folder), part="full") as subject:
            worker = next(pid for pid in subject.pids if pid not in subject.helpers)
            _note(found, "warm", worker, subject.helpers)
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
                _note(found, f"after {args.requests * tenth // 10:,} requests", worker, subject.helpers)
        with subjects.tierwise(url, Path(folder), "--workers", "2", part="full") as subject:
            load.drive(subject.url, classified("auto", texts), 16, 0, requests=2000)
            *_, one, other = (pid for pid in subject.pids if pid not in subject.helpers)
            for number, pid in enumerate((one, other)):
                _note(found, f"two workers, number {number + 1}", pid, ())
    found.print()
    found.write(args.json)


def _note(found: figures.Figures, moment: str, worker: int, helpers: Sequence[int]) -> None:
    own, files = machine.own_and_file_mib(worker)
    measured = {"resident MiB": own + files, "its own": own, "of files": files}
    measured["proportional"] = machine.proportional_mib(worker)
    if helpers:
        measured["store MiB"] = sum(map(machine.resident_mib, helpers))
    found.add(moment, **measured)
    print(moment, {name: round(value, 1) for name, value in measured.items()}, flush=True)


if __name__ == "__main__":
    main()
