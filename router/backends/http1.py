"""One HTTP/1.1 connection to a backend: a request out, a response in, parsed by httptools as the bytes arrive.

Nothing here waits longer than it is waited for: whoever awaits may be cancelled at any moment, and the connection is
dropped then. Protocol errors are `ProtocolError`, a connection that goes away is `Gone`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, cast

import httptools

from router.haste import HASTE, Waiter
from router.known import Known
from router.outbox import OUTBOX

LARGEST_HEAD: Final = 64 * 1024
"""The most bytes of status line and headers."""

_HIGH = 256 * 1024
"""Bytes that wait to be read before the backend is made to wait, and begins to send again at half of it."""

_BODILESS = frozenset({204, 304})


class Gone(Exception):
    """The connection closed before the response was complete."""


class ProtocolError(Exception):
    """What came is not HTTP/1.1 as it should be."""


class Incoming:
    """One response as it arrives: ``status`` and lower-case ``headers`` first, then a body to be read once.

    ``pieces`` of it, of ``size`` bytes together, wait to be read. Who waits for an ``urgent`` one goes on as it comes.
    """

    __slots__ = (
        "_begins", "_connection", "_error", "_presses", "_urgent", "_waiter", "complete", "headers", "pieces", "size",
        "status",
    )  # fmt: skip

    def __init__(self, connection: Connection, urgent: bool) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.complete = False
        self._connection = connection
        self._error: Exception | None = None
        self._urgent, self._begins, self._presses = urgent, False, 0
        self.pieces: list[bytes] = []
        self.size = 0
        self._waiter: asyncio.Future[None] | None = None

    async def more(self) -> bytes:
        """What has come since the last call, waiting for something to come; empty at the end of the body.

        Raises `Gone` or `ProtocolError`, once everything that came before it has been read.
        """
        while not self.pieces:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._coming()
        pieces, self.pieces = self.pieces, []
        if self.size > _HIGH // 2 and not self.complete:
            self._connection.resume()
        self.size = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def arrived(self) -> bytes | None:
        """The whole body, where it has come to its end and nothing of it has been read; it stays to be read."""
        return b"".join(self.pieces) if self.complete else None

    def head(self) -> asyncio.Future[None]:
        """What is done as soon as status and headers may be there. Raises `Gone` or `ProtocolError`.

        Whoever has waited for it, in vain or not, says so with `looked`.
        """
        if self._error is not None:
            raise self._error
        self._begins = True
        return self._coming()

    def _coming(self) -> asyncio.Future[None]:
        loop = self._connection.loop
        self._waiter = waiter = Waiter(loop=loop) if self._urgent else loop.create_future()
        return waiter

    def looked(self) -> None:
        """Nobody waits for the head any more."""
        HASTE.pressing -= self._presses
        self._begins, self._presses = False, 0

    def close(self) -> None:
        """Drop the connection, unless the response is complete."""
        if not self.complete:
            self._connection.abort()

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        if self._error is None and not self.complete:
            self._error = error
        self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if isinstance(waiter, Waiter):
            waiter.go()
        else:
            waiter.set_result(None)
            if self._begins:
                self._presses = 1
                HASTE.pressing += 1


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    ``on_idle`` is told when it can carry another, ``on_lost`` when it is no more. ``loop`` is that on which it is made.
    """

    def __init__(self, on_idle: Callable[[Connection], None], on_lost: Callable[[Connection], None]) -> None:
        self.idle_since = 0.0
        self.loop = asyncio.get_running_loop()
        self._on_idle, self._on_lost = on_idle, on_lost
        self._transport: asyncio.Transport | None = None
        self._over = False
        self._unsent = b""
        self._parser = httptools.HttpResponseParser(self)
        self._incoming: Incoming | None = None
        self._headers: dict[str, str] = {}
        self._head_size = self._named = 0
        self._reading = True
        self._known = Known[tuple[int, Mapping[str, str]]]()

    @property
    def open(self) -> bool:
        """Whether a request can be sent."""
        return not self._over and self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, *, urgent: bool) -> Incoming:
        """Send a request, with what the loop's turn sends to others unless ``urgent``; what comes back arrives in the
        `Incoming`."""
        assert self._transport is not None
        self._incoming = Incoming(self, urgent)
        self._headers, self._head_size, self._named = {}, 0, 0
        self._unsent = request
        if urgent:
            self._send()
        else:
            OUTBOX.post(self._send, self.loop)
        return self._incoming

    def _send(self) -> None:
        request, self._unsent = self._unsent, b""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(request)

    def abort(self) -> None:
        """Close at once, without waiting for what has not been sent."""
        self._over = True
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Make the backend wait."""
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        """Let the backend go on."""
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self._transport = cast(asyncio.Transport, transport)

    def eof_received(self) -> None:
        """asyncio: the backend will send no more; asyncio closes the connection then."""
        self._over = True

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: closed. A body without a stated length ends here."""
        self._over = True
        self._on_lost(self)
        incoming = self._incoming
        if incoming is None:
            return
        if exc is None and incoming.status and not self._delimited():
            self.on_message_complete()
            incoming.wake()
        else:
            incoming.fail(Gone())

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes."""
        incoming = self._incoming
        if incoming is None:
            return self.abort()
        between = not self._head_size and not incoming.status
        if between and self._take_alike(incoming, data):
            return None
        if not incoming.status:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(f"{type(error).__name__}: {error}")
            return incoming.wake()  # of what came before, all may be there
        except httptools.HttpParserUpgrade:
            return self._refuse("an upgrade that was not asked for")
        if not incoming.status and self._head_size > LARGEST_HEAD:
            return self._refuse("headers without end")
        if between and incoming.complete and self.open and incoming.status not in _BODILESS:
            same = {name: value for name, value in incoming.headers.items() if name != "content-length"}
            self._known.learn(data, (incoming.status, same), b"".join(incoming.pieces))
        incoming.wake()
        return None

    def _take_alike(self, incoming: Incoming, data: bytes) -> bool:
        """Take a response whose head says what the last one did, without a word to the parser.

        Of its length, which is the body's, nothing is told.
        """
        again = self._known.again(data)
        if again is None:
            return False
        (incoming.status, incoming.headers), _, body = again
        incoming.pieces, incoming.size = [body], len(body)
        incoming.complete, self._incoming = True, None
        self._on_idle(self)
        incoming.wake()
        return True

    def on_message_begin(self) -> None:
        """httptools: a response begins. One that nobody asked for makes the connection unfit for another."""
        if self._incoming is None:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header; repeated ones join with a comma."""
        self._named += len(name) + len(value)
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        """httptools: the head is whole; informational responses (1xx) are passed over."""
        status = self._parser.get_status_code()
        if self._named > LARGEST_HEAD:
            return self._refuse("headers without end")
        if status >= 200 and self._incoming is not None:
            self._incoming.headers, self._incoming.status = self._headers, status
        self._headers = {}
        return None

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        incoming = self._incoming
        if incoming is not None:
            incoming.pieces.append(data)
            incoming.size += len(data)
            if incoming.size > _HIGH:
                self.pause()

    def on_message_complete(self) -> None:
        """httptools: the response is whole, and the connection free for the next where both sides mean to keep it."""
        incoming = self._incoming
        if incoming is None or not incoming.status:
            return
        self._incoming = None
        incoming.complete = True
        if not self._reading:
            self.resume()
        if self.open and self._parser.should_keep_alive():
            self._on_idle(self)
        elif self._transport is not None:
            self._over = True
            self._transport.close()

    def _delimited(self) -> bool:
        """Whether the response says where its body ends."""
        assert self._incoming is not None
        headers, status = self._incoming.headers, self._incoming.status
        return "content-length" in headers or "transfer-encoding" in headers or status in _BODILESS

    def _refuse(self, why: str) -> None:
        if self._incoming is not None:
            self._incoming.fail(ProtocolError(why))
        self.abort()
