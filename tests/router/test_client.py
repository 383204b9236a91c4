"""The data plane's HTTP client against a server that speaks raw bytes: framing, reuse, limits, backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.backends.client import LARGEST_BODY, Client
from router.backends.http1 import Connection, Gone, Incoming, ProtocolError
from router.errors import UpstreamError
from router.haste import HASTE
from router.known import Known
from tests.router.alike import Nothing, pieces

pytestmark = pytest.mark.anyio

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Wire:
    """A server of raw bytes: ``accepted`` connections, and the request heads that came."""

    def __init__(self) -> None:
        self.accepted = 0
        self.heads: list[bytes] = []


@asynccontextmanager
async def speaking(
    *replies: bytes, then_close: bool = False, headers: dict[str, str] | None = None
) -> AsyncIterator[tuple[Client, Wire]]:
    """A client and a server that gives these replies in turn, on however many connections."""
    wire, left = Wire(), list(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.accepted += 1
        try:
            while left:
                head = await reader.readuntil(b"\r\n\r\n")
                wire.heads.append(head)
                _, _, length = head.partition(b"content-length: ")
                await reader.readexactly(int(length) if length else 0)
                writer.write(left.pop(0))
                await writer.drain()
                if then_close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}/v1", headers or {}, connect=1.0)
    try:
        yield client, wire
    finally:
        await client.aclose()
        server.close()
        await server.wait_closed()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def fetch(client: Client) -> tuple[int, bytes]:
    async with asyncio.timeout(2):
        response = await client.post("chat/completions", b"{}")
        return response.status, await response.read()


async def test_what_goes_out() -> None:
    async with speaking(OK, OK, headers={"authorization": "Bearer k"}) as (client, wire):
        await fetch(client)
        async with asyncio.timeout(2):
            await (await client.get("/health")).read()
    lines = wire.heads[0].decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert set(lines[1:-2]) == {
        lines[1], "accept-encoding: identity", "content-type: application/json", "authorization: Bearer k",
        "content-length: 2",
    }  # fmt: skip
    assert lines[1].startswith("host: 127.0.0.1:")
    assert wire.heads[1].startswith(b"GET /health HTTP/1.1\r\n")


async def test_one_connection_serves_many_requests() -> None:
    async with speaking(*[OK] * 5) as (client, wire):
        for _ in range(5):
            assert await fetch(client) == (200, b"ok")
    assert wire.accepted == 1


async def test_a_request_that_waits_for_others_goes_when_the_loop_comes_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking(OK, OK) as (client, wire):
        monkeypatch.setattr(HASTE, "pressing", 1)
        assert [await fetch(client), await fetch(client)] == [(200, b"ok")] * 2
    assert (wire.accepted, len(wire.heads)) == (1, 2)


async def test_a_head_that_is_known_but_for_its_length_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    complete = Connection.on_headers_complete
    monkeypatch.setattr(Connection, "on_headers_complete", lambda self: (parsed.append(1), complete(self))[1])
    alike = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, b"x" * size) for size in (2, 300, 0, 7)]
    other = OK.replace(b"200 OK", b"429 Slow")
    async with speaking(*alike, other, *alike, OK + b"more", OK) as (client, wire):
        assert [(await fetch(client))[1] for _ in alike] == [b"xx", b"x" * 300, b"", b"x" * 7]
        assert len(parsed) == 1
        assert await fetch(client) == (429, b"ok")
        assert [len((await fetch(client))[1]) for _ in alike] == [2, 300, 0, 7]
        assert len(parsed) == 3
        assert wire.accepted == 1
        assert await fetch(client) == (200, b"ok")
        assert await fetch(client) == (200, b"ok")
    assert wire.accepted == 2, "one that says more than it was asked for is not used again"


@pytest.mark.parametrize("line", [b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified"])
async def test_a_response_without_a_body_does_not_get_one_from_a_head_that_is_known(line: bytes) -> None:
    empty = line + b"\r\ncontent-length: 0\r\n\r\n"
    async with speaking(empty, empty.replace(b"0\r", b"5\r") + b"hello", OK) as (client, wire):
        for body in (b"", b"", b"ok"):
            assert (await fetch(client))[1] == body
    assert wire.accepted == 2


async def test_a_length_of_thousands_of_digits_is_a_length() -> None:
    long = OK.replace(b": 2", b": " + b"0" * 5_000 + b"2")
    async with speaking(long, OK, long) as (client, wire):
        for _ in range(3):
            assert await fetch(client) == (200, b"ok")
    assert wire.accepted == 1


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async with speaking(OK, OK, then_close=True) as (client, wire):
        assert await fetch(client) == (200, b"ok")
        async with asyncio.timeout(2):
            while client._connections:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert await fetch(client) == (200, b"ok")
    assert wire.accepted == 2


async def test_connection_close_is_heeded() -> None:
    close = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    async with speaking(close, OK) as (client, wire):
        assert await fetch(client) == (200, b"ok")
        assert await fetch(client) == (200, b"ok")
    assert wire.accepted == 2


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold", b"old"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\nt: 1\r\n\r\n", b"abcd"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nx: a\r\nX: b\r\ncontent-length: 0\r\n\r\n", b""),
    ],
)
async def test_ways_to_frame_a_body(reply: bytes, body: bytes) -> None:
    async with speaking(reply, then_close=True) as (client, _):
        assert await fetch(client) == (200, body)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"", "reset"),
        (b"HTTP/1.1 200", "reset"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "cut"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc", "cut"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "cut"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "malformed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"h" * 70_000 + b"\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (LARGEST_BODY + 1), "malformed"),
        (b"ICY 200 OK\r\n\r\n", "malformed"),
    ],
)  # fmt: skip
async def test_bad_framing_is_named_and_the_connection_dropped(reply: bytes, kind: str) -> None:
    async with speaking(reply, then_close=True) as (client, _):
        with pytest.raises(UpstreamError) as caught:
            await fetch(client)
        assert caught.value.kind == kind
        assert not client._idle


async def test_bytes_after_a_response_do_not_become_the_next_one() -> None:
    async with speaking(OK + OK.replace(b"ok", b"no"), OK) as (client, wire):
        assert await fetch(client) == (200, b"ok")
        assert await fetch(client) == (200, b"ok")
    assert wire.accepted == 2


NO_URLS = ["ftp://host/v1", "host:80/v1", "http://", "http://ho st/v1", "http://host/v1\r\nx: y", "file:///etc/passwd"]


@pytest.mark.parametrize("url", NO_URLS)
async def test_a_base_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="not a base URL"):
        Client(url, {}, connect=1)


@pytest.mark.parametrize("header", [{"x": "a\r\nb: c"}, {"x y": "z"}, {"x": "\x00"}])
async def test_a_header_cannot_break_a_line(header: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        Client("http://127.0.0.1:9", header, connect=1)


@pytest.mark.parametrize("path", ["a b", "a\r\nhost: x", "ü"])
async def test_a_path_cannot_break_a_line(path: str) -> None:
    client = Client("http://127.0.0.1:9", {}, connect=1)
    with pytest.raises(UpstreamError):
        await client.post(path, b"")


async def test_a_password_in_the_url_becomes_a_header_and_is_not_told() -> None:
    client = Client("http://user:pa%20ss@127.0.0.1:9/v1", {}, connect=1)
    assert b"authorization: Basic dXNlcjpwYSBzcw==\r\n" in client._lines
    assert b"host: 127.0.0.1:9\r\n" in client._lines
    assert "pa%20ss" not in repr(client)


async def test_a_reader_that_does_not_read_makes_the_server_wait() -> None:
    sent = 0
    stop = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while sent < 64 * 2**20:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        finally:
            writer.close()
            stop.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", {}, connect=1)
    response = await client.post("x", b"")
    stuck = -1
    while stuck != sent:
        stuck = sent
        await asyncio.sleep(0.05)
    assert sent < 32 * 2**20
    read = sum([len(piece) async for piece in response.chunks()])
    async with asyncio.timeout(5):
        await stop.wait()
    assert read == sent
    await client.aclose()
    server.close()


class Pipe(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.aborted = self.closed = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def begun(incoming: Incoming) -> None:
    while not incoming.status:
        try:
            await incoming.head()
        finally:
            incoming.looked()


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=120),
        st.binary(max_size=40).map(lambda body: b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)),
        st.lists(st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\r\n", b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n",
                                  b"0\r\n\r\n", b"content-length: 3\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"x"]),
                 max_size=10).map(b"".join),
    ),
    st.lists(st.integers(1, 40), max_size=6),
)  # fmt: skip
def test_any_bytes_end_in_a_body_or_an_error(data: bytes, cuts: list[int]) -> None:
    async def run() -> None:
        kept: list[Connection] = []
        connection = Connection(kept.append, lambda lost: None)
        pipe = Pipe()
        connection.connection_made(pipe)
        incoming: Incoming = connection.send(b"GET / HTTP/1.1\r\n\r\n", urgent=True)
        start = 0
        for cut in [*cuts, len(data)]:
            if not pipe.aborted:
                connection.data_received(data[start : start + cut])
            start += cut
        connection.connection_lost(None)
        async with asyncio.timeout(1):
            try:
                await begun(incoming)
                while await incoming.more():
                    pass
                whole = True
            except (Gone, ProtocolError):
                whole = False
        assert whole == incoming.complete
        assert not whole or incoming.status >= 200

    asyncio.run(run())


@settings(max_examples=300, deadline=None)
@given(
    pieces(
        b"HTTP/1.1 200 OK\r\n",
        [b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/1.1 100 Continue\r\n",
         b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 Switching Protocols\r\n",
         b"HTTP/1.0 200 OK\r\n", b"\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\n"],
    )
)  # fmt: skip
def test_what_is_known_of_a_head_changes_nothing_of_any_answer(said: list[bytes]) -> None:
    async def run(known: Known[Any]) -> list[object]:
        connection, pipe, told = Connection(lambda kept: told.append("kept"), lambda lost: None), Pipe(), list[object]()
        connection._known = known
        connection.connection_made(pipe)
        answer: asyncio.Task[object] | None = None
        for piece in said:
            if pipe.closed:
                break
            if answer is None or answer.done():
                answer = asyncio.create_task(read(connection.send(b"", urgent=False)))
            connection.data_received(piece)
            await settled()
            told.append((connection.open, answer.done() and answer.result()))
        connection.connection_lost(None)
        await settled()
        assert answer is not None
        return [*told, answer.result()]

    async def read(incoming: Incoming) -> object:
        try:
            await begun(incoming)
            told = [header for header in incoming.headers.items() if header[0] != "content-length"]
            heard: list[object] = [incoming.status, *told]
            while piece := await incoming.more():
                heard.append(piece)
            return heard
        except (Gone, ProtocolError) as error:
            return type(error)

    async def settled() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    assert asyncio.run(run(Known())) == asyncio.run(run(Nothing()))
