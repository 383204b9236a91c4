"""The guard on real sockets: whatever a client does or leaves undone, its connection ends and costs little."""

from __future__ import annotations

import asyncio
from time import monotonic

import orjson
import pytest

from tests.router.site import GET, LATEST, POST, serving, talking
from tests.waiting import until

pytestmark = pytest.mark.anyio


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


async def test_an_idle_connection_is_closed_in_silence() -> None:
    async with serving(idle="1s") as site, talking(site) as client:
        await client.say(GET + b"\r\n")
        assert (await client.hear()).count(b"HTTP/1.1") == 1
