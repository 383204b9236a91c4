"""The store goes away in every way it can; requests go on, and afterwards the books say what happened, exactly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from policies.schema import Budget
from policies.values import Session
from router.ledger import Ledger
from router.ledger.budgets import Amount, Claim, account
from router.ledger.journal import Journal
from router.ledger.journal_file import JournalFile
from router.ledger.sums import Tally
from router.state.embedded import EmbeddedStore
from router.state.store import DATA_PATH_SECONDS, RESERVE_SECONDS, RedisStore
from tests.contracts.stores_servers import Server, redis_server, running, valkey_server
from tests.router.ledger.entries import NOON, entry
from tests.waiting import at_once, eventually, until

pytestmark = pytest.mark.anyio
HOUR = int(NOON) // 3600


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with running(redis_server() if request.param == "redis" else valkey_server(), tmp_path / "server") as server:
        yield server


@asynccontextmanager
async def books(url: str, folder: Path, every: float = 0.02) -> AsyncIterator[tuple[Ledger, RedisStore]]:
    store = RedisStore(url)
    await store.connect()
    ledger = Ledger(Journal(folder / "journal.sqlite"), store, every=every)
    await ledger.start()
    try:
        yield ledger, store
    finally:
        await ledger.stop()
        await store.aclose()


async def counted(url: str) -> tuple[int, int]:
    """Requests and nano-dollars in the store."""
    store = RedisStore(url)
    snapshot = await store.rollups(HOUR, HOUR + 1)
    await store.aclose()
    tallies = [Tally.unpack(packed) for _, name, packed in snapshot.sums if name[0] != "="]
    return sum(t.counts["requests"] for t in tallies), sum(t.money["cost"] for t in tallies)


def record(ledger: Ledger, first: int, last: int) -> None:
    for i in range(first, last):
        ledger.record(entry(f"r{i}", cost=i))


async def test_a_store_that_is_killed_and_comes_back_is_told_everything_once(server: Server, tmp_path: Path) -> None:
    async with books(server.url, tmp_path) as (ledger, store):
        record(ledger, 0, 100)
        await until(lambda: ledger.backlog == 0 and store.ready)
        for round in range(1, 4):
            record(ledger, round * 100, round * 100 + 50)
            server.kill()
            record(ledger, round * 100 + 50, round * 100 + 100)
            await until(lambda: not store.ready)
            assert ledger.problem
            server.start()
            await until(lambda: store.ready)
    assert await counted(server.url) == (400, sum(range(400)))


async def test_a_wiped_store_is_told_everything_again(server: Server, tmp_path: Path) -> None:
    async with books(server.url, tmp_path) as (ledger, _):
        record(ledger, 0, 100)
        await until(lambda: ledger.backlog == 0)
        with server.client() as client:
            client.flushall()
        record(ledger, 100, 150)
    assert await counted(server.url) == (150, sum(range(150)))


async def test_an_idle_proxy_notices_that_the_store_was_wiped(server: Server, tmp_path: Path) -> None:
    async with books(server.url, tmp_path) as (ledger, _):
        record(ledger, 0, 100)
        with server.client() as client:
            await until(lambda: client.keys("*rollup*"))
            client.flushall()
            await until(lambda: client.keys("*rollup*"))
        assert await counted(server.url) == (100, sum(range(100)))


async def test_a_paused_store_keeps_no_request_waiting(server: Server, tmp_path: Path) -> None:
    async with books(server.url, tmp_path) as (ledger, store):
        await until(lambda: store.ready)
        claim, patience = _claim("fail_open"), timedelta(minutes=1)
        server.pause()
        async with asyncio.timeout(DATA_PATH_SECONDS + RESERVE_SECONDS + 1.0):  # a busy machine comes late itself
            assert await store.session("talk", turns=3) is None, "one request waits for the bounds"
            assert not (await store.reserve("r", [claim], patience)).exceeded
        assert not store.ready
        for i in range(20):
            assert at_once(store.session(f"talk{i}", turns=3)) is None, "and no other waits at all"
            assert not at_once(store.reserve(f"r{i}", [claim], patience)).exceeded
            store.spent_today()
            store.remember(f"talk{i}", Session("small", "qwen"), 3600)
            record(ledger, i, i + 1)
        assert not store.ready
        closed = await store.reserve("r", [_claim("fail_closed")], timedelta(minutes=1))
        assert closed.exceeded == ("b",)
        assert closed.retry_after > 0
        shared = [await store.reserve(f"s{i}", [_claim("local_share", 10**8)], timedelta(minutes=1)) for i in range(12)]
        assert [bool(grant.exceeded) for grant in shared] == 10 * [False] + 2 * [True], "one proxy's share is all of it"
        server.resume()
        await until(lambda: store.ready)
        other = RedisStore(server.url)
        with server.client() as client:
            await until(lambda: client.keys("*session:talk7"))
        await other.connect()
        assert await other.session("talk7", turns=2) == Session("small", "qwen"), "what was remembered is saved late"
        await other.aclose()
    assert await counted(server.url) == (20, sum(range(20)))


def _claim(store_away: str, nanos: int = 1) -> Claim:
    budget = Budget.model_validate({"name": "b", "per": "day", "usd": "1", "store_away": store_away})
    return Claim(budget, account(budget, "", datetime.now(UTC)), Amount(nanos, 1))


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["out of memory", "read-only"],
)
async def test_a_store_that_takes_no_writes_is_away_until_it_does(
    server: Server, tmp_path: Path, spoil: tuple[str, ...], mend: tuple[str, ...]
) -> None:
    async with books(server.url, tmp_path) as (ledger, store):
        record(ledger, 0, 50)
        await until(lambda: ledger.backlog == 0 and store.ready)
        with server.client() as client:
            client.execute_command(*spoil)
            record(ledger, 50, 100)
            await until(lambda: not store.ready)
            await until(lambda: ledger.backlog > 0)
            client.execute_command(*mend)
            await until(lambda: store.ready)
    assert await counted(server.url) == (100, sum(range(100)))


async def test_a_store_that_evicts_keys_is_warned_of(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for setting, warned in (("allkeys-lru", True), ("noeviction", False)):
        with server.client() as client:
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", setting)
        caplog.clear()
        store = RedisStore(server.url)
        assert await store.connect()
        await store.aclose()
        assert ("evicts keys when full" in caplog.text) == warned


async def test_a_journal_set_back_from_a_backup_goes_on_in_a_new_chapter(server: Server, tmp_path: Path) -> None:
    async with books(server.url, tmp_path) as (ledger, _):
        record(ledger, 0, 10)
    backup = (tmp_path / "journal.sqlite").read_bytes()
    async with books(server.url, tmp_path) as (ledger, _):
        record(ledger, 10, 20)
    (tmp_path / "journal.sqlite").write_bytes(backup)
    async with books(server.url, tmp_path) as (ledger, _):
        await until(lambda: ledger.backlog == 0)
        record(ledger, 20, 30)
    assert await counted(server.url) == (30, sum(range(30))), "also what the backup had forgotten"
    async with books(server.url, tmp_path) as (ledger, _):
        with server.client() as client:
            client.flushall()
        record(ledger, 30, 31)
    expected = [*range(10), *range(20, 31)]
    assert await counted(server.url) == (len(expected), sum(expected)), "all that the journal has"


_WORKER = """
import asyncio, sys
from pathlib import Path
from router.ledger import Ledger
from router.ledger.journal import Journal
from router.state import open_store
from tests.router.ledger.entries import entry

async def main(folder, worker):
    async with open_store("", folder) as store:
        journal = Journal(folder / "journal.sqlite")
        ledger = Ledger(journal, store, every=0.01)
        await ledger.start()
        for i in range(10**9):
            for j in range(20):
                ledger.record(entry(f"{worker}-{i * 20 + j}", cost=7))
            await asyncio.to_thread(journal.flush)
            print((i + 1) * 20, flush=True)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def test_killed_workers_lose_nothing_that_was_committed_and_count_nothing_twice(tmp_path: Path) -> None:
    """Workers share a folder and are killed at any moment; so is the embedded store; then the last one cleans up."""
    told = 0
    for generation in range(3):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(tmp_path), f"{generation}.{i}"], stdout=subprocess.PIPE, text=True
            )
            for i in range(2)
        ]
        for worker in workers:
            assert worker.stdout is not None
            for _ in range(15):
                line = worker.stdout.readline()
        if generation == 1:
            store_pid = EmbeddedStore(tmp_path)._client().info("server")["process_id"]
            os.kill(store_pid, signal.SIGKILL)
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            rest = worker.stdout.read().split()
            told += int(rest[-1] if rest else line)
            worker.stdout.close()
    asyncio.run(_check_after_kills(tmp_path, told))


async def _check_after_kills(folder: Path, told: int) -> None:
    embedded = EmbeddedStore(folder)
    assert embedded.running() or embedded.start()
    url = embedded.start()
    async with books(url, folder) as (ledger, _):
        await until(lambda: ledger.backlog == 0)
    file = JournalFile(folder / "journal.sqlite", create=False)
    entries = len(list(file.bodies(0, NOON + 1)))
    file.close()
    assert entries >= told
    assert await counted(url) == (entries, 7 * entries)
    embedded.stop()
    assert not embedded.running()


async def test_the_embedded_store_is_started_again_when_it_dies(tmp_path: Path) -> None:
    embedded = EmbeddedStore(tmp_path)
    url = embedded.start()
    store = RedisStore(url, revive=embedded.ensure)
    await store.connect()
    ledger = Ledger(Journal(tmp_path / "journal.sqlite"), store, every=0.02)
    await ledger.start()
    record(ledger, 0, 50)
    await until(lambda: embedded._client().keys("*rollup*"))
    os.kill(embedded._client().info("server")["process_id"], signal.SIGKILL)
    record(ledger, 50, 100)
    await until(lambda: not store.ready)
    await until(lambda: store.ready)
    await ledger.stop()
    assert await counted(url) == (100, sum(range(100)))
    await store.aclose()
    embedded.stop()
    eventually(lambda: not embedded.running())
