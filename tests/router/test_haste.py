"""Streams that have begun give way, for a while, and nothing that pressed is counted for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from router.backends.client import Client
from router.errors import UpstreamError
from router.haste import HASTE, LONGEST, Haste

pytestmark = pytest.mark.anyio


async def turns(haste: Haste) -> int:
    """How many turns of the loop a stream gives way for, while another task counts them."""
    counted = 0

    async def count() -> None:
        nonlocal counted
        while True:
            await asyncio.sleep(0)
            counted += 1

    counting = asyncio.create_task(count())
    await haste.give_way()
    counting.cancel()
    return counted


async def test_it_gives_way_no_longer_than_something_presses_and_never_for_ever() -> None:
    haste = Haste()
    assert await turns(haste) == 0
    haste.pressing = 1
    assert 0 < await turns(haste) <= LONGEST
    asyncio.get_running_loop().call_soon(setattr, haste, "pressing", 0)
    await haste.give_way()
    assert haste.pressing == 0


@pytest.mark.parametrize("said", [b"HTTP/1.1 200", b"", b"nonsense"])
async def test_nothing_presses_once_a_backend_has_gone(said: bytes) -> None:
    async with backend(said) as client:
        with pytest.raises(UpstreamError, match=r"before it answered|not HTTP"):
            await client.post("chat/completions", b"{}")
        assert HASTE.pressing == 0


async def test_nothing_presses_once_a_backend_has_begun_to_answer() -> None:
    async with backend(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as client:
        assert (await client.post("chat/completions", b"{}")).status == 200
        assert HASTE.pressing == 0


@asynccontextmanager
async def backend(said: bytes) -> AsyncIterator[Client]:
    """A client of a server that says this to everybody, in two pieces, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (said[:9], said[9:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", {}, connect=5.0)
    try:
        yield client
    finally:
        await client.aclose()
        await asyncio.sleep(0.05)
        server.close()
        await server.wait_closed()
