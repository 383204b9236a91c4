"""What the books cost, measured: ``python -m tests.benchmarks.books``.

Prints, for entries recorded at a steady rate: CPU time per entry on the event loop and in all, and round trips to the
store per request; for budgets, the latency of a reservation under concurrency; for reports, the time of
``tierwise report`` over the rollups of a million requests, from the store and from a journal.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any

from policies.schema import Budget
from policies.values import Entry
from router.ledger import Ledger
from router.ledger.budgets import Amount, Claim, account
from router.ledger.journal import Journal
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from router.ledger.sums import merge_packed
from router.ledger.tallying import pack_entries
from router.state import open_store
from router.state.store import RedisStore
from tests.router.ledger.entries import entry

TIERS = (("small", "qwen-1", 50), ("small", "qwen-2", 60), ("code", "coder", 200), ("large", "gpt", 900))
DOMAINS = ("math", "code", "law", "chat", "history", "physics", "writing", "business")


def some_entries(count: int, hours: int, seed: int = 1) -> Iterator[Entry]:
    draw, now = random.Random(seed), time.time()
    for number in range(count):
        tier, backend, price = draw.choice(TIERS)
        yield entry(
            f"{seed}-{number}",
            at=now - 3600 * hours * number / count,
            tier=tier,
            backend=backend,
            cost=price * draw.randint(5, 400),
            baseline=900 * 400,
            domain=draw.choice(DOMAINS),
            key=f"k{draw.randint(1, 5)}",
            total_ms=draw.lognormvariate(6, 0.8),
        )


class CountingStore(RedisStore):
    """Counts round trips."""

    trips = 0

    async def _ask(self, *args: Any) -> Any:
        self.trips += 1
        return await super()._ask(*args)


async def recording(url: str, folder: Path, rate: int = 1_000, seconds: int = 8) -> None:
    store = CountingStore(url)
    await store.connect()
    ledger = Ledger(Journal(folder / JOURNAL_NAME), store)
    await ledger.start()
    made = list(some_entries(rate * seconds, 1))
    store.trips, on_loop = 0, 0.0
    began, cpu = time.perf_counter(), time.process_time()
    for tick in range(seconds * 100):
        started = time.perf_counter()
        for one in made[tick * rate // 100 : (tick + 1) * rate // 100]:
            ledger.record(one)
        on_loop += time.perf_counter() - started
        await asyncio.sleep(max(0.0, began + (tick + 1) / 100 - time.perf_counter()))
    cpu, trips = time.process_time() - cpu, store.trips
    await ledger.stop()
    await store.aclose()
    print(
        f"recording at {rate}/s: {on_loop / len(made) * 1e6:.1f} µs each on the loop, "
        f"{cpu / len(made) * 1e6:.0f} µs CPU each in all threads, {trips / len(made):.4f} round trips each"
    )


async def reserving(url: str, clients: int = 64, each: int = 100) -> None:
    store = CountingStore(url)
    await store.connect()
    budget = Budget.model_validate({"name": "b", "per": "day", "usd": "1000000"})
    claims = [Claim(budget, account(budget, "", datetime.now(UTC)), Amount(1_000, 100))]
    waits: list[float] = []

    async def client(number: int) -> None:
        for turn in range(each):
            started = time.perf_counter()
            grant = await store.reserve(f"{number}-{turn}", claims, timedelta(minutes=1))
            waits.append((time.perf_counter() - started) * 1e3)
            assert grant.holds

    began = time.perf_counter()
    await asyncio.gather(*map(client, range(clients)))
    took = time.perf_counter() - began
    cuts = quantiles(waits, n=100)
    print(
        f"reserving, {clients} clients: {len(waits) / took:,.0f} a second, p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms"
    )
    await store.aclose()


async def fill(url: str, folder: Path, count: int = 1_000_000, hours: int = 24) -> None:
    file = JournalFile(folder / JOURNAL_NAME)
    chunk: list[Entry] = []
    packed: dict[tuple[int, str], bytes] = {}
    for number, one in enumerate(some_entries(count, hours), 1):
        chunk.append(one)
        if number % 20_000 == 0:
            packed = merge_packed(packed, pack_entries(chunk))
            chunk = []
    file.write([], time.time(), packed)
    file.close()
    store = RedisStore(url)
    ledger = Ledger(Journal(folder / JOURNAL_NAME), store)
    await store.connect()
    await ledger.start()
    await ledger.stop()
    await store.aclose()
    print(
        f"{count:,} requests over {hours} h make {len(packed):,} sums, {sum(map(len, packed.values())) / 2**20:.1f} MiB"
    )


def reporting(*options: str) -> None:
    command = [sys.executable, "-m", "router.cli", "report", "--since", "2d", "--json", *options]
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    print(f"report {' '.join(options[:1] + options[2:])}: {min(times):.2f} s, best of three, start of Python included")


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with open_store("", folder) as store:
            url = store.url
            await recording(url, folder / "recording")
            await reserving(url)
            (folder / "million").mkdir()
            await store._client.flushall()
            await fill(url, folder / "million")
            for options in (("--redis", url), ("--journal", str(folder / "million" / JOURNAL_NAME))):
                await asyncio.to_thread(reporting, *options, "--by", "tier,model,domain,key")


if __name__ == "__main__":
    asyncio.run(main())
