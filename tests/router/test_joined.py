from __future__ import annotations

import asyncio
from typing import cast

import pytest

from router.haste import HASTE
from router.joined import Joined

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Server(asyncio.Protocol):
    """Tells when its connection was made, and when it was lost."""

    def __init__(self) -> None:
        self.connected: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected.set_result(cast(asyncio.Transport, transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_a_head_goes_out_with_what_follows_and_nothing_to_who_has_gone() -> None:
    loop, ours = asyncio.get_running_loop(), Server()
    listening = await loop.create_server(lambda: ours, "127.0.0.1", 0)
    async with listening:
        answers, requests = await asyncio.open_connection(*listening.sockets[0].getsockname())
        transport = await ours.connected
        joined = Joined(transport, loop)
        joined.write(HEAD)
        joined.write(b"body")
        assert await answers.readexactly(len(HEAD + b"body")) == HEAD + b"body"
        transport.abort()
        await ours.lost.wait()
        joined.write(b"more")
        joined.write(HEAD)
        joined.write_whole(b"and more")
        assert await answers.read() == b""
        requests.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
@pytest.mark.parametrize("close", [True, False])
async def test_an_answer_that_waits_for_others_goes_out_whole_and_once(
    close: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HASTE, "pressing", 1)
    loop, ours = asyncio.get_running_loop(), Server()
    listening = await loop.create_server(lambda: ours, "127.0.0.1", 0)
    async with listening:
        answers, requests = await asyncio.open_connection(*listening.sockets[0].getsockname())
        joined = Joined(await ours.connected, loop)
        joined.write_whole(HEAD)
        joined.write_whole(b"body")
        if close:
            joined.close()
        assert await answers.readexactly(len(HEAD + b"body")) == HEAD + b"body"
        joined.close()
        assert await answers.read() == b""
        requests.close()
