"""Chats past ASGI on real sockets: answered as the way of all other requests would, and let go of as surely."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from policies.schema import Limits
from router.express import LARGEST_BODY, Express
from router.guard import Guarded
from router.haste import HASTE
from router.known import Known
from tests.router.alike import Nothing, pieces
from tests.router.site import BOUNDS, GET, Site, configured, serving, talking
from tests.waiting import until

pytestmark = pytest.mark.anyio

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-one: two\r\n\r\n"


def sized(body: bytes, **headers: str) -> bytes:
    return chat(b"", **headers).replace(b"Content-Length: 4", b"Content-Length: %d" % len(body)) + body


def chat(body: bytes, **headers: str) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % (name.replace("_", "-").encode(), told.encode()) for name, told in headers.items())
    return CHAT.replace(b"\r\n\r\n", b"\r\n%b\r\n" % lines) + body


@pytest.mark.parametrize("at_once", [True, False])
async def test_chats_are_answered_one_after_the_other_on_one_connection(at_once: bool) -> None:
    said = [chat(body) for body in (b"this", b"that", b"more")]
    async with serving() as site, talking(site) as client:
        await client.say(*([b"".join(said)] if at_once else said), every=0.05)
        await client.say(chat(b"last", connection="close"))
        heard = await client.hear()
    if not at_once:
        closing = ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        assert heard == ANSWER + b"this" + ANSWER + b"that" + ANSWER + b"more" + closing + b"last"
    assert heard.startswith(ANSWER + b"this")
    assert heard.count(b"HTTP/1.1 200 OK") == 4


async def test_a_head_that_is_known_but_for_its_length_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []
    parsed = Guarded.on_headers_complete
    monkeypatch.setattr(Guarded, "on_headers_complete", lambda self: (heads.append(self.url), parsed(self))[1])
    bodies = [b"one", b"two", b"three", b"", b"four" * 3_000, b"five"]
    async with serving() as site, talking(site) as client:
        for body in bodies:
            await client.say(sized(body))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"content-length: %d\r\n" % len(body) in head
            assert await client.reader.readexactly(len(body)) == body
        assert len(heads) == 2, "the first, which began with the connection, and the second, which made it known"
        await client.say(sized(b"cut")[:-1], b"t", every=0.05)
        await client.say(sized(b"GET / ") + GET + b"\r\n", sized(b"last", connection="close"), every=0.05)
        heard = await client.hear()
    assert heard.startswith(
        ANSWER.replace(b"4", b"3", 1) + b"cut" + ANSWER.replace(b"4", b"6", 1) + b"GET / HTTP/1.1 200 OK"
    )
    assert b'"path":"/"' in heard
    assert heard.endswith(b"last")


async def test_a_known_head_is_refused_where_it_is_not_admitted_any_more() -> None:
    async with serving() as site, talking(site) as client:
        for body in (b"this", b"that", b"more"):
            await client.say(sized(body))
            assert (await client.reader.readexactly(len(ANSWER) + 4)) == ANSWER + body
        site.refuses = True
        await client.say(sized(b"last"))
        assert b'"path":"/v1/chat/completions"' in await client.reader.readuntil(b"}")


async def test_a_known_head_with_a_length_of_thousands_of_digits_is_answered() -> None:
    async with serving() as site, talking(site) as client:
        for body in (b"this", b"that"):
            await client.say(sized(body))
            assert (await client.reader.readexactly(len(ANSWER) + 4)) == ANSWER + body
        await client.say(chat(b"last").replace(b"4", b"0" * 5_000 + b"4"))
        assert b'"body":4' in await client.reader.readuntil(b"}")


async def test_a_client_whose_head_is_known_is_not_taken_for_idle() -> None:
    async with serving(connections=10, head="30s", request="30s", idle="30s") as site, AsyncExitStack() as stack:
        client = await stack.enter_async_context(talking(site))
        for body in (b"this", b"that"):
            await client.say(sized(body))
            assert await client.reader.readexactly(len(ANSWER) + 4) == ANSWER + body
        idle = [await stack.enter_async_context(talking(site)) for _ in range(9)]
        await until(lambda: len(site.connections) == 10)
        await client.say(sized(b"more"))
        assert await client.reader.readexactly(len(ANSWER) + 4) == ANSWER + b"more"
        await stack.enter_async_context(talking(site))
        await until(lambda: len(site.connections) < 11)
        await client.say(sized(b"last"))
        assert await client.reader.readexactly(len(ANSWER) + 4) == ANSWER + b"last"
        assert await idle[0].hear() == b""


class Line(asyncio.Transport):
    """A client's end of a connection that is written to only: what it ``heard``, and what it is held to."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = b""
        self.closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.heard += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


@settings(max_examples=300, deadline=None)
@given(
    pieces(
        b"POST /v1/chat/completions HTTP/1.1\r\n",
        [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"CONNECT x:1 HTTP/1.1\r\n",
         b"PUT /v1/chat/completions HTTP/1.1\r\n", b"POST /v1/chat/completions HTTP/1.0\r\n",
         b"\r\nPOST /v1/chat/completions HTTP/1.1\r\n",
         b"POST /v1/chat/completions HTTP/1.1\n"],
    ),
    st.lists(st.sampled_from([0, 1, 2, *[20] * 9]), min_size=20),
)  # fmt: skip
def test_what_is_known_of_a_head_changes_nothing_of_any_request(said: list[bytes], turns: list[int]) -> None:
    """Nor for one that comes so few turns of the loop behind another that that one is not answered yet."""

    async def run(known: Known[Any]) -> list[object]:
        site, state, line, told = Site(), ServerState(), Line(), list[object]()
        limits = Limits.model_validate(BOUNDS)
        config = configured(site, limits)
        config.load()
        guarded = Guarded(config, state, {}, limits=limits)
        guarded._known = known
        guarded.connection_made(line)
        for piece, wait in zip(said, turns, strict=False):
            if line.closed:
                break
            await settled(20 if line.paused else 0)
            guarded.data_received(piece)
            await settled(wait)
            told.append((line.heard, line.closed, line.paused, guarded.idle, guarded._awaits, guarded._idle_bytes))
        await settled(20)
        guarded.connection_lost(None)
        await settled(5)
        assert not state.tasks
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert HASTE.pressing == 0
        return [*told, line.heard, line.closed, state.total_requests]

    async def settled(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    assert asyncio.run(run(Known())) == asyncio.run(run(Nothing()))


async def test_what_comes_behind_a_chat_waits_for_its_answer() -> None:
    async with serving(idle="1s") as site, talking(site) as client:
        await client.say(chat(b"this", x_pieces="2") + GET + b"\r\n" + chat(b"that"))
        heard = await client.hear()
    assert heard.index(b"4\r\nthis\r\n4\r\nthis\r\n0\r\n\r\n") < heard.index(b'"path":"/"')
    assert heard.index(b'"path":"/"') < heard.index(b'"path":"/v1/chat/completions"')


async def test_a_chat_behind_another_answer_waits_for_its_turn() -> None:
    async with serving(idle="1s") as site, talking(site) as client:
        await client.say(GET + b"\r\n" + chat(b"this"))
        heard = await client.hear()
    assert heard.index(b'"path":"/"') < heard.index(b'"body":4')


@pytest.mark.parametrize(
    "headers",
    [
        {"expect": "100-continue"},
        {"content_encoding": "gzip"},
        {"sec_fetch_site": "cross-site"},
        {"x_refused": "yes"},
        {"content_length": str(LARGEST_BODY + 1)},
    ],
)
async def test_an_unusual_chat_goes_the_way_of_all_other_requests(headers: dict[str, str]) -> None:
    async with serving(idle="1s", request="20s") as site, talking(site) as client:
        said = chat(b"this", **headers)
        if "content_length" in headers:
            said = said.replace(b"Content-Length: 4\r\n", b"") + b"a" * (LARGEST_BODY - 3)
        await client.say(said)
        assert b'"path":"/v1/chat/completions"' in await client.hear()


async def test_a_chat_in_pieces_goes_out_in_chunks_and_keeps_the_connection() -> None:
    async with serving() as site, talking(site) as client:
        await client.say(chat(b"this", x_pieces="3"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"4\r\nthis\r\n" * 3 + b"0\r\n\r\n"
        await client.say(chat(b"that"))
        assert await client.reader.readuntil(b"that") == ANSWER + b"that"


@pytest.mark.parametrize("size", [1, 50, 1460])
async def test_a_chat_whose_body_comes_in_many_pieces_is_whole(size: int) -> None:
    body = bytes(range(256)) * 40
    head = CHAT.replace(b"Content-Length: 4", b"Content-Length: %d" % len(body))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    express = Express(None, None, {}, True)  # type: ignore[arg-type]
    for piece in pieces:
        express.add(piece)
        assert express.body == pieces[0]
    async with serving(request="20s") as site, talking(site) as client:
        await client.say(head, *pieces[:200], b"".join(pieces[200:]))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        assert await client.reader.readexactly(len(body)) == body


async def test_a_chat_whose_client_leaves_is_cancelled_at_once() -> None:
    async with serving() as site:
        async with talking(site) as client:
            await client.say(chat(b"this", x_pieces="never"))
            await until(lambda: site.serving == 1)
        await until(lambda: site.serving == 0)
        assert not site.connections


async def test_a_server_out_of_patience_ends_what_is_under_way_and_nothing_else() -> None:
    async with serving() as site, talking(site) as client:
        for _ in range(2):
            await client.say(chat(b"this", x_pieces="never"))
            await until(lambda: site.serving == 1)
            (task,) = site.tasks
            task.cancel("Task cancelled, timeout graceful shutdown exceeded")
            await until(lambda: not site.tasks)
            assert task.cancelled()
            assert (await client.reader.readuntil(b"}}")).startswith(b"HTTP/1.1 500 ")
        await client.say(chat(b"that"))
        assert await client.reader.readuntil(b"that") == ANSWER + b"that"


async def test_a_client_that_will_say_no_more_has_left() -> None:
    """All that comes of either is the same FIN, and one that has left must not be paid for until it is written to."""
    async with serving() as site, talking(site) as client:
        await client.say(chat(b"this", x_pieces="never"))
        await until(lambda: site.serving == 1)
        client.writer.write_eof()
        assert await client.hear() == b""
        await until(lambda: site.serving == 0)


async def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_behind() -> None:
    async with serving() as site:
        async with talking(site) as client:
            await client.say(CHAT + b"th")
            await until(lambda: len(site.connections) == 1)
        await until(lambda: not site.connections)
        assert site.serving == 0


async def test_a_client_of_a_chat_that_does_not_read_is_given_up() -> None:
    async with serving() as site, talking(site) as client:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await client.say(chat(b"this", x_pieces="100000000"))
        await until(lambda: site.serving == 1)
        await until(lambda: not site.serving and not site.connections)


async def test_a_bug_is_told_before_an_answer_and_cuts_one_that_has_begun(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site, talking(site) as client:
        await client.say(chat(b"this", x_pieces="bug"))
        assert b'"code":"internal_error"' in await client.reader.readuntil(b"}}")
        await client.say(chat(b"this", x_pieces="-2"))
        heard = await client.hear()
    assert heard.endswith(b"4\r\nthis\r\n" * 2)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2
