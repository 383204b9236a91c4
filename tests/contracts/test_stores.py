"""One contract, kept by every store: the embedded Valkey, a Valkey, a Redis 7, and a Redis Cluster of three."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.values import Features, Session, Usage
from router.ledger.journal_file import Batch, JournalFile, Line
from router.ledger.sums import REALS, Tally, held, merge_all, merge_packed, pack_vector, seconds_held, unpack_vector
from router.ledger.tallying import pack_entries
from router.state import snapshot
from router.state.spend import Spend
from router.state.store import RedisStore
from tests.router.ledger.entries import NOON, entry

HOUR = int(NOON) // 3600
pytestmark = pytest.mark.anyio


def batch(first: int, last: int, *ids: str, chapter: str = "j", **amounts: int) -> Batch:
    sums = pack_entries([entry(id, **amounts) for id in ids])  # type: ignore[arg-type]
    return Batch(chapter, first, last, tuple((hour, name, packed) for (hour, name), packed in sums.items()))


async def requests(store: RedisStore) -> int:
    found = await store.rollups(HOUR - 1, HOUR + 2)
    return sum(Tally.unpack(packed).counts["requests"] for _, name, packed in found.sums if name[0] != "=")


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
    found = await store.rollups(HOUR, HOUR + 1)
    ours = merge_all(line for part in parts for line in part.sums if not line[1].startswith("=seen"))
    assert _read(merge_all(found.sums)) == _read(ours)
    total = sum(Tally.unpack(packed).money["cost"] for (_, name), packed in ours.items() if name[0] != "=")
    assert total == sum(9_007_199_254_740_993 - i for i in range(1, 20))


async def test_a_tally_from_before_reals_merges_with_one_that_has_them(store: RedisStore) -> None:
    first, second = batch(1, 1, "a"), batch(2, 2, "b")
    tail = 1 + 8 * len(REALS)
    older = tuple((hour, name, packed if name[0] == "=" else packed[:-tail]) for hour, name, packed in first.sums)
    for sums in (replace(first, sums=older), second):
        await store.ship(sums)
    found = await store.rollups(HOUR, HOUR + 1)
    (packed,) = (packed for _, name, packed in found.sums if name[0] != "=")
    (alone,) = (packed for _, name, packed in second.sums if name[0] != "=")
    assert Tally.unpack(packed).counts["requests"] == 2
    assert Tally.unpack(packed).reals == Tally.unpack(alone).reals
    assert Tally.unpack(alone).reals["saving_squared"] > 0


async def test_what_entries_showed_of_lengths_is_added_up_by_day_and_found_by_others(
    url: str, store: RedisStore
) -> None:
    now = datetime.now(UTC).timestamp()
    made = [
        entry(
            f"r{days}.{i}",
            at=now - 86_400 * days,
            usage=Usage(110, output_tokens=20),
            features=Features(input_tokens=100),
        )
        for days in (0, 1, 40)
        for i in range(3)
    ]
    for seq, one in enumerate(made, 1):
        sums = tuple((hour, name, packed) for (hour, name), packed in pack_entries([one]).items())
        await store.ship(Batch("j", seq, seq, sums))
    other = RedisStore(url, prefix=store._tag.strip("{}"))
    found = {(hour, *name.split("\x1f")[1:3]): unpack_vector(packed) for hour, name, packed in await other.seen(30)}
    await other.aclose()
    today = int(now) // 86_400 * 24
    assert found == {
        (day, *what): sums
        for day in (today - 24, today)
        for what, sums in ((("taken", "qwen"), (330, 300)), (("written", "small"), (60, 3)))
    }
    assert not [name for _, name, _ in (await store.rollups(today - 48, today + 24)).sums if name.startswith("=seen")]


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
    store.remember("talk", session, 3600)
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
    assert store.spent_today() == 0
    await store.tick()
    assert store.spent_today() == Decimal("2.5")


async def test_spend_follows_what_others_ship_late_and_a_store_that_was_wiped(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours that nobody writes to are read once, however often a proxy ticks."""
    now = datetime.now(UTC).replace(minute=30).timestamp()
    zone = "Etc/GMT-14" if datetime.now(UTC).hour < 3 else "UTC"  # where it has been today for three hours at least
    read: list[int] = []

    def counted(spend: Spend, pipe: object, hour: int) -> None:
        read.append(hour)
        asked(spend, pipe, hour)

    asked = Spend._get
    monkeypatch.setattr(Spend, "_get", counted)

    async def spent(chapter: str, number: int, at: float, cost: int) -> tuple[Decimal, int]:
        sums = pack_entries([entry("a", at=at, cost=cost)])
        packed = tuple((hour, name, packed) for (hour, name), packed in sums.items())
        assert await store.ship(Batch(chapter, number, number, packed)) == number
        read.clear()
        await store.tick(chapter)
        assert store.applied_at_tick == {chapter: number}
        return store.spent_today(zone) * 10**9, len(read)

    assert await spent("j", 1, now, 5) == (5, 1)
    assert await spent("j", 2, now, 7) == (12, 1)
    assert await spent("other", 1, now - 2 * 3600, 100) == (112, 2)
    assert await spent("j", 3, now, 1) == (113, 1)
    async for key in store._client.scan_iter(f"{store._tag}*"):
        await store._client.delete(key)
    assert await spent("j", 1, now, 5) == (5, 27)


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


async def test_it_says_up_to_when_sums_are_kept_by_day(store: RedisStore) -> None:
    midnight = NOON - 12 * 3600
    assert await store.whole_days_before() == 0
    for before, known in ((midnight + 7, midnight), (midnight - 7, midnight), (midnight + 90_000, midnight + 86_400)):
        await store.compact(before=before)
        assert await store.whole_days_before() == int(known) // 3600


async def test_what_is_read_while_batches_are_applied_is_of_one_moment(
    url: str, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch has a request in each of two hours that are read far apart: none is seen by half or uncounted."""
    monkeypatch.setattr(snapshot, "HOURS_AT_ONCE", 1)
    shipping, other = True, RedisStore(url, prefix=store._tag.strip("{}"))

    async def ship() -> None:
        seq = 0
        while shipping:
            seq += 1
            at = NOON - 3600 * (seq % 7)
            sums = pack_entries([entry(f"a{seq}", at=at), entry(f"b{seq}", at=NOON - 3600 * 9)])
            await store.ship(Batch("j", seq, seq, tuple((hour, name, packed) for (hour, name), packed in sums.items())))

    task = asyncio.create_task(ship())
    seen = []
    while len(set(seen)) < 5:
        found = await other.rollups(HOUR - 10, HOUR + 1)
        counted = sum(Tally.unpack(packed).counts["requests"] for _, name, packed in found.sums if name[0] != "=")
        assert counted == 2 * found.applied.get("j", 0)
        seen.append(counted)
    shipping = False
    await task
    await other.aclose()


def _overall(sums: tuple[tuple[int, str, bytes], ...]) -> tuple[int, int, int]:
    tallies = [Tally.unpack(packed) for _, name, packed in sums if name[0] != "="]
    seconds = sum(seconds_held(packed) for _, name, packed in sums if name.startswith("=gpu"))
    return sum(t.counts["requests"] for t in tallies), sum(t.money["cost"] for t in tallies), seconds


async def test_a_session_that_another_proxy_changed_is_seen_soon(
    url: str, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.state.store._SESSION_TRUSTED_AMONG_OTHERS", 0.0)
    other = RedisStore(url, prefix=store._tag.strip("{}"))
    for one in (other, store):
        await one.tick()
    store.remember("talk", Session("small", "qwen"), 3600)
    await store.tick()
    other.remember("talk", Session("large", "gpt"), 3600)
    await other.tick()
    assert await store.session("talk", turns=3) == Session("large", "gpt")
    await other.aclose()


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
    found = await store.rollups(HOUR, HOUR + 1)
    tallies = [Tally.unpack(packed) for _, name, packed in found.sums if name[0] != "="]
    assert sum(tally.counts["requests"] for tally in tallies) == written
    assert sum(tally.money["cost"] for tally in tallies) == sum(range(1, written + 1))
    for file in files:
        file.close()
    await store.aclose()
