"""The machine as benchmarks see it: two cores to pin to, processes' CPU time and memory, what is installed."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any


@cache
def cores() -> tuple[int, int]:
    """The core for what is measured, and the one for upstream and load; the same one where there is only one.

    Asked once: `pin` narrows what is allowed from then on.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def pin(core: int) -> None:
    """Run this process, and all that it starts from now on, on one core."""
    os.sched_setaffinity(0, {core})


def unpin(pids: Iterable[int]) -> None:
    """Let processes, all their threads, run on both cores."""
    move(pids, *cores())


def move(pids: Iterable[int], *to: int) -> None:
    """Let processes, all their threads, run on these cores from now on."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), to)


def pinned(core: int) -> Callable[[], None]:
    """A ``preexec_fn`` for `subprocess.Popen` that pins the child."""
    return lambda: os.sched_setaffinity(0, {core})


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its threads, to the nanosecond: its clock as clock_getcpuclockid(3) names it."""
    return time.clock_gettime((~pid << 3) | 2)


def cpu_of(pids: Iterable[int]) -> float:
    """CPU time of several processes."""
    return sum(map(cpu_seconds, pids))


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def own_and_file_mib(pid: int) -> tuple[float, float]:
    """Resident memory of a process in two parts: what is its own, and pages of files, which it may share."""
    status = Path(f"/proc/{pid}/status").read_text()
    own, files = (int(status.split(f"{part}:")[1].split()[0]) / 1024 for part in ("RssAnon", "RssFile"))
    return own, files


def proportional_mib(pid: int) -> float:
    """Memory of a process with shared pages split among those that share them."""
    return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0]) / 1024


def describe() -> dict[str, Any]:
    """What figures depend on."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    packages = ("tierwise", "uvicorn", "uvloop", "httptools", "starlette", "orjson", "redis")
    return {
        "cpu": model.partition(":")[2].strip() or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        **{name: version(name) for name in packages},
    }


def _commit() -> str:
    here = Path(__file__).parent
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"
