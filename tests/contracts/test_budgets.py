"""Budgets under concurrency, on every store: what is reserved, given back and refused, and until when."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.schema import Budget
from policies.values import Usage
from router.ledger.budgets import Amount, Claim, Grant, account, charges
from router.ledger.journal_file import Batch
from router.ledger.sums import merge_packed, pack_vector, unpack_vector
from router.ledger.tallying import pack_entries
from router.reports.budgets import standings
from router.state import reservations
from router.state.connect import close_client
from router.state.spares import LASTS
from router.state.store import RedisStore
from tests.router.ledger.entries import entry

pytestmark = pytest.mark.anyio


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
    waits = [grant.retry_after for grant in grants if grant.exceeded]
    assert all(wait is not None and 58 < wait <= 60 for wait in waits), "others hold it, for a minute at most"


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


async def test_what_is_asked_again_because_its_answer_was_lost_is_held_once(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cluster's client does when a connection breaks. Held twice and given back once, it is held for good."""
    ask = store._reservations._script.run

    async def lost(*args: Any) -> Any:
        await ask(*args)
        return await ask(*args)

    monkeypatch.setattr(store._reservations._script, "run", lost)
    granted = await store.reserve("r1", [claim()], timedelta(minutes=1))
    assert not granted.exceeded
    monkeypatch.undo()
    await store.ship(settle(granted, "r1", 0, 1))
    assert not (await store.reserve("r2", [claim(nanos=10**9)], timedelta(minutes=1))).exceeded


async def test_a_refused_request_is_granted_when_it_was_told_to_come_back_and_not_before(store: RedisStore) -> None:
    """What a dead proxy never settles expires, and a refused request is told when."""
    await store.reserve("dead", [claim(nanos=6 * 10**8)], timedelta(seconds=3))
    await store.reserve("slow", [claim(nanos=4 * 10**8)], timedelta(seconds=60))
    refused = await store.reserve("r1", [claim(nanos=5 * 10**8)], timedelta(minutes=1))
    assert refused.retry_after is not None
    assert 1.5 < refused.retry_after <= 3
    await asyncio.sleep(refused.retry_after - 0.5)
    again = await store.reserve("r2", [claim(nanos=5 * 10**8)], timedelta(minutes=1))
    assert again.retry_after == pytest.approx(0.5, abs=0.3)
    await asyncio.sleep(0.5)
    assert not (await store.reserve("r3", [claim(nanos=5 * 10**8)], timedelta(minutes=1))).exceeded


async def test_what_is_more_than_a_budget_allows_is_never_granted_and_told_no_time(store: RedisStore) -> None:
    fits, too_much = claim("1", name="wide", nanos=10**9), claim("1", name="b", nanos=10**9 + 1)
    for i in range(2):
        assert (await store.reserve(f"r{i}", [fits, too_much], timedelta(minutes=1))).retry_after is None


UNIT = 10**8
_part = st.tuples(
    st.integers(0, 26), st.integers(0, 6), st.lists(st.tuples(st.integers(0, 6), st.integers(10, 100_000)), max_size=3)
)


@settings(max_examples=25)
@given(
    st.sampled_from(["24h", "month"]), st.lists(_part, max_size=4), st.integers(1, 20), st.integers(1, 8),
    st.integers(1, 22),
)  # fmt: skip
def test_the_wait_is_the_earliest_after_which_the_claim_fits(
    url: str, per: str, parts: list[tuple[int, int, list[tuple[int, int]]]], limit: int, requests: int, amount: int
) -> None:
    """Against a model that knows only what counts at a moment, and tries every moment at which something goes."""
    asyncio.run(_wait_as_modelled(url, per, parts, limit, requests, amount))


async def _wait_as_modelled(
    url: str, per: str, parts: list[tuple[int, int, list[tuple[int, int]]]], limit: int, requests: int, amount: int
) -> None:
    store, now = RedisStore(url, prefix=uuid4().hex), datetime.now(UTC)
    set_to = {"name": "b", "per": per, "usd": limit * UNIT / 1e9, "requests": requests}
    assert await store.connect()
    budget, wide = (Budget.model_validate(set_to | more) for more in ({}, {"usd": 10**6, "requests": 10**6}))
    going: list[tuple[float, int]] = []
    for seq, (ago, spent, holds) in enumerate(parts, 1):
        then = account(budget, "", now - (timedelta(hours=ago) if per == "24h" else timedelta()))
        sums = ((then.hour, then.field, pack_vector((0, spent * UNIT, 7, 1))),)
        await store.ship(Batch("j", seq, seq, sums))
        going.append((then.ends.timestamp(), spent))
        for held, seconds in holds:
            taken = Claim(wide, then, Amount(held * UNIT, 7))
            await store.reserve(uuid4().hex, [taken], timedelta(seconds=seconds))
            going.append((min(then.ends.timestamp(), time.time() + seconds), held))
    here = account(budget, "", now)
    going = [(gone, units) for gone, units in going if gone > here.ends.timestamp() - 25 * 3600 or per == "month"]
    grant = await store.reserve("r", [Claim(budget, here, Amount(amount * UNIT, 1))], timedelta(minutes=1))
    await store.aclose()
    asked = time.time()

    def fits(at: float) -> bool:
        left = [units for gone, units in going if gone > at]
        return sum(left) + amount <= limit and len(left) + 1 <= requests

    earliest = next((at for at in sorted([asked, *(gone for gone, _ in going)]) if fits(at)), None)
    assert bool(grant.exceeded) == (earliest is None or earliest > asked)
    if grant.exceeded:
        assert grant.retry_after == (None if earliest is None else pytest.approx(earliest - asked, abs=3))


class Clock:
    """What the proxies' `time.monotonic` says; it only moves when it is moved."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def spares_of(store: RedisStore) -> int:
    """Units that the store has put aside for this proxy and that it has not taken."""
    put = (stock._spares for stock in store._reservations._stocks.values())
    return sum(spares.left * spares.amounts[0][0] for spares in put if spares is not None) // UNIT


def held_by(grant: Grant) -> int:
    ((_, member),) = grant.holds
    return int(member.split(":")[-3]) // UNIT


_step = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("settle"), st.integers(0, 1), st.integers(0, 3)),
    st.tuples(st.just("wait"), st.integers(0, 1), st.integers(1, 200)),
)


@settings(max_examples=20)
@given(st.integers(20, 400), st.lists(_step, min_size=30, max_size=80))
def test_spare_reservations_overrun_nothing_and_are_in_nobodys_way_for_long(
    url: str, limit: int, steps: list[tuple[str, int, int]]
) -> None:
    asyncio.run(_spares_as_modelled(url, limit, steps))


async def _spares_as_modelled(url: str, limit: int, steps: list[tuple[str, int, int]]) -> None:
    """Two proxies; the model knows what was granted and what was spent, and reads how much is put aside for each."""
    prefix, clock, minute = uuid4().hex, Clock(), timedelta(minutes=1)
    proxies = [RedisStore(url, prefix=prefix) for _ in range(2)]
    granted: list[list[Grant]] = [[], []]
    spent, seqs = 0, [0, 0]
    with patch.object(reservations, "monotonic", clock):
        for proxy in proxies:
            assert await proxy.connect()
        for number, (what, who, units) in enumerate(steps):
            clock.now += 0.02
            held = sum(held_by(grant) for grants in granted for grant in grants)
            if what == "ask":
                before = spares_of(proxies[who])
                grant = await proxies[who].reserve(f"r{number}", [claim(str(limit / 10), nanos=units * UNIT)], minute)
                if grant.exceeded:
                    assert spares_of(proxies[who]) == 0, "its own are given back before it is refused"
                    assert spent + held + spares_of(proxies[1 - who]) + units > limit, "no phantom"
                    continue
                granted[who].append(grant)
                held += held_by(grant)
                if spares_of(proxies[who]) > before:
                    assert 4 * (held + sum(map(spares_of, proxies))) <= limit - spent, "only far from the limit"
            elif what == "settle" and granted[who]:
                grant, seqs[who] = granted[who].pop(0), seqs[who] + 1
                cost = min(units, grant.claims[0].amount.nanos // UNIT)
                batch = settle(grant, f"e{number}", cost * UNIT, seqs[who])
                await proxies[who].ship(replace(batch, chapter=f"j{who}"))
                spent += cost
            elif what == "wait":
                clock.now += units / 50
                await proxies[who].tick()
            outstanding = sum(held_by(grant) for grants in granted for grant in grants)
            assert spent + outstanding + sum(map(spares_of, proxies)) <= limit
        for proxy in proxies:
            await proxy._reservations.close()
        outstanding = sum(held_by(grant) for grants in granted for grant in grants)
        rest = limit - spent - outstanding
        if rest:
            whole = await proxies[0].reserve("rest", [claim(str(limit / 10), nanos=rest * UNIT)], minute)
            assert not whole.exceeded, "nothing but what was granted is held"
        assert (await proxies[1].reserve("more", [claim(str(limit / 10), nanos=UNIT)], minute)).exceeded
        for proxy in proxies:
            await proxy.aclose()


async def test_who_asks_often_asks_the_store_seldom(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1,000 requests a second, and never above the budget: 64 at once, until it is spent to the last."""
    clock, calls = Clock(), 0
    ask = store._reservations._script.run

    async def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return await ask(*args)

    monkeypatch.setattr(reservations, "monotonic", clock)
    monkeypatch.setattr(store._reservations._script, "run", counted)
    for number in range(2_000):
        clock.now += 0.001
        granted = await store.reserve(f"r{number}", [claim("1000")], timedelta(minutes=1))
        assert not granted.exceeded
        if number % 500 == 499:
            await store.tick()
    assert calls < 60
    grants = []
    while len(grants) < 8_000 and not any(grant.exceeded for grant in grants[-64:]):
        clock.now += 0.05
        asked = [store.reserve(f"s{len(grants) + i}", [claim("1000")], timedelta(minutes=1)) for i in range(64)]
        grants += await asyncio.gather(*asked)
    assert sum(not grant.exceeded for grant in grants) == 8_000


@pytest.mark.parametrize("change", [{"name": "key", "subject": "k2"}, {"name": "key", "limit_usd": "9"}])
async def test_nobody_is_refused_for_what_this_proxy_put_aside_for_others(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Another key's request counts against the same budget; so does the same one's under a new policy."""
    clock = Clock()
    monkeypatch.setattr(reservations, "monotonic", clock)
    for number in range(20):
        clock.now += 0.02
        claims = [claim("10", nanos=UNIT), claim("10", nanos=UNIT, name="key", subject="k1")]
        assert not (await store.reserve(f"r{number}", claims, timedelta(minutes=1))).exceeded
    assert spares_of(store) > 0
    rest = 10 * 10**9 - 20 * UNIT
    claims = [claim("10", nanos=rest), claim(**{"limit_usd": "10", "nanos": UNIT, "subject": "k1"} | change)]
    assert not (await store.reserve("rest", claims, timedelta(minutes=1))).exceeded
    assert spares_of(store) == 0
    clock.now += 2 * LASTS + 1
    await store.tick()
    assert not store._reservations._stocks
    assert not store._reservations._holding


async def test_what_a_dead_proxy_put_aside_expires(url: str, store: RedisStore) -> None:
    other = RedisStore(url, prefix=store._tag.strip("{}"))
    assert await other.connect()
    for number in range(3):
        await other.reserve(f"r{number}", [claim(nanos=10**7)], timedelta(seconds=1))
        await asyncio.sleep(0.02)
    (stock,) = other._reservations._stocks.values()
    assert stock._spares is not None
    assert stock._spares.left > 0
    await close_client(other._client)
    refused = await store.reserve("all", [claim(nanos=10**9)], timedelta(minutes=1))
    assert refused.retry_after is not None
    assert refused.retry_after <= 1 + LASTS + 1
    await asyncio.sleep(refused.retry_after)
    assert not (await store.reserve("all", [claim(nanos=10**9)], timedelta(minutes=1))).exceeded
