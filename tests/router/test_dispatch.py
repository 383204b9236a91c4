"""Dispatch at its limits: who waits, who is let in, what it costs, and what is told when nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest

from policies import money, schema
from policies.values import Attempt, Decision, Step
from router.backends import open_backends
from router.dispatch import Answer, Dispatcher, Order
from router.errors import Exhausted, to_openai
from router.trail import Trail
from tests.faults.harness import decision, order, policy
from tests.faults.speech import DONE, ROLE, SAID, STOP, answer, say, usage, well
from tests.faults.upstream import Behaviour, Peer, Upstream

pytestmark = pytest.mark.anyio


class House:
    """A dispatcher over upstreams that behave as told, one to a tier. ``trail`` is that of the latest request."""

    def __init__(self, settled: schema.Policy, upstreams: list[Upstream]) -> None:
        self.policy, self.upstreams = settled, upstreams
        self.backends = open_backends(settled)
        self.rests: list[tuple[str, float]] = []
        self.dispatcher = Dispatcher(self.backends, settled, on_rest=lambda *rest: self.rests.append(rest))
        self.trail = Trail()

    async def ask(self, stream: bool = False, **body: Any) -> Answer:
        self.trail = Trail()
        return await self.dispatcher.run(order(stream, **body), decision(len(self.upstreams)), self.trail)

    async def text(self, stream: bool = False, **body: Any) -> bytes:
        found = await self.ask(stream, **body)
        try:
            return b"".join([part async for part in found.body])
        finally:
            await found.aclose()


@asynccontextmanager
async def house(*behaviours: Behaviour, **more: Any) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(behave)) for behave in behaviours]
        built = House(policy(*(upstream.url for upstream in upstreams), **more), upstreams)
        yield built
        assert not any(built.dispatcher.in_flight().values())
        for backend in built.backends.values():
            await backend.aclose()


async def silent(peer: Peer) -> None:
    await peer.silence()


async def broken(peer: Peer) -> None:
    await peer.whole(500, {"error": {"message": "no"}})


class Gate:
    """A backend that answers when it is let to, and remembers how many it had at once."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.most = 0
        self.order: list[str] = []

    async def __call__(self, peer: Peer) -> None:
        self.most = max(self.most, peer.upstream.serving)
        self.order.append(str(peer.body.get("user")))
        await self.open.wait()
        await well(peer)


async def until_waiting(dispatcher: Dispatcher, backend: str, count: int) -> None:
    """Return when this many calls are under way or waiting at a backend."""
    async with asyncio.timeout(2):
        while dispatcher.in_flight()[backend] < count:  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_events_pass_as_they_came(wants_usage: bool) -> None:
    strange = b'id: 7\nevent: x\ndata:   {"choices" : [{"index":0, "delta":{"content":"\\u00fc"}}], "x-more":1.50}\n\n'
    async with house(lambda peer: say(peer, b": hi\n\n", ROLE, strange, *SAID, STOP, usage(), DONE)) as built:
        found = await built.dispatcher.run(order(True, wants_usage), decision(1))
        data = b"".join([part async for part in found.body])
    before, _, after = data.partition(usage()[:-30])
    assert before.startswith(b"".join((b": hi\n\n", ROLE, strange, *SAID, STOP)))
    if not wants_usage:
        assert data == b"".join((b": hi\n\n", ROLE, strange, *SAID, STOP, DONE))
    else:
        assert after.endswith(DONE)
        priced = orjson.loads(data.split(b"data: ")[-2])
        assert priced == {**orjson.loads(usage()[6:]), "usage": {**orjson.loads(usage()[6:])["usage"], "cost": 1.6e-5}}


async def test_a_whole_body_passes_byte_for_byte() -> None:
    body = b'{ "choices" : [ {"index":0,"message":{"content":"\\u00fc"}} ],\n "x" : 1.0, "usage":{"prompt_tokens":1} }'
    async with house(lambda peer: peer.whole(200, body, kind="application/json; charset=utf-8")) as built:
        found = await built.ask()
        assert found.whole == body
        assert found.content_type == "application/json; charset=utf-8"
        assert (found.step.backend, found.model) == ("b0", "m")


async def test_the_cost_in_a_stream_counts_failed_attempts() -> None:
    async def cut(peer: Peer) -> None:
        await peer.head()
        await peer.piece(ROLE)

    async with house(cut, well) as built:
        data = await built.text(stream=True)
    told = orjson.loads(data.split(b"data: ")[-2])["usage"]["cost"]
    assert [attempt.cost_nanos for attempt in built.trail] == [10_000, 10_000, 16_000]
    assert told == pytest.approx(3.6e-5)


async def test_an_unpriced_backend_costs_an_unknown_amount() -> None:
    async with house(well, backend={"cost": None}) as built:
        data = await built.text(stream=True)
    assert built.trail[0].cost_nanos is None
    assert orjson.loads(data.split(b"data: ")[-2])["usage"]["cost"] is None


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


async def test_a_failing_backend_rests_and_is_not_asked() -> None:
    settings = {"failures": 2, "rest": "10s"}
    async with house(broken, well, cooldown=settings, retries={"attempts": 0}) as built:
        for _ in range(4):
            await built.text()
    assert len(built.upstreams[0].requests) == 2
    assert built.dispatcher.cooling() == {"b0"}
    assert [name for name, _ in built.rests] == ["b0"]
    assert built.rests[0][1] == pytest.approx(10, abs=0.1)


async def test_recovery_lets_one_probe_out_and_everyone_else_waits_for_it() -> None:
    gate = Gate()
    patient = {"answer": "2s", "first_token": "2s"}
    async with house(gate, timeouts=patient, cooldown={"failures": 1, "rest": "20ms"}) as built:
        built.dispatcher.rest("b0", 0.0)
        calls = [asyncio.ensure_future(built.text()) for _ in range(30)]
        async with asyncio.timeout(2):
            await built.upstreams[0].busy()
        for _ in range(20):
            await asyncio.sleep(0)
        assert built.upstreams[0].serving == 1
        gate.open.set()
        await asyncio.gather(*calls)
        assert built.dispatcher.cooling() == frozenset()


async def test_a_failed_probe_fails_those_who_wait_without_asking_again() -> None:
    gone = asyncio.Event()

    async def fail_when_told(peer: Peer) -> None:
        await gone.wait()
        await broken(peer)

    patient = {"answer": "2s", "first_token": "2s"}
    settings = {"failures": 1, "rest": "10s"}
    async with house(fail_when_told, timeouts=patient, cooldown=settings, retries={"attempts": 0}) as built:
        built.dispatcher.rest("b0", 0.0)
        calls = [asyncio.ensure_future(built.text()) for _ in range(10)]
        async with asyncio.timeout(2):
            await built.upstreams[0].busy()
        gone.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert len(built.upstreams[0].requests) == 1
    told = sorted(to_openai(error)[0] for error in results if isinstance(error, Exhausted))
    assert told == [502] + [503] * 9


async def test_when_all_rest_the_least_bad_is_tried() -> None:
    async with house(well, well) as built:
        built.dispatcher.rest("b0", 60)
        built.dispatcher.rest("b1", 5)
        found = await built.ask()
        assert found.step.backend == "b1"
        assert built.dispatcher.cooling() == {"b0"}


async def test_a_cancelled_probe_leaves_its_place() -> None:
    async with house(silent, cooldown={"failures": 1, "rest": "1ms"}, timeouts={"answer": "2s"}) as built:
        built.dispatcher.rest("b0", 0.0)
        call = asyncio.ensure_future(built.text())
        async with asyncio.timeout(2):
            await built.upstreams[0].busy()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        built.upstreams[0].behaviour = well
        assert await built.text()


async def test_a_gpu_bill_closes_over_concurrent_requests() -> None:
    now = [1_000.0]
    gate = Gate()
    async with Upstream(gate) as upstream:
        cost = {"gpu_hour_usd": "3.60", "gpus": 2}
        settled = policy(upstream.url, backend={"cost": cost}, timeouts={"answer": "2s"})
        backends = open_backends(settled)
        dispatcher = Dispatcher(backends, settled, wall=lambda: now[0])
        trail = Trail()
        now[0] += 5
        calls = []
        for number in range(3):
            calls.append(asyncio.ensure_future(dispatcher.run(order(False), decision(1), trail)))
            await until_waiting(dispatcher, "b0", number + 1)
            now[0] += 1.7
        gate.open.set()
        await asyncio.gather(*calls)
        clock = dispatcher.lanes["b0"].gpu
        for backend in backends.values():
            await backend.aclose()
    assert clock is not None
    shares = [attempt.cost_nanos or 0 for attempt in trail]
    assert min(shares) > 0
    assert sum(shares) + clock.idle == clock.billed == 10_100 * money.nanos(Decimal("7.20")) // 3_600_000
    assert clock.pending == 0


async def test_the_deadline_is_over_all_attempts() -> None:
    slow = {"answer": "100ms", "first_token": "100ms", "deadline": "150ms"}
    async with house(silent, silent, silent, timeouts=slow) as built:
        with pytest.raises(Exhausted) as caught:
            await built.text()
    attempts = caught.value.attempts
    assert [attempt.outcome for attempt in attempts] == ["timeout", "timeout"]
    assert attempts[1].total_ms < attempts[0].total_ms
    assert to_openai(caught.value)[0] == 504


async def test_retry_after_is_waited_for() -> None:
    async def limit_once(peer: Peer) -> None:
        if peer.number == 1:
            return await peer.whole(429, {"error": {"message": "slow down"}}, "retry-after-ms: 40")
        return await well(peer)

    loop = asyncio.get_running_loop()
    async with house(limit_once, retries={"attempts": 1, "base": "1ms", "cap": "1s"}) as built:
        begun = loop.time()
        await built.text()
        assert loop.time() - begun >= 0.04


async def test_the_most_helpful_error_is_told() -> None:
    async def too_long(peer: Peer) -> None:
        await peer.whole(400, {"error": {"message": "prompt is too long: 9 tokens > 5 maximum"}})

    async with house(too_long, broken) as built:
        with pytest.raises(Exhausted) as caught:
            await built.text()
    status, _, body = to_openai(caught.value)
    assert status == 400
    assert orjson.loads(body)["error"]["code"] == "context_length_exceeded"


async def test_a_context_error_goes_up_to_more_room_only() -> None:
    async def too_long(peer: Peer) -> None:
        await peer.whole(400, {"error": {"code": "context_length_exceeded", "message": "too long"}})

    async with Upstream(too_long) as small, Upstream(well) as same, Upstream(well) as large:
        settled = policy(small.url, same.url, large.url)
        windows = {"t0": 1000, "t1": 1000, "t2": 8000}
        tiers = {
            name: tier.model_copy(
                update={"backends": (tier.backends[0].model_copy(update={"context_window": windows[name]}),)}
            )
            for name, tier in settled.tiers.items()
        }
        settled = settled.model_copy(update={"tiers": tiers})
        backends = open_backends(settled)
        found = await Dispatcher(backends, settled).run(order(False), decision(3))
        assert found.step.backend == "b2"
        assert not same.requests
        for backend in backends.values():
            await backend.aclose()


async def test_a_slow_client_is_not_a_stall() -> None:
    async with house(well, timeouts={"between_tokens": "150ms"}) as built:
        found = await built.ask(stream=True)
        parts = []
        async for part in found.body:
            parts.append(part)
            await asyncio.sleep(0.2)
        await found.aclose()
    assert parts[-1].endswith(DONE)
    assert built.trail[0].outcome == "ok"


async def test_a_client_that_never_reads_holds_a_backend_no_longer_than_the_total() -> None:
    async def endless(peer: Peer) -> None:
        await peer.head()
        await peer.piece(ROLE + SAID[0])
        await peer.silence()

    async with house(endless, timeouts={"total": "300ms"}) as built:
        found = await built.ask(stream=True)
        async with asyncio.timeout(5):
            await built.upstreams[0].idle()
        assert built.trail[0].outcome == "timeout"
        assert built.dispatcher.in_flight() == {"b0": 0}
        data = b"".join([part async for part in found.body])
        assert SAID[0] in data
        assert b'"error"' in data
        await found.aclose()


async def test_total_bounds_a_stream_that_never_ends() -> None:
    async def babble(peer: Peer) -> None:
        await peer.head()
        while True:
            await peer.piece(SAID[0])
            await asyncio.sleep(0.005)

    async with house(babble, timeouts={"total": "500ms"}) as built:
        data = await built.text(stream=True)
    assert b"upstream_timeout" in data
    assert built.trail[0].outcome == "timeout"
    assert built.trail[0].total_ms >= 490


async def test_timeouts_of_a_backend_override_the_policys() -> None:
    quick = {"answer": "30ms"}
    async with house(silent, backend={"timeouts": quick}, timeouts={"answer": "30s"}, retries={"attempts": 0}) as built:
        with pytest.raises(Exhausted):
            await built.text()
    assert built.trail[0].total_ms < 10_000
    assert built.policy.timeouts.answer == timedelta(seconds=30)


async def test_zero_tokens_are_a_measurement() -> None:
    free = answer(usage={"prompt_tokens": 0, "completion_tokens": 0})
    async with house(lambda peer: peer.whole(200, free)) as built:
        await built.text()
    assert built.trail[0].usage is not None
    assert built.trail[0].usage.measured
    assert built.trail[0].cost_nanos == 0


@pytest.mark.parametrize(
    ("body", "ended", "outcome"),
    [({"n": 2}, 1, "error"), ({"n": 2}, 2, "ok"), ({"n": 0}, 0, "error"), ({"n": "x"}, 1, "ok")],
)
async def test_an_answer_is_whole_when_all_its_choices_have_ended(body: Any, ended: int, outcome: str) -> None:
    async with house(lambda peer: say(peer, ROLE, SAID[0], *[STOP] * ended)) as built:
        data = await built.text(stream=True, **body)
    assert built.trail[0].outcome == outcome
    assert data.endswith(DONE) == (outcome == "ok")


@pytest.mark.parametrize(("ended", "outcome"), [(2, "ok"), (1, "error")])
async def test_each_prompt_of_a_completion_has_choices(ended: int, outcome: str) -> None:
    async with house(lambda peer: say(peer, SAID[0], *[STOP] * ended)) as built:
        body = {"prompt": ["a", "b"], "stream": True}
        found = await built.dispatcher.run(Order("completions", body, True, False, 1), decision(1), built.trail)
        assert [part async for part in found.body]
    assert built.trail[0].outcome == outcome


async def test_a_protocol_without_choices_passes() -> None:
    events = b'event: response.created\ndata: {"type":"response.created"}\n\ndata: {"type":"response.completed"}\n\n'
    asked = Order("responses", {"stream": True}, True, False, 1)
    async with house(lambda peer: say(peer, events)) as built:
        found = await built.dispatcher.run(asked, decision(1), built.trail)
        data = b"".join([part async for part in found.body])
    assert data == events
    assert built.trail[0].outcome == "ok"
