"""Dispatch at its limits: who rests, what it costs, and what is told when nobody answers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import orjson
import pytest

from policies import money
from router.backends import open_backends
from router.dispatch import Dispatcher
from router.errors import Exhausted, to_openai
from router.trail import Trail
from tests.faults.harness import decision, order, policy
from tests.faults.speech import answer, well
from tests.faults.upstream import Peer, Upstream
from tests.router.house import Gate, broken, house, silent, until_waiting

pytestmark = pytest.mark.anyio


async def test_a_whole_body_passes_byte_for_byte() -> None:
    body = b'{ "choices" : [ {"index":0,"message":{"content":"\\u00fc"}} ],\n "x" : 1.0, "usage":{"prompt_tokens":1} }'
    async with house(lambda peer: peer.whole(200, body, kind="application/json; charset=utf-8")) as built:
        found = await built.ask()
        assert found.whole == body
        assert found.content_type == "application/json; charset=utf-8"
        assert (found.step.backend, found.model) == ("b0", "m")


async def test_an_unpriced_backend_costs_an_unknown_amount() -> None:
    async with house(well, backend={"cost": None}) as built:
        data = await built.text(stream=True)
    assert built.trail[0].cost_nanos is None
    assert orjson.loads(data.split(b"data: ")[-2])["usage"]["cost"] is None


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


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_attempts_are_timed_finer_than_the_loop_s_clock_is_read() -> None:
    async with house(well) as built:
        times = [(await built.ask()).attempts[0].total_ms for _ in range(5)]
    assert any(abs(ms - round(ms)) > 0.001 for ms in times), times


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
