"""One contract, kept by every store: the embedded Valkey, a Valkey, a Redis 7, and a Redis Cluster of three."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.schema import Budget
from policies.values import Session, Usage
from router.ledger.budgets import Amount, Claim, Grant, account, charges
from router.ledger.journal_file import Batch, JournalFile, Line
from router.ledger.sums import (
    Tally,
    held,
    merge_all,
    merge_packed,
    pack_entries,
    pack_vector,
    seconds_held,
    unpack_vector,
)
from router.reports.budgets import standings
from router.state.embedded import EmbeddedStore
from router.state.store import RedisStore
from tests.contracts.stores_servers import (
    SERVERS,
    redis_server,
    running,
    running_cluster,
    running_sentinel,
    running_with_tls,
    valkey_server,
)
from tests.router.ledger.entries import NOON, entry

HOUR = int(NOON) // 3600
pytestmark = pytest.mark.anyio
_SPECIAL = {"cluster": running_cluster, "sentinel": running_sentinel, "tls": running_with_tls}


@pytest.fixture(scope="module", params=SERVERS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tw")))
        if request.param == "embedded":
            embedded = EmbeddedStore(folder)
            stack.callback(embedded.stop)
            yield embedded.start()
        elif request.param in _SPECIAL:
            yield stack.enter_context(_SPECIAL[request.param](folder))
        else:
            binary = redis_server() if request.param == "redis" else valkey_server()
            yield stack.enter_context(running(binary, folder)).url


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, prefix=uuid4().hex)
    assert await store.connect()
    yield store
    await store.aclose()


def batch(first: int, last: int, *ids: str, chapter: str = "j", **amounts: int) -> Batch:
    sums = pack_entries([entry(id, **amounts) for id in ids])  # type: ignore[arg-type]
    return Batch(chapter, first, last, tuple((hour, name, packed) for (hour, name), packed in sums.items()))


async def requests(store: RedisStore) -> int:
    snapshot = await store.rollups(HOUR - 1, HOUR + 2)
    return sum(Tally.unpack(packed).counts["requests"] for _, name, packed in snapshot.sums if name[0] != "=")


async def test_a_batch_is_applied_whole_and_once(store: RedisStore) -> None:
    assert await store.ship(batch(1, 1, "a", "b")) == 1
    assert await store.ship(batch(1, 1, "a", "b")) == 1
    assert await requests(store) == 2


async def test_a_batch_that_overlaps_or_leaves_a_gap_changes_nothing_and_says_where_to_go_on(store: RedisStore) -> None:
    assert await store.ship(batch(1, 3, "a")) == 3
    assert await store.ship(batch(2, 4, "b")) == 3
    assert await store.ship(batch(5, 6, "b")) == 3
    assert await requests(store) == 1
    assert await store.ship(batch(4, 4, "b")) == 4
    assert await requests(store) == 2
    assert await store.applied(["j", "unknown"]) == [4, 0]


async def test_what_happens_to_keys_is_read_on_from_where_one_was(store: RedisStore) -> None:
    assert await store.key_events("", 10) == []
    for event in (b"one", b"two", b"three"):
        await store.tell_key(event)
    events = await store.key_events("", 2)
    assert [event for _, event in events] == [b"one", b"two"]
    assert [event for _, event in await store.key_events(events[-1][0], 2)] == [b"three"]


async def test_chapters_do_not_get_in_each_others_way(store: RedisStore) -> None:
    await store.ship(batch(1, 1, "a", chapter="one"))
    await store.ship(batch(1, 1, "b", chapter="two"))
    assert await requests(store) == 2
    assert (await store.rollups(HOUR, HOUR + 1)).applied == {"one": 1, "two": 1}


async def test_the_store_merges_as_we_do_to_the_last_nano_dollar(store: RedisStore) -> None:
    parts = [batch(i, i, f"r{i}", cost=9_007_199_254_740_993 - i, total_ms=3.0**i) for i in range(1, 20)]
    for part in parts:
        await store.ship(part)
    snapshot = await store.rollups(HOUR, HOUR + 1)
    ours = merge_all(line for part in parts for line in part.sums)
    assert _read(merge_all(snapshot.sums)) == _read(ours)
    total = sum(Tally.unpack(packed).money["cost"] for (_, name), packed in ours.items() if name[0] != "=")
    assert total == sum(9_007_199_254_740_993 - i for i in range(1, 20))


def _read(sums: dict[tuple[int, str], bytes]) -> dict[tuple[int, str], object]:
    """Sums as what they mean: how they are split into dollars and the rest may differ."""
    return {
        (hour, name): unpack_vector(packed) if name[0] == "=" else Tally.unpack(packed)
        for (hour, name), packed in sums.items()
    }


async def test_damaged_sums_are_refused_whole(store: RedisStore) -> None:
    from router.state.values import StoreAway

    await store.ship(batch(1, 1, "a"))
    good = batch(2, 2, "b").sums
    cell = next(name for _, name, _ in good if name[0] != "=")
    with pytest.raises(StoreAway, match="different kinds"):
        await store.ship(Batch("j", 2, 2, (*good, (HOUR, cell, pack_vector([1])))))
    assert await requests(store) == 1
    assert await store.ship(batch(2, 2, "b")) == 2


async def test_recent_entries_are_the_newest(store: RedisStore) -> None:
    sums = batch(1, 1, "a").sums
    await store.ship(Batch("j", 1, 1, sums, recent=(b"first", b"second")))
    await store.ship(Batch("j", 1, 1, sums, recent=(b"first", b"second")))
    assert await store.recent() == [b"second", b"first"]
    assert await store.recent(1) == [b"second"]


async def test_a_session_is_found_by_another_proxy(url: str, store: RedisStore) -> None:
    session = Session("large", "gpt", 0.75, 2)
    store.remember("talk", session, timedelta(hours=1))
    assert await store.session("talk") == session
    await store.tick()
    other = RedisStore(url, prefix=store._tag.strip("{}"))
    assert await other.session("talk", turns=1) is None, "not asked before the first tick, nor for a new conversation"
    await other.connect()
    assert await other.session("talk", turns=2) == session
    assert await other.session("unknown", turns=5) is None
    await other.aclose()


async def test_spend_since_midnight_is_what_was_shipped(store: RedisStore) -> None:
    now = datetime.now(UTC).timestamp()
    sums = pack_entries([entry("a", at=now, cost=2_500_000_000), entry("b", at=now - 86_400 * 2, cost=7)])
    await store.ship(Batch("j", 1, 1, tuple((hour, name, packed) for (hour, name), packed in sums.items())))
    assert await store.spent_today() == 0
    await store.tick()
    assert await store.spent_today() == Decimal("2.5")


async def test_proxies_tell_each_other_of_gpu_work_and_of_resting_backends(url: str, store: RedisStore) -> None:
    other = RedisStore(url, prefix=store._tag.strip("{}"))
    store.exchange_weights({"gpu-1": 700})
    store.rest("flaky", 30)
    await store.tick()
    await other.tick()
    assert other.exchange_weights({}) == {"gpu-1": 700}
    assert store.exchange_weights({}) == {}
    assert set(other.rests()) == {"flaky"}
    await other.aclose()


async def test_old_days_are_compacted_into_one_and_nothing_is_lost(store: RedisStore) -> None:
    midnight = NOON - 12 * 3600
    recorded = [entry(f"r{i}", at=midnight + i * 1_000, cost=i) for i in range(86)]
    sums = merge_packed(pack_entries(recorded), held("gpu", 10**9, midnight + 3_000, midnight + 9_000))
    await store.ship(Batch("j", 1, 1, tuple((hour, name, packed) for (hour, name), packed in sums.items())))
    first = int(midnight) // 3600
    assert await store.compact(before=midnight + 86_399) == 0, "the day has not ended by then"
    before = await store.rollups(first, first + 24)
    assert await store.compact(before=midnight + 86_400) > 0
    assert await store.compact(before=midnight + 86_400) == 0
    after = await store.rollups(first, first + 24)
    assert len(after.sums) < len(before.sums) / 10
    assert _overall(after.sums) == _overall(before.sums) == (86, sum(range(86)), 6_001)
    assert {hour for hour, name, _ in after.sums if not name.startswith("=gpu")} == {first}


def _overall(sums: tuple[tuple[int, str, bytes], ...]) -> tuple[int, int, int]:
    tallies = [Tally.unpack(packed) for _, name, packed in sums if name[0] != "="]
    seconds = sum(seconds_held(packed) for _, name, packed in sums if name.startswith("=gpu"))
    return sum(t.counts["requests"] for t in tallies), sum(t.money["cost"] for t in tallies), seconds


# budgets


def claim(limit_usd: str | None = "1", *, nanos: int = 10**8, subject: str = "", **settings: object) -> Claim:
    budget = Budget.model_validate({"name": "b", "per": "month", "usd": limit_usd} | settings)
    return Claim(budget, account(budget, subject, datetime.now(UTC)), Amount(nanos, 100))


def settle(grant: Grant, id: str, cost: int, seq: int) -> Batch:
    """What a journal ships for an entry that was granted."""
    made = entry(id, at=datetime.now(UTC).timestamp(), cost=cost, usage=Usage(60, output_tokens=20))
    sums = merge_packed(pack_entries([made]), charges(grant, made))
    return Batch("j", seq, seq, tuple((hour, name, packed) for (hour, name), packed in sums.items()), grant.holds)


async def test_what_costs_nothing_is_held_and_given_back_too(store: RedisStore) -> None:
    """A backend without a price holds no dollars; giving back none of them is still giving back the tokens."""
    free = claim(None, nanos=0, tokens=150)
    granted = await store.reserve("r1", [free], timedelta(minutes=1))
    assert (await store.reserve("r2", [free], timedelta(minutes=1))).exceeded == ("b",)
    await store.ship(settle(granted, "r1", 0, 1))
    freed = replace(free, amount=Amount(0, 70))
    assert not (await store.reserve("r3", [freed], timedelta(minutes=1))).exceeded, "80 of 150 tokens are spent"


async def test_a_window_that_rolls_frees_what_was_spent_as_it_leaves(store: RedisStore) -> None:
    """$0.4 was spent 23 h ago, $0.5 an hour ago; beside them $0.2 fits when the older part has left the 24 hours."""
    budget, now = Budget.model_validate({"name": "day", "per": "24h", "usd": "1"}), datetime.now(UTC)
    for seq, (hours, cost) in enumerate(((26, 5 * 10**8), (23, 4 * 10**8), (1, 5 * 10**8)), 1):
        then = Claim(budget, account(budget, "", now - timedelta(hours=hours)), Amount(cost, 0))
        granted = await store.reserve(f"past{seq}", [then], timedelta(minutes=1))
        assert not granted.exceeded, "what is older than a window does not count in it"
        await store.ship(settle(granted, f"past{seq}", cost, seq))
    wanted = Claim(budget, account(budget, "", now), Amount(2 * 10**8, 0))
    refused = await store.reserve("r1", [wanted], timedelta(minutes=1))
    assert refused.exceeded == ("day",)
    leaves = (now - timedelta(hours=23)).replace(minute=0, second=0, microsecond=0) + timedelta(hours=25)
    assert refused.retry_after == pytest.approx(leaves.timestamp() - time.time(), abs=5)
    later = Claim(budget, account(budget, "", leaves), wanted.amount)
    assert not (await store.reserve("r2", [later], timedelta(minutes=1))).exceeded
    sums = await store.accounts()
    (standing,) = standings(sums, UTC, [budget], now)
    assert (standing.nanos, standing.requests) == (9 * 10**8, 2)
    assert standing.share == pytest.approx(0.9)


async def test_concurrent_clients_never_spend_above_a_window_that_rolls(store: RedisStore) -> None:
    limited = [claim("1", per="1h", nanos=10**8) for _ in range(64)]
    answers = await asyncio.gather(
        *(store.reserve(f"r{i}", [one], timedelta(minutes=1)) for i, one in enumerate(limited))
    )
    assert sum(not answer.exceeded for answer in answers) == 10


async def test_concurrent_clients_never_spend_above_a_budget(store: RedisStore) -> None:
    await store.reserve("warm", [claim(name="other")], timedelta(minutes=1))
    asked = [store.reserve(f"r{i}", [claim()], timedelta(minutes=1)) for i in range(64)]
    grants = await asyncio.gather(*asked)
    granted = [grant for grant in grants if not grant.exceeded]
    assert len(granted) == 10
    assert all(grant.holds for grant in granted)
    assert {grant.exceeded for grant in grants if grant.exceeded} == {("b",)}
    assert all(0 < grant.retry_after <= 1 for grant in grants if grant.exceeded), "others hold it, for a moment"


async def test_what_is_not_used_is_given_back_once_and_what_is_spent_stays(store: RedisStore) -> None:
    first = await store.reserve("r1", [claim(nanos=10**9)], timedelta(minutes=1))
    assert (await store.reserve("r2", [claim(nanos=1)], timedelta(minutes=1))).exceeded == ("b",)
    settlement = settle(first, "r1", 4 * 10**8, 1)
    assert await store.ship(settlement) == 1
    assert await store.ship(settlement) == 1, "a second delivery"
    second = await store.reserve("r3", [claim(nanos=6 * 10**8)], timedelta(minutes=1))
    assert not second.exceeded
    await store.ship(settle(second, "r3", 6 * 10**8, 2))
    third = await store.reserve("r4", [claim(nanos=1)], timedelta(minutes=1))
    assert third.exceeded == ("b",)
    assert third.retry_after == pytest.approx(claim().account.until.timestamp() - datetime.now(UTC).timestamp(), abs=5)


async def test_accounts_say_what_was_spent(store: RedisStore) -> None:
    grant = await store.reserve("r1", [claim(subject="", name="one")], timedelta(minutes=1))
    await store.reserve("r2", [claim(name="held, not spent")], timedelta(minutes=1))
    await store.ship(settle(grant, "r1", 42, 1))
    ((hour, name, packed),) = await store.accounts()
    assert (hour, name) == (grant.claims[0].account.hour, grant.claims[0].account.field)
    assert unpack_vector(packed) == (0, 42, 80, 1)


async def test_all_claims_are_granted_or_none(store: RedisStore) -> None:
    wide, narrow = claim("100", name="wide"), claim("0.05", name="narrow", scope="tier", subject="large")
    refused = await store.reserve("r1", [wide, narrow], timedelta(minutes=1))
    assert refused.exceeded == ("narrow/large",)
    assert refused.holds == ()
    assert not (
        await store.reserve("r2", [claim("100", name="wide", nanos=100 * 10**9)], timedelta(minutes=1))
    ).exceeded


async def test_tokens_and_requests_are_limits_too(store: RedisStore) -> None:
    per_token, per_request = claim(None, tokens=250, name="t"), claim(None, requests=2, name="r")
    answers = [await store.reserve(f"r{i}", [per_token, per_request], timedelta(minutes=1)) for i in range(3)]
    assert [grant.exceeded for grant in answers] == [(), (), ("t", "r")]


async def test_apart_from_the_store_proxies_share_what_was_left(url: str, store: RedisStore) -> None:
    other = RedisStore(url, prefix=store._tag.strip("{}"))
    await other.tick()
    await store.tick()
    shared = claim(store_away="local_share", nanos=3 * 10**8)
    assert not (await store.reserve("r0", [shared], timedelta(minutes=1))).exceeded
    assert not (await store.reserve("r1", [shared], timedelta(minutes=1))).exceeded
    store._problem = "away"
    left = [
        await store.reserve(f"r{i}", [claim(store_away="local_share", nanos=10**8)], timedelta(minutes=1))
        for i in range(4)
    ]
    assert [grant.exceeded for grant in left] == [(), (), ("b",), ("b",)], "two proxies, 0.4 dollars left"
    await other.aclose()


async def test_a_session_that_another_proxy_changed_is_seen_soon(
    url: str, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.state.store._SESSION_TRUSTED_AMONG_OTHERS", 0.0)
    other = RedisStore(url, prefix=store._tag.strip("{}"))
    for one in (other, store):
        await one.tick()
    store.remember("talk", Session("small", "qwen"), timedelta(hours=1))
    await store.tick()
    other.remember("talk", Session("large", "gpt"), timedelta(hours=1))
    await other.tick()
    assert await store.session("talk", turns=3) == Session("large", "gpt")
    await other.aclose()


async def test_a_reservation_that_nobody_settles_expires(store: RedisStore) -> None:
    assert not (await store.reserve("dead", [claim(nanos=10**9)], timedelta(seconds=1))).exceeded
    async with asyncio.timeout(5):
        attempt = 0
        while (await store.reserve(f"r{attempt}", [claim(nanos=10**9)], timedelta(minutes=1))).exceeded:
            attempt += 1


# any order of events


events = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(["write", "ship", "lose the answer", "repeat", "wipe", "new chapter"]))
)


@settings(max_examples=15, deadline=None)
@given(events)
def test_any_interleaving_of_writes_losses_repeats_and_wipes_conserves_every_counter(
    url: str, events: list[tuple[int, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_play(url, Path(folder), [*events, (0, "ship"), (1, "ship")]))


def _batches(file: JournalFile, applied: dict[str, int]) -> list[Batch]:
    found = (file.batch_after(chapter, applied) for chapter in file.pending(applied))
    return [batch for batch in found if batch is not None]


async def _play(url: str, folder: Path, events: list[tuple[int, str]]) -> None:
    store = RedisStore(url, prefix=uuid4().hex)
    files = [JournalFile(folder / f"{i}.sqlite") for i in range(2)]
    believed: list[dict[str, int]] = [{}, {}]
    shipped: list[Batch] = []
    written, wiped = 0, False
    for who, event in events:
        file = files[who]
        if event == "write":
            written += 1
            file.write([Line(entry(f"r{written}", cost=written))], NOON)
        elif event == "repeat" and shipped and not wiped:
            await store.ship(shipped[written % len(shipped)])
        elif event == "wipe":
            for key in await store._client.keys(f"{store._tag}*"):
                await store._client.delete(key)
            wiped = True
        elif event == "new chapter":
            file.begin_chapter()
        elif event == "lose the answer":
            for batch in _batches(file, believed[who]):
                shipped.append(batch)
                await store.ship(batch)
        else:
            for _ in range(2):
                for batch in _batches(file, believed[who]):
                    shipped.append(batch)
                    believed[who][batch.chapter] = await store.ship(batch)
                names = [chapter.name for chapter in file.chapters()]
                believed[who] = dict(zip(names, await store.applied(names), strict=True))
    snapshot = await store.rollups(HOUR, HOUR + 1)
    tallies = [Tally.unpack(packed) for _, name, packed in snapshot.sums if name[0] != "="]
    assert sum(tally.counts["requests"] for tally in tallies) == written
    assert sum(tally.money["cost"] for tally in tallies) == sum(range(1, written + 1))
    for file in files:
        file.close()
    await store.aclose()
