"""A server behind the guard on a real socket, and clients of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import orjson
import uvicorn

from policies.schema import Limits
from router.express import Chat, Express
from router.guard import Guarded
from router.haste import HASTE
from router.served import Served
from tests.waiting import until

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
        self.tasks: set[asyncio.Task[Any]] = set()

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
    site.port, state = listener.getsockname()[1], server.server_state
    site.connections, site.tasks = state.connections, state.tasks
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
