"""Escalating a poor answer and hedging a slow one: one answer is given, every attempt is paid for."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from policies.schema import Policy
from policies.values import Attempt
from router.backends import open_backends
from router.dispatch import Answer, Dispatcher, Order
from router.escalation import answers_of, answers_of_stream, asked_of
from router.trail import Trail
from tests.faults.harness import decision, order, policy
from tests.faults.speech import DONE, ROLE, STOP, answer, chunk, say, usage, well
from tests.faults.upstream import Peer, Upstream

pytestmark = pytest.mark.anyio

SORRY = "I'm sorry, but I can't help with that."


async def refuse(peer: Peer) -> None:
    if peer.stream:
        said = (chunk({"content": words}) for words in (SORRY[:9], SORRY[9:]))
        return await say(peer, ROLE, *said, STOP, usage(), DONE)
    return await peer.whole(200, answer(SORRY))


async def fail(peer: Peer) -> None:
    await peer.whole(500, {"error": {"message": "no"}})


async def silent(peer: Peer) -> None:
    await peer.silence()


def escalating(settled: Policy, **escalate: Any) -> Policy:
    """The policy with a first tier that escalates."""
    document = settled.model_dump(by_alias=True)
    document["tiers"]["t0"]["escalate"] = escalate
    return Policy.model_validate(document)


async def ask(settled: Policy, asked: Order, trail: Trail, count: int = 2) -> tuple[Answer, bytes]:
    backends = open_backends(settled)
    dispatcher = Dispatcher(backends, settled)
    try:
        found = await dispatcher.run(asked, decision(count), trail)
        data = b"".join([part async for part in found.body])
        await found.aclose()
        assert not any(dispatcher.in_flight().values())
        assert not dispatcher.cooling()
        return found, data
    finally:
        for backend in backends.values():
            await backend.aclose()


def told(trail: list[Attempt]) -> list[tuple[str, str, str, int | None]]:
    return [(attempt.backend, attempt.outcome, attempt.error, attempt.cost_nanos) for attempt in trail]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_is_escalated_and_both_are_paid(stream: bool) -> None:
    trail = Trail()
    async with Upstream(refuse) as small, Upstream(well) as large:
        settled = escalating(policy(small.url, large.url), hold_streams=True)
        found, data = await ask(settled, order(stream), trail)
    assert found.step.backend == "b1"
    assert b"sorry" not in data
    assert told(trail) == [("b0", "rejected", "poor:refusal", 16_000), ("b1", "ok", "", 16_000)]
    assert trail[0].usage is not None
    assert trail[0].usage.measured


async def test_a_stream_passes_unchecked_unless_it_is_held() -> None:
    trail = Trail()
    async with Upstream(refuse) as small, Upstream(well) as large:
        _, data = await ask(escalating(policy(small.url, large.url)), order(True), trail)
    assert b"sorry" in data
    assert told(trail) == [("b0", "ok", "", 16_000)]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_good_answer_is_not_escalated(stream: bool) -> None:
    trail = Trail()
    async with Upstream(well) as small, Upstream(fail) as large:
        settled = escalating(policy(small.url, large.url), hold_streams=True)
        found, data = await ask(settled, order(stream), trail)
        assert not large.requests
    assert found.step.backend == "b0"
    assert data.endswith(DONE) or not stream
    assert told(trail) == [("b0", "ok", "", 16_000)]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_poor_answer_is_better_than_none(stream: bool) -> None:
    trail = Trail()
    async with Upstream(refuse) as small, Upstream(fail) as large:
        settled = escalating(policy(small.url, large.url, retries={"attempts": 0}), hold_streams=True)
        found, data = await ask(settled, order(stream), trail)
    assert found.step.backend == "b0"
    assert b"sorry" in data
    assert told(trail) == [("b1", "error", "server_error", 0), ("b0", "ok", "poor:refusal", 16_000)]


async def test_the_last_tier_is_not_checked() -> None:
    trail = Trail()
    async with Upstream(refuse) as only:
        found, _ = await ask(escalating(policy(only.url)), order(False), trail, 1)
    assert found.step.backend == "b0"
    assert told(trail) == [("b0", "ok", "", 16_000)]


async def test_a_held_stream_that_breaks_off_falls_back() -> None:
    async def cut(peer: Peer) -> None:
        await peer.head()
        await peer.piece(ROLE + chunk({"content": "Hel"}))

    trail = Trail()
    async with Upstream(cut) as small, Upstream(well) as large:
        settled = escalating(policy(small.url, large.url, retries={"attempts": 0}), hold_streams=True)
        found, data = await ask(settled, order(True), trail)
    assert found.step.backend == "b1"
    assert b'"Hel"' not in data
    assert [attempt.error for attempt in trail] == ["cut", ""]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_slow_backend_is_hedged_and_the_loser_cancelled_and_billed(stream: bool) -> None:
    trail = Trail()
    async with Upstream(silent) as slow, Upstream(well) as quick:
        settled = policy(slow.url, quick.url, hedge={"auto": "20ms"})
        found, _ = await ask(settled, order(stream), trail)
        await slow.idle_at_once()
        assert slow.abandoned == 1
    assert found.step.backend == "b1"
    assert told(trail) == [("b0", "cancelled", "cancelled", 10_000), ("b1", "ok", "", 16_000)]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_quick_backend_is_not_hedged(stream: bool) -> None:
    trail = Trail()
    async with Upstream(well) as quick, Upstream(well) as spare:
        found, _ = await ask(policy(quick.url, spare.url, hedge={"auto": "5s"}), order(stream), trail)
        assert not spare.requests
    assert found.step.backend == "b0"
    assert told(trail) == [("b0", "ok", "", 16_000)]


async def test_when_both_of_a_hedge_fail_the_rest_is_tried() -> None:
    trail = Trail()
    async with Upstream(silent) as slow, Upstream(fail) as bad, Upstream(well) as good:
        settled = policy(
            *(slow.url, bad.url, good.url),
            retries={"attempts": 0},
            first={"timeouts": {"answer": "300ms"}},
            hedge={"auto": "20ms"},
        )
        found, _ = await ask(settled, order(False), trail, 3)
    assert found.step.backend == "b2"
    assert [(attempt.backend, attempt.error) for attempt in trail] == [
        ("b1", "server_error"), ("b0", "timeout"), ("b2", ""),
    ]  # fmt: skip


async def test_leaving_a_hedged_request_cancels_both() -> None:
    trail = Trail()
    async with Upstream(silent) as one, Upstream(silent) as two:
        settled = policy(one.url, two.url, hedge={"auto": "10ms"})
        backends = open_backends(settled)
        dispatcher = Dispatcher(backends, settled)
        client = asyncio.ensure_future(dispatcher.run(order(False), decision(2), trail))
        async with asyncio.timeout(2):
            await one.busy()
            await two.busy()
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        assert dispatcher.in_flight() == {"b0": 0, "b1": 0}
        await one.idle_at_once()
        await two.idle_at_once()
        for backend in backends.values():
            await backend.aclose()
    assert {attempt.outcome for attempt in trail} == {"cancelled"}


def test_a_stream_reads_as_if_it_had_come_whole() -> None:
    scores = {"content": [{"token": "x", "logprob": -0.5}]}
    calls = [{"function": {"name": "f", "arguments": '{"a": 1}'}}]
    message = {"role": "assistant", "content": "Hello world", "tool_calls": calls}
    both = {"content": scores["content"] * 2}
    body = orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": both}]})

    def part(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return chunk(delta, finish).replace(b'"delta"', b'"logprobs":%s,"delta"' % orjson.dumps(scores), 1)

    events = b"".join([
        ROLE, part({"content": "Hello"}), part({"content": " world"}),
        chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]}), STOP, usage(), DONE,
    ])  # fmt: skip
    assert answers_of_stream(events) == answers_of(body)


ODD = [{}, {"tools": 7, "response_format": "x"}, {"tools": [None, {"function": {"name": 1}}]}]


@pytest.mark.parametrize("body", ODD)
def test_any_request_is_survived(body: dict[str, Any]) -> None:
    assert asked_of(body).tools == {}


@pytest.mark.parametrize("wrap", [str, lambda text: [{"type": "text", "text": text}]])
def test_the_question_has_a_language(wrap: Any) -> None:
    german = "Wie heißt die Hauptstadt von Frankreich, und wie viele Menschen leben dort?"
    messages = [{"role": "user", "content": wrap(german)}, {"role": "assistant", "content": "The capital is Paris."}]
    assert asked_of({"messages": messages}).language == "de"
    assert asked_of({"messages": "nonsense"}).language == "und"


async def test_only_models_named_are_hedged() -> None:
    trail = Trail()
    async with Upstream(silent) as slow, Upstream(well) as quick:
        settled = policy(
            slow.url, quick.url, hedge={"fast": "1ms"}, first={"timeouts": {"answer": "100ms"}}, retries={"attempts": 0}
        )
        await ask(settled, order(False), trail)
    assert [(attempt.backend, attempt.outcome) for attempt in trail] == [("b0", "timeout"), ("b1", "ok")]
