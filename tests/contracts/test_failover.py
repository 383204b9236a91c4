"""A primary dies for good, Sentinel promotes its replica, and the books go on there without counting twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest

from router.ledger.journal_file import Batch
from router.ledger.sums import Tally
from router.ledger.tallying import pack_entries
from router.state.store import RedisStore
from router.state.values import StoreAway
from tests.contracts.stores_servers import redis_server, running, watched
from tests.router.ledger.entries import NOON, entry
from tests.waiting import eventually

pytestmark = pytest.mark.anyio
HOUR = int(NOON) // 3600


def batch(number: int, *ids: str) -> Batch:
    sums = pack_entries([entry(id) for id in ids])
    return Batch("j", number, number, tuple((hour, name, packed) for (hour, name), packed in sums.items()))


async def shipped(store: RedisStore, one: Batch, seconds: float = 45.0) -> int:
    """Ship until the store has answered, as the shipper does."""
    deadline = monotonic() + seconds
    while True:
        try:
            return await store.ship(one)
        except StoreAway:
            assert monotonic() < deadline, "the store never came back"
            await asyncio.sleep(0.1)


async def test_the_books_go_on_at_the_replica_that_sentinel_promotes(tmp_path: Path) -> None:
    binary = redis_server()
    with running(binary, tmp_path / "primary") as primary:
        following = ("--replicaof", "127.0.0.1", str(primary.port))
        with running(binary, tmp_path / "replica", *following) as replica, watched(primary, tmp_path) as url:
            with replica.client() as client:
                eventually(lambda: client.info("replication")["master_link_status"] == "up")
            await asyncio.to_thread(_wait_until_seen, url)
            store = RedisStore(url, prefix=uuid4().hex)
            assert await store.connect()
            assert await store.ship(batch(1, "a", "b")) == 1
            with primary.client() as client:
                assert client.wait(1, 10_000) == 1, "the replica has it"
            primary.kill()
            assert await shipped(store, batch(2, "c")) == 2
            assert await store.ship(batch(1, "a", "b")) == 2, "its acknowledgement was not lost with the primary"
            snapshot = await store.rollups(HOUR - 1, HOUR + 2)
            tallies = [Tally.unpack(packed) for _, name, packed in snapshot.sums if name[0] != "="]
            assert sum(tally.counts["requests"] for tally in tallies) == 3
            with replica.client() as client:
                assert client.info("replication")["role"] == "master"
            await store.aclose()


def _wait_until_seen(url: str) -> None:
    """Until the Sentinel knows the replica, which it asks the primary for every ten seconds."""
    import redis

    port = int(url.partition("//")[2].partition("/")[0].rpartition(":")[2])
    with redis.Redis(port=port) as sentinel:
        eventually(lambda: int(sentinel.sentinel_master("books")["num-slaves"]) == 1)
