"""What classifying costs a request: ``python -m tests.benchmarks.classify [--prompts FILE]``.

The same mixed prompts as ``tier/small``, which asks no classifier, and as ``auto``: with the first look alone, and with
a second look wherever it could change the choice. What the second look costs is shown by the share of requests that had
one, counted from the journal, and the event loop's lag while the encoder is kept busy by how late ``/healthz`` answers.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import perf_counter, sleep

import httpx
import orjson

from router.ledger.ledger import JOURNAL_NAME
from tests.benchmarks import figures, load, machine, subjects

PACKAGED = subjects.ROOT / "classifiers" / "data" / "domain_prompts.jsonl"
_SAMPLES_PER_SECOND = 50


def prompts(file: Path, count: int = 2000) -> list[str]:
    """The prompts of a JSON-lines file, packed or not, spread over all of it."""
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        found = [row["prompt"] for row in map(json.loads, lines) if row.get("prompt")]
    return found[:: max(1, len(found) // count)][:count]


def bodies(model: str, texts: Sequence[str]) -> list[bytes]:
    """One request for each prompt."""
    return [orjson.dumps({"model": model, "messages": [{"role": "user", "content": text}]}) for text in texts]


def looks(folder: Path, since: float) -> tuple[float, float, float]:
    """Of requests journalled after a row: shares with a second look and with a late one, median ms of such looks."""
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as journal:
        rows = [json.loads(body) for (body,) in journal.execute("SELECT body FROM entries WHERE number > ?", (since,))]
    signals = [(row["signals"], row["classify_ms"]) for row in rows if row["signals"]]
    second = [ms for signal, ms in signals if signal["look"] == "full"]
    late = [ms for signal, ms in signals if any("late" in why for why in signal["missing"])]
    count = max(1, len(signals))
    return len(second) / count, len(late) / count, load.quantile(second, 0.5) if second else 0.0


def newest(folder: Path) -> int:
    """The number of the newest entry, once the journal has nothing left to write."""
    sleep(0.3)
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as journal:
        return int(journal.execute("SELECT coalesce(max(number), 0) FROM entries").fetchone()[0])


class Lag:
    """How late ``/healthz``, which does nothing, is answered: what a request waits for the event loop."""

    def __init__(self, url: str) -> None:
        self._url = url.removesuffix("/v1") + "/healthz"
        self.delays: list[float] = []
        self._stop = False
        self._thread = Thread(target=lambda: asyncio.run(self._watch()))

    def __enter__(self) -> Lag:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()

    async def _watch(self) -> None:
        async with httpx.AsyncClient() as client:
            while not self._stop:
                began = perf_counter()
                await client.get(self._url)
                self.delays.append(perf_counter() - began)
                await asyncio.sleep(1 / _SAMPLES_PER_SECOND)


def main(arguments: Sequence[str] | None = None) -> None:
    options = figures.parser(__doc__, rounds=5, seconds=3)
    options.add_argument("--prompts", type=Path, default=PACKAGED, help="JSON lines with a prompt each, or .gz of them")
    args = options.parse_args(arguments)
    machine.pin(machine.cores()[1])
    found, texts = figures.Figures("classify"), prompts(args.prompts)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url, home = stack.enter_context(subjects.upstream()), Path(folder)
        full = stack.enter_context(subjects.tierwise(url, _folder(home / "full"), part="full"))
        first = stack.enter_context(
            subjects.tierwise(url, _folder(home / "first"), more="classifier: {deadline: 0ms}", part="full")
        )
        running = [
            replace(full, name="tier/small"),
            replace(first, name="auto, first look", model="auto"),
            replace(full, name="auto", model="auto"),
        ]
        for number in range(args.rounds):
            for subject in figures.rotated(running, number):
                where = home / ("first" if subject.url == first.url else "full")
                found.add(subject.name, **measure(subject, where, texts, args.seconds))
    found.print("tier/small")
    found.write(args.json)


def measure(subject: subjects.Subject, folder: Path, texts: Sequence[str], seconds: float) -> dict[str, float]:
    """One round of one subject."""
    wires = bodies(subject.model, texts)
    load.drive(subject.url, wires, 8, 0, requests=100)
    since, began = newest(folder), machine.cpu_of(subject.pids)
    with Lag(subject.url) as lag:
        result = load.drive(subject.url, wires, 8, seconds)
    cpu = machine.cpu_of(subject.pids) - began
    if result.failures:
        raise RuntimeError(f"{subject.name} failed {len(result.failures)} requests: {result.failures[0][:200]!r}")
    measured = {
        "CPU µs a request": cpu / result.requests * 1e6,
        "p50 ms at 8": result.quantile_ms(0.5),
        "p99 ms at 8": result.quantile_ms(0.99),
        "requests/s at 8": result.requests / result.seconds,
        "lag p50 ms": load.quantile(lag.delays, 0.5) * 1e3,
        "lag p99 ms": load.quantile(lag.delays, 0.99) * 1e3,
    }
    if subject.model == "auto":
        newest(folder)
        second, late, took = looks(folder, since)
        measured |= {"second looks": second, "late ones": late, "second look p50 ms": took}
    return measured


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


if __name__ == "__main__":
    main()
