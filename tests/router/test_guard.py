"""The guard on real sockets: whatever a client does or leaves undone, its connection ends and costs little."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any

import orjson
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from policies.schema import Limits
from router.express import LARGEST_BODY, Chat, Express
from router.guard import Guarded
from router.haste import HASTE
from router.known import Known
from router.served import Served
from tests.router.alike import Nothing, pieces
from tests.waiting import until

pytestmark = pytest.mark.anyio

BOUNDS = {"head": "300ms", "request": "800ms", "idle": "2s"}
LATEST = 5.0
"""Seconds within which a connection that should end has ended, on a busy machine."""
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"


class Site:
    """An application that reads each body and says what it saw; on ``/flood`` it never stops answering.

    Chats are echoed: whole, in the pieces that ``x-pieces`` says, never, or with a bug.
    """

    def __init__(self) -> None:
        self.port = 0
        self.serving = 0
        self.refuses = False
        self.connections: set[Any] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.serving += 1
        try:
            body = b""
            while (message := await receive())["type"] == "http.request":
                body += message["body"]
                if not message["more_body"]:
                    break
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while scope["path"] == "/flood" and message["type"] != "http.disconnect":
                await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        message = await receive()
            told = {
                "path": scope["path"],
                "body": len(body),
                "headers": [name.decode() for name, _ in scope["headers"]],
            }
            await send({"type": "http.response.body", "body": orjson.dumps(told)})
        finally:
            self.serving -= 1

    def admit(self, headers: Mapping[bytes, bytes]) -> Chat | None:
        return None if self.refuses or b"x-refused" in headers else self._chat

    async def _chat(self, express: Express) -> None:
        self.serving += 1
        try:
            match express.headers.get(b"x-pieces"):
                case None:
                    lines = b"content-length: %d\r\nx-one: two\r\n" % len(express.body)
                    await express.deliver(Served(200, lines, express.body))
                case b"never":
                    await asyncio.Event().wait()
                case b"bug":
                    raise ZeroDivisionError
                case told:
                    await express.deliver(Served(200, b"", self._pieces(express.body, int(told))))
        finally:
            self.serving -= 1

    async def _pieces(self, body: bytes, count: int) -> AsyncIterator[bytes]:
        for _ in range(abs(count)):
            yield body
        if count < 0:
            raise ZeroDivisionError


def configured(site: Site, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        site,
        http=partial(Guarded, limits=limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=round(limits.idle.total_seconds()),
    )


@asynccontextmanager
async def serving(**bounds: Any) -> AsyncIterator[Site]:
    site = Site()
    limits = Limits.model_validate({**BOUNDS, **bounds})
    config = configured(site, limits)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    site.port, site.connections = listener.getsockname()[1], server.server_state.connections
    task = asyncio.create_task(server._serve([listener]))
    await until(lambda: server.started)
    try:
        yield site
    finally:
        server.should_exit = server.force_exit = True
        await task
        assert HASTE.pressing == 0


class Talk:
    """A client's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, *pieces: bytes, every: float = 0.0) -> None:
        with suppress(ConnectionError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(every)

    async def hear(self) -> bytes:
        """Everything until the server closes. Raises `TimeoutError` when it does not."""
        said = b""
        async with asyncio.timeout(LATEST):
            with suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    said += piece
        return said


@asynccontextmanager
async def talking(site: Site) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"", None),
        (b"GET / HTTP/1.1\r\nho", 408),
        (b"\r\n\r\n", 408),
        (POST + b"content-length: 100\r\n\r\n{", 408),
        (POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx", 408),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 3_000_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000, 431),
        (b"GET /" + b"a" * 3_000_000, 431),
        (POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx: " + b"a" * 3_000_000, 431),
        (POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"x: y\r\n" * 100_000, 431),
        (POST + b"transfer-encoding: chunked\r\n\r\n1;" + b"a" * 3_000_000, 431),
        (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400),
        (POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (GET + b"x: a\x00b\r\n\r\n", 400),
        (GET + b" folded: x\r\n\r\n", 400),
    ],
)
async def test_a_request_that_does_not_come_whole_ends(said: bytes, status: int | None) -> None:
    async with serving() as site, talking(site) as client:
        await client.say(said)
        answer = await client.hear()
        assert not site.serving
    if status is None or len(said) > 1_000_000:
        assert not answer or answer.startswith(f"HTTP/1.1 {status} ".encode())
    else:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"connection: close" in head
        assert set(orjson.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nx: ", POST + b"content-length: 9999\r\n\r\n", b"\r\n"])
async def test_a_drip_does_not_hold_a_connection(start: bytes) -> None:
    async with serving() as site, talking(site) as client:
        began = monotonic()
        drip = asyncio.create_task(client.say(start, *[b"\r\n" if start == b"\r\n" else b"a"] * 400, every=0.02))
        assert b" 408 " in await client.hear()
        assert monotonic() - began < LATEST
        drip.cancel()


async def test_many_requests_on_a_connection_take_as_long_as_they_like_together() -> None:
    async with serving() as site, talking(site) as client:
        for _ in range(8):
            await client.say(POST + b"content-length: 2\r\n\r\n", b"{", b"}", every=0.1)
            assert (await client.reader.readuntil(b"}")).endswith(b'"headers":["host","content-length"]}')


async def test_a_slow_body_that_arrives_in_time_is_taken() -> None:
    async with serving(request="20s") as site, talking(site) as client:
        await client.say(POST + b"content-length: 40\r\n\r\n", *[b"a"] * 40, every=0.02)
        assert b'"body":40' in await client.reader.readuntil(b"}")


async def test_large_bodies_pass() -> None:
    async with serving(request="20s") as site, talking(site) as client:
        piece = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n", *[piece] * 64, b"0\r\n\r\n")
        assert b'"body":4194304' in await client.reader.readuntil(b"}")


async def test_trailers_are_not_headers() -> None:
    async with serving() as site, talking(site) as client:
        trailer = b"0\r\nauthorization: Bearer x\r\n\r\n"
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", trailer, every=0.05)
        assert b"authorization" not in await client.reader.readuntil(b"}")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as site, talking(site) as client:
        await client.say(b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % at for at in range(20)))
        for at in range(20):
            assert b'"path":"/%d"' % at in await client.reader.readuntil(b"}")


async def test_nothing_follows_an_upgrade() -> None:
    async with serving() as site, talking(site) as client:
        await client.say(GET + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n", GET + b"\r\n", every=0.1)
        assert (await client.hear()).count(b"HTTP/1.1 200") == 1


async def test_a_client_that_does_not_read_is_given_up() -> None:
    async with serving() as site, talking(site) as client:
        await client.say(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n")
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: site.serving == 1)
        await until(lambda: not site.serving and not site.connections)


async def test_where_there_are_too_many_connections_idle_ones_make_room() -> None:
    async with serving(connections=10, head="30s", request="30s", idle="30s") as site:
        open_now = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(30)]
        async with talking(site) as client:
            await client.say(GET + b"\r\n")
            assert b'"path":"/"' in await client.reader.readuntil(b"}")
            assert len(site.connections) <= 11
        for _, writer in open_now:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/a/b?c=d?e", "/a/b"),
        (b"/a%2Fb%20c", "/a/b c"),
        (b"//x/a", "//x/a"),
        (b"http://x/a?b=c", "/a"),
        (b"http://x:80/a%20b", "/a b"),
    ],
)
async def test_a_target_is_read_in_every_form_it_may_have(target: bytes, path: str) -> None:
    async with serving(idle="1s") as site, talking(site) as client:
        await client.say(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert f'"path":"{path}"'.encode() in await client.hear()


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


async def test_an_idle_connection_is_closed_in_silence() -> None:
    async with serving(idle="1s") as site, talking(site) as client:
        await client.say(GET + b"\r\n")
        assert (await client.hear()).count(b"HTTP/1.1") == 1
