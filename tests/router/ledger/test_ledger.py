"""Several proxies on one store: GPUs billed once, one shipper at a time, everything shipped at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from policies.money import GpuClock
from policies.schema import LedgerSettings
from policies.values import Features, Usage
from router.baseline import Baseline
from router.ledger import Ledger, ledger, shipper
from router.ledger.journal import Journal
from router.ledger.journal_file import JournalFile
from router.ledger.ledger import JOURNAL_NAME
from router.reports import report, window
from router.reports.sources import JournalSource, read_store
from router.state.embedded import EmbeddedStore
from router.state.store import RedisStore
from tests.router.ledger.entries import entry
from tests.router.test_baseline import MATH, NOW, POLICY, answered
from tests.waiting import until

pytestmark = pytest.mark.anyio
ALL = range(2**40)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    embedded = EmbeddedStore(tmp_path / "shared")
    yield embedded.start()
    embedded.stop()


@asynccontextmanager
async def proxy(url: str, folder: Path, **settings: object) -> AsyncIterator[tuple[Ledger, RedisStore]]:
    store = RedisStore(url)
    await store.connect()
    made = Ledger(Journal(folder / "journal.sqlite"), store, every=0.02, **settings)  # type: ignore[arg-type]
    await made.start()
    try:
        yield made, store
    finally:
        await made.stop()
        await store.aclose()


async def test_proxies_share_a_gpu_and_its_bill_closes_to_the_nano_dollar(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_METER_SECONDS", 0.05)
    rate = Decimal("3600.000000007")
    began = time.time()
    async with proxy(url, tmp_path / "a") as (one, store), proxy(url, tmp_path / "b") as (other, _):
        clocks = [GpuClock(rate, began), GpuClock(rate, began)]
        one.meter([("gpu-1", clocks[0])])
        other.meter([("gpu-1", clocks[1])])
        for clock in clocks:
            clock.start("r", time.time(), 500)
        await until(lambda: all(clock.elsewhere for clock in clocks))
        for clock in clocks:
            clock.others(500, time.time())
        since = time.time()
        paid = [clock.pending for clock in clocks]
        await asyncio.sleep(0.5)
        shares = [clock.stop("r", time.time()) for clock in clocks]
        passed = Decimal(time.time() - since) * 10**9
        for share, before in zip(shares, paid, strict=True):
            assert float(share - before) == pytest.approx(float(passed / 2), rel=0.1), "each pays its half"
        one.record(entry("a", at=time.time(), cost=shares[0], backend="gpu-1"))
        other.record(entry("b", at=time.time(), cost=shares[1], backend="gpu-1"))
    asked = window("24h", None, datetime.now(UTC))
    store = RedisStore(url)
    (bill,) = report(await read_store(store, asked.hours), asked).gpus
    await store.aclose()
    assert bill.paid_nanos == sum(shares)
    assert bill.billed_nanos == int(rate * 10**9) * bill.seconds // 3600
    assert bill.paid_nanos + bill.idle_nanos == bill.billed_nanos
    assert 1 <= bill.seconds <= time.time() - began + 2, "two proxies hold the GPU, and it is billed once"


async def test_one_worker_ships_for_all_and_another_takes_over(url: str, tmp_path: Path) -> None:
    async with proxy(url, tmp_path) as (second, store):
        async with proxy(url, tmp_path) as (first, _):
            for i in range(10):
                first.record(entry(f"a{i}"))
                second.record(entry(f"b{i}"))
            await until(lambda: not first.backlog and not second.backlog)
        for i in range(10):
            second.record(entry(f"c{i}"))
        journal = JournalFile(tmp_path / "journal.sqlite")
        await until(lambda: len(list(journal.bodies(0, 2e9))) == 30)
        async with asyncio.timeout(20):
            while sum(await store.applied([chapter.name for chapter in journal.chapters()])) < journal.last_seq():
                await store.tick()
        journal.close()


async def test_upkeep_folds_and_retains_while_it_runs(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper, "_UPKEEP_SECONDS", 0.0)
    keep = LedgerSettings.model_validate({"entries": "1h"})
    async with proxy(url, tmp_path, keep=keep) as (made, _):
        made.record(entry("old", at=time.time() - 7_200))
        made.record(entry("new", at=time.time()))
        journal = JournalFile(tmp_path / "journal.sqlite")
        await until(lambda: len(list(journal.bodies(0, 2e9))) == 1)
        journal.close()


async def test_stopping_at_once_ships_everything(url: str, tmp_path: Path) -> None:
    async with proxy(url, tmp_path) as (made, _):
        for i in range(500):
            made.record(entry(f"r{i}", at=time.time()))
    asked = window("1h", None, datetime.now(UTC))
    store = RedisStore(url)
    assert report(await read_store(store, asked.hours), asked).total.requests == 500
    await store.aclose()


async def test_all_proxies_and_one_that_starts_again_learn_the_same_from_the_books(url: str, tmp_path: Path) -> None:
    """Each answers for one tier only, so that neither knows a ratio by itself."""
    asked, folders, now = Features(input_tokens=1_000), (tmp_path / "a", tmp_path / "b"), time.time()
    async with proxy(url, folders[0]) as (one, _), proxy(url, folders[1]) as (other, _):
        for i in range(200):
            small, large = Usage(900, output_tokens=100 + i % 7), Usage(1_080, output_tokens=300 + i % 5)
            one.record(answered("small", small, asked, id=f"a{i}", at=now))
            other.record(answered("large", large, asked, id=f"b{i}", at=now))
    store = RedisStore(url)
    books = [
        await store.seen(30),
        [line for folder in folders for line in JournalSource(folder / JOURNAL_NAME).sums(ALL)],
    ]
    alone = JournalSource(folders[0] / JOURNAL_NAME).sums(ALL)
    await store.aclose()
    found = []
    for sums in (*books, alone):
        baseline = Baseline()
        baseline.learn(sums)
        found.append(
            baseline.counterfactual(POLICY, asked, MATH, NOW, ("small", "mini"), Usage(500, output_tokens=200))
        )
    assert found[0] == found[1], "the store's books and the journals' teach the same"
    assert 2.5 < found[0].output_ratio < 3
    assert not found[0].assumed
    assert found[2].assumed, "who had only its own entries would know nothing"
