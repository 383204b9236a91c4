"""A stream on its way: what passes, when it is whole, and who may hold it up."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from router.dispatch import Answer, Order
from router.haste import HASTE, Waiter
from tests.faults.harness import decision, order
from tests.faults.speech import DONE, ROLE, SAID, STOP, say, usage, well
from tests.faults.upstream import Peer
from tests.router.house import house
from tests.waiting import until

pytestmark = pytest.mark.anyio


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


async def test_the_cost_in_a_stream_counts_failed_attempts() -> None:
    async def cut(peer: Peer) -> None:
        await peer.head()
        await peer.piece(ROLE)

    async with house(cut, well) as built:
        data = await built.text(stream=True)
    told = orjson.loads(data.split(b"data: ")[-2])["usage"]["cost"]
    assert [attempt.cost_nanos for attempt in built.trail] == [10_000, 10_000, 16_000]
    assert told == pytest.approx(3.6e-5)


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


OUT_OF_TIME = "Task cancelled, timeout graceful shutdown exceeded"
"""What uvicorn says to the tasks that it cancels then."""


@pytest.mark.parametrize("turns", range(1, 12))
async def test_a_stream_says_that_the_proxy_stops_whoever_else_presses(turns: int) -> None:
    async def endless(peer: Peer) -> None:
        await peer.head()
        await peer.piece(ROLE + SAID[0])
        await peer.silence()

    async with house(endless) as built:
        found = await built.ask(stream=True)
        heard: list[bytes] = []
        for _ in range(8):
            HASTE.begin(Waiter(loop=asyncio.get_running_loop()))
        reading = asyncio.create_task(read(found, heard))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel(OUT_OF_TIME)
        await reading
    assert SAID[0] in heard[0]
    assert b'"code":"shutting_down"' in heard[-1]
    assert (built.trail[0].outcome, built.trail[0].error) == ("error", "stopped")


async def test_a_stream_that_was_whole_as_the_proxy_stopped_is_none_that_was_stopped() -> None:
    async def late(peer: Peer) -> None:
        await peer.head()
        await peer.piece(ROLE + SAID[0] + STOP + DONE)
        await peer.silence()

    async with house(late) as built:
        found = await built.ask(stream=True)
        heard: list[bytes] = []
        reading = asyncio.create_task(read(found, heard))
        await until(lambda: heard and heard[-1].endswith(DONE))
        reading.cancel(OUT_OF_TIME)
        await reading
    assert b"error" not in b"".join(heard)
    assert built.trail[0].outcome == "ok"


async def read(found: Answer, heard: list[bytes]) -> None:
    async for part in found.body:
        heard.append(part)
