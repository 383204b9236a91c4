"""A chat request from its last byte in to its answer's last byte out, past ASGI.

Nearly every request is one of these, and a scope, an event and a message for each step of it cost as much as deciding.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.errors import BUG
from router.served import Served, told

if TYPE_CHECKING:
    from router.guard import Guarded
    from router.runner import Runner

log = logging.getLogger(__name__)

PATH: Final = b"/v1/chat/completions"

LARGEST_BODY: Final = 1024 * 1024
"""Bytes of a body that is taken this way."""

_UNUSUAL: Final = frozenset(
    {b"content-encoding", b"expect", b"sec-fetch-site", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
"""Headers that want more than this: a request with one of them goes the way of all others."""

Chat: TypeAlias = "Callable[[Express], Awaitable[None]]"
"""What answers such a request."""

Admit: TypeAlias = "Callable[[Mapping[bytes, bytes]], Chat | None]"
"""What an application has as ``admit``: asked with the headers, before there is a body. None sends it the other way."""


def fits(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a chat request with these headers can go this way."""
    length = headers.get(b"content-length", b"")
    return length.isdigit() and len(length) < 8 and int(length) <= LARGEST_BODY and headers.keys().isdisjoint(_UNUSUAL)


class Express:
    """One such request, and the client's side of it; it stands where uvicorn has a request's cycle.

    ``headers`` are by lower-case name. ``streamed``: its answer has begun, and does not come whole.
    """

    __slots__ = (
        "_chat", "_guard", "_more", "body", "headers", "keep_alive", "response_complete", "response_started",
        "streamed",
    )  # fmt: skip

    def __init__(self, guard: Guarded, chat: Chat, headers: Mapping[bytes, bytes], keep_alive: bool) -> None:
        self._guard, self._chat = guard, chat
        self.headers = headers
        self.body = b""
        self._more: bytearray | None = None
        self.keep_alive = keep_alive
        self.response_started = self.response_complete = self.streamed = False

    def add(self, piece: bytes) -> None:
        """Take a piece of its body; each of many would have all before it copied if they were joined at once."""
        if not self.body:
            self.body = piece
        elif self._more is None:
            self._more = bytearray(piece)
        else:
            self._more += piece

    def join(self) -> None:
        """Its body is whole."""
        if self._more is not None:
            self.body, self._more = b"".join((self.body, self._more)), None

    async def run(self, runner: Runner) -> None:
        """Have it answered by the task of its connection."""
        try:
            await self._chat(self)
        except asyncio.CancelledError:
            if not runner.lost():
                await self._fail()
                raise
        except Exception as error:
            log.error("unexpected error", exc_info=error)
            await self._fail()
        finally:
            self.body = b""  # the connection holds us until its next request

    async def _fail(self) -> None:
        if self.response_started:
            self._guard.transport.close()
        else:
            await self.deliver(told(BUG))

    async def deliver(self, served: Served) -> None:
        """Send an answer, whole or as it comes."""
        self.response_started = True
        guard, body = self._guard, served.body
        flow, transport = guard.flow, guard.transport
        default = guard.server_state.default_headers
        own = b"".join([b"%b: %b\r\n" % header for header in default]) if default else b""
        close = b"" if self.keep_alive else b"connection: close\r\n"
        head = STATUS_LINE[served.status], own, served.lines, close
        if flow.write_paused:
            await flow.drain()
        if isinstance(body, bytes):
            transport.write_whole(b"".join((*head, b"\r\n", body)))
        else:
            self.streamed = True
            send = transport.write_now
            data = b"".join((*head, b"transfer-encoding: chunked\r\n\r\n"))
            async for chunk in body:
                send(b"%b%x\r\n%b\r\n" % (data, len(chunk), chunk))
                data = b""
                if flow.write_paused:
                    await flow.drain()
            send(data + b"0\r\n\r\n")
        self.response_complete = True
        if not self.keep_alive:
            transport.close()
        guard.on_response_complete()
