"""A backend that misbehaves on a real socket, in whichever way it is told to, and counts what it sees."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import orjson


class Peer:
    """One request as the misbehaving backend has it: what was asked, and raw bytes back.

    After its behaviour returns, the connection is used for the next request if the response was ended with `end` or
    `whole`, and closed otherwise.
    """

    def __init__(self, upstream: Upstream, writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
        self.upstream = upstream
        self.writer = writer
        self.body = body
        self.number = number
        self.stream = bool(body.get("stream"))
        self.complete = False

    async def raw(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError("the caller has hung up")
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, kind: str = "", *lines: str) -> None:
        kind = kind or ("text/event-stream" if self.stream else "application/json")
        told = "".join(f"{line}\r\n" for line in (f"content-type: {kind}", "transfer-encoding: chunked", *lines))
        await self.raw(f"HTTP/1.1 {status} Whatever\r\n{told}\r\n".encode())

    async def piece(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        self.complete = True
        await self.raw(b"0\r\n\r\n")

    async def whole(self, status: int, document: object, *lines: str, kind: str = "application/json") -> None:
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        told = "".join(f"{line}\r\n" for line in (f"content-type: {kind}", f"content-length: {len(body)}", *lines))
        self.complete = True
        await self.raw(f"HTTP/1.1 {status} Whatever\r\n{told}\r\n".encode() + body)

    async def silence(self) -> None:
        """Say nothing until the caller hangs up."""
        await self.upstream.hung_up(self.writer)

    def reset(self) -> None:
        """Close with a TCP reset, unless the caller has hung up first."""
        if self.writer.is_closing():
            return
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour: TypeAlias = Callable[[Peer], Awaitable[None]]


class Upstream:
    """A server whose every request meets one behaviour. ``url`` is its base URL.

    ``requests`` are the bodies received (``heard`` gets each as it came), ``serving`` counts requests being answered,
    ``abandoned`` those whose caller hung up first, ``connections`` the sockets now open.
    """

    def __init__(self, behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.heard: Callable[[bytes], object] = lambda body: None
        self.serving = self.abandoned = self.connections = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hung_up: dict[asyncio.StreamWriter, asyncio.Event] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def idle(self) -> None:
        """Return when no request is being answered."""
        await self._idle.wait()

    async def idle_at_once(self) -> None:
        """Return when no request is being answered; that must take no more than a few turns of the event loop.

        Turns, not milliseconds, so that a loaded machine changes nothing: 200 of them take about 20 ms on an idle one.
        """
        for _ in range(200):
            if not self.serving:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{self.serving} requests are still being answered")

    async def busy(self) -> None:
        """Return when a request is being answered."""
        await self._busy.wait()

    async def hung_up(self, writer: asyncio.StreamWriter) -> None:
        """Return when the caller has closed its end."""
        await self._hung_up[writer].wait()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        gone = self._hung_up[writer] = asyncio.Event()
        try:
            while await self._request(reader, writer, gone):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.connections -= 1
            del self._hung_up[writer]
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event) -> bool:
        """Answer one request; whether the connection can carry another."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
        if head.startswith(b"get"):
            await Peer(self, writer, {}, 0).whole(200, {"object": "list", "data": []})
            return True
        self.heard(body)
        self.requests.append(orjson.loads(body))
        peer = Peer(self, writer, self.requests[-1], len(self.requests))
        self.serving += 1
        self._idle.clear()
        self._busy.set()
        answering = asyncio.ensure_future(self.behaviour(peer))
        listening = asyncio.ensure_future(self._listen(reader, gone))
        try:
            await asyncio.wait((answering, listening), return_when=asyncio.FIRST_COMPLETED)
            if listening.done() and not peer.complete:
                self.abandoned += 1
            if listening.done() and not answering.done():
                await asyncio.wait((answering,), timeout=0.05)
        finally:
            self.serving -= 1
            if not self.serving:
                self._idle.set()
                self._busy.clear()
            for task in (answering, listening):
                task.cancel()
            results = await asyncio.gather(answering, listening, return_exceptions=True)
        if isinstance(results[0], Exception) and not isinstance(results[0], ConnectionError):
            raise results[0]
        return peer.complete and not gone.is_set()

    async def _listen(self, reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
        """Notice the end of the connection while a request is answered; nothing else may come in the meantime."""
        with suppress(ConnectionError):
            assert not await reader.read(1)
        gone.set()
