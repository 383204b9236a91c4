"""The ``tierwise`` command. Each subcommand is a module with `NAME`, `HELP`, `register` and `run`.

Only the chosen subcommand's module is imported, so that ``--help`` and ``check`` never wait for what serving needs.
Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

COMMANDS = {
    "serve": "run the proxy",
    "demo": "run the main job on simulated backends, with no key, no GPU and no Redis",
    "prepare": "prepare the encoder once: verify, convert, distil",
    "check": "check a policy and print it as it resolved",
    "explain": "explain how a policy routes a prompt, and what would change it",
    "keys": "make, list and revoke the keys that clients send",
    "report": "report cost, saving and latency from the ledger",
    "classify": "classify prompts from standard input",
    "train": "train an artifact from scored rows",
    "evaluate": "evaluate routing on scored rows",
    "advise": "say what fits on a GPU, what it costs at a load, and where owning it pays",
    "bench": "measure a backend as its users feel it, alone or against another",
}


def data_dir(args: argparse.Namespace) -> Path:
    """Where the journal and the embedded store are: ``--data-dir``, ``$TIERWISE_DATA_DIR`` or ``~/.tierwise``."""
    return Path(args.data_dir or os.environ.get("TIERWISE_DATA_DIR") or "~/.tierwise").expanduser()


def cache_dir() -> Path:
    """Where what can be made again is kept (the prepared encoder): ``$TIERWISE_CACHE_DIR``, else the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TIERWISE_CACHE_DIR") or Path(cache) / "tierwise").expanduser()


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Give a subcommand the ``--data-dir`` option that `data_dir` reads."""
    parser.add_argument("--data-dir", metavar="DIR", help="data folder (default: $TIERWISE_DATA_DIR or ~/.tierwise)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="tierwise", description="The cheapest model that will get it right, and books that close."
    )
    parser.add_argument("--version", action="version", version=f"tierwise {version('tierwise')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if arguments[:1] == [name]:
            command = import_module(f"router.cli.{name}")
            command.register(subparser)
    args = parser.parse_args(arguments)
    try:
        return int(command.run(args))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
