"""How long things take to begin: ``python -m tests.benchmarks.startup [--with litellm]``.

Seconds from the process's start to its first answer (200) to a chat completion, on a prepared cache, and the wall time
of the commands that people wait for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from router.launch import running_proxy
from tests.benchmarks import figures, machine, subjects

COMMANDS = {
    "tierwise --help": ("--help",),
    "tierwise check": ("check", "{policy}"),
    "tierwise report --help": ("report", "--help"),
}


def timed(command: Sequence[str]) -> float:
    """Seconds that a command takes on the measured core."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "router.cli", *command], cwd=subjects.ROOT, check=True, stdout=subprocess.DEVNULL,
        preexec_fn=machine.pinned(machine.cores()[0]),
    )  # fmt: skip
    return time.monotonic() - began


def full_look(policy: Path, folder: Path) -> float:
    """Seconds from a start to the full look."""
    began = time.monotonic()
    with running_proxy(policy, folder, "--log-level", "error") as proxy:
        proxy.wait_until_ready(part="full")
        return time.monotonic() - began


def main(arguments: Sequence[str] | None = None) -> None:
    options = figures.parser(__doc__, rounds=5, seconds=0)
    options.add_argument("--with", dest="peers", default="", help=f"peers, of: {', '.join(subjects.PEERS)}")
    args = options.parse_args(arguments)
    machine.pin(machine.cores()[1])
    found = figures.Figures("startup")
    with tempfile.TemporaryDirectory() as temporary, subjects.upstream() as url:
        home = Path(temporary)
        for number in range(args.rounds):
            with subjects.floor(url) as subject:
                found.add("floor", seconds=subject.start_s)
            with subjects.tierwise(url, _folder(home / f"{number}")) as subject:
                found.add("tierwise, first 200", seconds=subject.start_s)
            policy = home / f"{number}" / "policy.yaml"
            found.add("tierwise, full look", seconds=full_look(policy, home / f"{number}"))
            for name in filter(None, args.peers.split(",")):
                with subjects.peer(name, url, home) as subject:
                    found.versions[name] = subject.version
                    found.add(name, seconds=subject.start_s)
            for name, words in COMMANDS.items():
                found.add(name, seconds=timed([word.format(policy=policy) for word in words]))
    found.print()
    found.write(args.json)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


if __name__ == "__main__":
    main()
