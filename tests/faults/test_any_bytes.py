"""Whatever bytes a backend sends, however cut: an answer or a named error, never a hang, a silent stop, or a leak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from itertools import pairwise

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.values import Attempt
from router import sse
from router.backends import Call, Reply
from router.dispatch import Dispatcher
from router.errors import Exhausted, UpstreamError, to_openai
from router.trail import Trail
from tests.faults.harness import decision, order, policy
from tests.faults.speech import DONE, ROLE, SAID, STOP, chunk, event, usage


class Script:
    """A reply and a backend in one, which says what it is told to say and then ends, well or badly."""

    name = "b0"
    status = 200

    def __init__(self, parts: list[bytes], kind: str, cut: bool) -> None:
        self.parts, self.cut = parts, cut
        self.headers: Mapping[str, str] = {"content-type": kind}
        self.config = policy("http://127.0.0.1:9").tiers["t0"].backends[0]
        self.closed = 0

    async def send(self, call: Call) -> Reply:
        return self

    async def chunks(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part
        if self.cut:
            raise UpstreamError("cut", "The response broke off before its end.", phase="stream")

    async def read(self) -> bytes:
        return b"".join([part async for part in self.chunks()])

    def close(self) -> None:
        self.closed += 1

    async def healthy(self) -> bool:
        return True

    async def aclose(self) -> None:
        pass


EVENTS = st.sampled_from([
    ROLE, *SAID, STOP, DONE, usage(), usage(usage=None), chunk({"content": "x"}, index=1), b": ping\n\n", b"data:\n\n",
    event({"error": {"message": "no"}}), event({"error": "no"}), event([]), event({"choices": None}),
    b"data: {\r\n\r\n", event({"choices": [None, 1, {"delta": "x"}]}), b"event: x\n\n", b"\xff\n\n", b"\r\r\r",
    b"data: [DONE]",
    event({"choices": [{"delta": {"content": 7}, "finish_reason": 1}], "usage": {"prompt_tokens": "x"}}),
])  # fmt: skip
CUTS = st.lists(st.integers(1, 300), max_size=6)
STREAMS = st.one_of(st.lists(EVENTS, max_size=8).map(b"".join), st.binary(max_size=60))


async def ask(
    script: Script, stream: bool, wants_usage: bool, leave_after: int | None
) -> tuple[bytes | None, list[Attempt]]:
    dispatcher = Dispatcher({"b0": script}, policy("http://127.0.0.1:9", retries={"attempts": 0}))
    trail = Trail()
    async with asyncio.timeout(5):
        try:
            answer = await dispatcher.run(order(stream, wants_usage), decision(1), trail)
        except Exhausted as error:
            orjson.loads(to_openai(error)[2])
            data = None
        else:
            data = b""
            async for part in answer.body:
                data += part
                if leave_after is not None and len(data) >= leave_after:
                    break
            await answer.aclose()
    assert dispatcher.in_flight() == {"b0": 0}
    assert script.closed == 1
    assert len(trail) == 1
    assert trail[0].cost_nanos is not None
    return data, trail


@settings(max_examples=400, deadline=None)
@given(STREAMS, CUTS, st.booleans(), st.booleans(), st.none() | st.integers(0, 400))
def test_a_stream_of_anything(
    data: bytes, cuts: list[int], cut: bool, wants_usage: bool, leave_after: int | None
) -> None:
    places = sorted({min(place, len(data)) for place in cuts} | {0, len(data)})
    parts = [data[start:end] for start, end in pairwise(places)]
    script = Script(parts, "text/event-stream", cut)
    said, trail = asyncio.run(ask(script, True, wants_usage, leave_after))
    if said is None or leave_after is not None:
        return
    splitter = sse.Splitter()
    events = [found for one in splitter.feed(said + b"\n\n") if (found := sse.data_of(one)) is not None]
    last = events[-1]
    assert last == b"[DONE]" or "error" in orjson.loads(last), "a silent stop"
    assert (last == b"[DONE]") == (trail[0].outcome == "ok")
    assert events.count(b"[DONE]") <= 1


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"error":{}}', b'{"choices":[{}]}', b'{"choices":{}}']),
    st.booleans(),
    st.sampled_from(["application/json", "text/event-stream", "text/html", ""]),
    st.booleans(),
)
def test_a_body_of_anything(data: bytes, cut: bool, kind: str, stream: bool) -> None:
    said, trail = asyncio.run(ask(Script([data], kind, cut), stream, True, None))
    if said is not None and not stream:
        assert said == data
        assert trail[0].outcome == "ok"
