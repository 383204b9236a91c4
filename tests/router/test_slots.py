"""Slots: who waits, who is let in, and who is told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from policies.values import Attempt, Decision, Step
from router.backends import open_backends
from router.dispatch import Dispatcher
from router.errors import Exhausted, to_openai
from tests.faults.harness import order, policy
from tests.faults.speech import well
from tests.faults.upstream import Upstream
from tests.router.house import Gate, house, until_waiting

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("limit", [1, 2])
async def test_no_more_at_once_than_allowed_and_first_come_first_served(limit: int) -> None:
    gate = Gate()
    async with house(gate, backend={"max_in_flight": limit}) as built:
        calls = []
        for number in range(4):
            calls.append(asyncio.ensure_future(built.text(user=str(number))))
            await until_waiting(built.dispatcher, "b0", number + 1)
        gate.open.set()
        await asyncio.gather(*calls)
    assert gate.most == limit
    assert sorted(gate.order) == ["0", "1", "2", "3"]
    assert limit > 1 or gate.order == ["0", "1", "2", "3"]


async def test_full_everywhere_is_a_429_that_says_when_to_come_back() -> None:
    gate = Gate()
    async with house(gate, backend={"max_in_flight": 1}, timeouts={"answer": "2s", "first_token": "2s"}) as built:
        calls = [asyncio.ensure_future(built.text()) for _ in range(17)]
        await until_waiting(built.dispatcher, "b0", 17)
        with pytest.raises(Exhausted) as caught:
            await built.text()
        gate.open.set()
        await asyncio.gather(*calls)
    status, headers, _ = to_openai(caught.value)
    assert (status, headers["retry-after"]) == (429, "1")
    assert [(attempt.outcome, attempt.error) for attempt in caught.value.attempts] == [("rejected", "full")]


async def test_a_queue_that_would_take_too_long_spills_to_the_next_tier() -> None:
    gate = Gate()
    async with house(gate, well, backend={"max_in_flight": 1}) as built:
        built.dispatcher.lanes["b0"].slots.in_flight = 1
        built.dispatcher.lanes["b0"].slots._held_for = 60.0
        found = await built.ask()
        assert found.step.backend == "b1"
        built.dispatcher.lanes["b0"].slots.in_flight = 0
    assert [(attempt.backend, attempt.error) for attempt in built.trail] == [("b0", "full"), ("b1", "")]


async def test_a_tier_takes_no_more_at_once_than_it_is_allowed_over_all_its_backends() -> None:
    gate = Gate()
    async with AsyncExitStack() as stack:
        pair = [await stack.enter_async_context(Upstream(gate)) for _ in range(2)]
        large = await stack.enter_async_context(Upstream(well))
        urls = (upstream.url for upstream in (*pair, large))
        settled = policy(*urls, timeouts={"answer": "20s", "first_token": "20s"})
        small = settled.tiers["t0"].model_copy(
            update={"max_in_flight": 3, "backends": settled.tiers["t0"].backends + settled.tiers["t1"].backends}
        )
        settled = settled.model_copy(update={"tiers": {"small": small, "large": settled.tiers["t2"]}})
        backends = open_backends(settled)
        dispatcher = Dispatcher(backends, settled)
        bound = dispatcher.lanes["b0"].slots.within
        assert bound is not None
        assert bound is dispatcher.lanes["b1"].slots.within

        async def call(first: int, *more: Step) -> Attempt:
            step = (Step("small", f"b{first}"), Step("small", f"b{1 - first}"))
            found = await dispatcher.run(order(False), Decision((*step, *more), (), ""))
            return found.attempts[-1]

        calls = [asyncio.ensure_future(call(number % 2)) for number in range(3 + bound.places)]
        async with asyncio.timeout(10):
            while bound.load < 3 + bound.places:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert (bound.in_flight, sum(upstream.serving for upstream in pair) <= 3) == (3, True)
        with pytest.raises(Exhausted) as caught:
            await call(0)
        status, headers, body = to_openai(caught.value)
        assert (status, int(headers["retry-after"]) >= 1, b"tier is full" in body) == (429, True, True)
        assert (await call(0, Step("large", "b2"))).backend == "b2"
        calls.pop().cancel()
        gate.open.set()
        assert {attempt.outcome for attempt in await asyncio.gather(*calls)} == {"ok"}
        assert gate.most <= 3
        assert (bound.in_flight, bound.load, set(dispatcher.in_flight().values())) == (0, 0, {0})
        for backend in backends.values():
            await backend.aclose()


def _recorded(take: Callable[[float], Awaitable[None]], patient: list[float]) -> Callable[[float], Awaitable[None]]:
    async def recorded(patience: float) -> None:
        patient.append(patience)
        await take(patience)

    return recorded


async def test_a_tiers_queues_are_waited_in_no_longer_than_for_a_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(well, well, backend={"max_in_flight": 1}, timeouts={"first_token": "100ms"}) as built:
        slots = [built.dispatcher.lanes[name].slots for name in ("b0", "b1")]
        patient: list[float] = []
        for one in slots:
            one.in_flight = 1
            monkeypatch.setattr(one, "take", _recorded(one.take, patient))
        same = Decision((Step("t0", "b0"), Step("t0", "b1")), (), "")
        with pytest.raises(Exhausted):
            await built.dispatcher.run(order(False), same)
        assert patient[0] == pytest.approx(0.1, abs=0.001)
        assert patient[1] <= 0.002
        for one in slots:
            one.in_flight = 0


async def test_waiting_in_the_queue_ends_with_the_first_token_timeout() -> None:
    gate = Gate()
    timeouts = {"answer": "2s", "first_token": "50ms"}
    async with house(gate, well, backend={"max_in_flight": 1}, timeouts=timeouts) as built:
        first = asyncio.ensure_future(built.text())
        await until_waiting(built.dispatcher, "b0", 1)
        found = await built.ask()
        assert found.step.backend == "b1"
        gate.open.set()
        await first
