"""The data plane's HTTP client: the one seam between Tierwise and a backend's socket.

One `Client` per backend: its own pool of keep-alive connections, so that a slow backend takes nothing from another.
What comes back is bytes as they came; only a compressed body, which is never asked for, is unpacked, within a limit.
Redirects are not followed, cookies are not kept, proxies and credentials are not read from the environment.

It is our own, on asyncio and httptools, because a client is most of what a proxy costs: see tests/benchmarks/README.md.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import cache
from typing import Final
from urllib.parse import unquote, urlsplit

from router.backends.http1 import Connection, Gone, Incoming, ProtocolError
from router.errors import Kind, UpstreamError, keep_secret, redact

LARGEST_BODY: Final = 64 * 1024 * 1024
"""The most bytes of one response that is not streamed, after unpacking."""

LARGEST_ERROR: Final = 64 * 1024
"""How much of an error response is read."""

_KEEP_ALIVE = 55.0
"""Seconds after which an idle connection is not used again; servers commonly close theirs after 60 or more."""

_DIGITS = 20
"""Of a body's length, which the parser has found to fit into 64 bits; whatever comes before them is zeros."""

_PATHS_KEPT = 16
_PIECE = 64 * 1024
_SAFE = re.compile(r"[\x21-\x7e]*")
_SAFE_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Client:
    """POSTs and GETs under one base URL. ``connect`` is in seconds and covers name resolution, TCP and TLS.

    ``reuse`` is False for servers that close connections after a response without having said so.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], *, connect: float, reuse: bool = True) -> None:
        """Raises `ValueError` when the URL is not ``http`` or ``https`` or a header would break a line."""
        url = urlsplit(base_url.rstrip("/"))
        if url.scheme not in ("http", "https") or not url.hostname or not _SAFE.fullmatch(base_url):
            raise ValueError(f"not a base URL: {redact(base_url)!r}; expected http://host:port/path or https://…")
        self._secure = url.scheme == "https"
        self._host, self._port = url.hostname, url.port or (443 if self._secure else 80)
        self._root = url.path
        told = {"host": url.netloc.rpartition("@")[2], "accept-encoding": "identity"}
        if url.username is not None:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
            told["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
            keep_secret(unquote(url.password or ""), told["authorization"].removeprefix("Basic "))
        if not reuse:
            told["connection"] = "close"
        lines = {**told, "content-type": "application/json", **headers}
        if not all(_SAFE.fullmatch(name) and _SAFE_VALUE.fullmatch(value) for name, value in lines.items()):
            raise ValueError("a header's name or value holds a character that HTTP does not allow")
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")
        self._posts: dict[str, bytes] = {}
        self._connect_timeout = connect
        self._idle: dict[Connection, None] = {}
        self._connections: set[Connection] = set()

    def post(
        self, path: str, body: bytes, on_sent: Callable[[], None] | None = None, *, urgent: bool = False
    ) -> Awaitable[Response]:
        """Send ``body``; returns when response headers are there. Raises `UpstreamError`.

        ``on_sent`` is called once there is a connection. What is not ``urgent`` goes with what others send.
        """
        head = self._posts.get(path)
        if head is None:
            head = b"POST %s HTTP/1.1\r\n%scontent-length: " % (self._target(path), self._lines)
            if len(self._posts) < _PATHS_KEPT:
                self._posts[path] = head
        return self._exchange(b"".join((head, str(len(body)).encode(), b"\r\n\r\n", body)), on_sent, urgent)

    def get(self, path: str) -> Awaitable[Response]:
        """GET a path; returns when response headers are there. Raises `UpstreamError`."""
        return self._exchange(b"GET %s HTTP/1.1\r\n%s\r\n" % (self._target(path), self._lines), None, False)

    async def aclose(self) -> None:
        """Close every connection."""
        self._idle.clear()
        for connection in tuple(self._connections):
            connection.abort()
        self._connections.clear()
        await asyncio.sleep(0)

    def _target(self, path: str) -> bytes:
        """The request target: a path from the server's root where it begins with a slash, else under the base URL."""
        target = path if path.startswith("/") else f"{self._root}/{path}"
        if not _SAFE.fullmatch(target):
            raise UpstreamError("not_found", "The path holds a character that HTTP does not allow.", status=404)
        return target.encode("ascii")

    async def _exchange(self, request: bytes, on_sent: Callable[[], None] | None, urgent: bool) -> Response:
        connection = self._reusable() or await self._connect()
        if on_sent is not None:
            on_sent()
        incoming = connection.send(request, urgent=urgent)
        try:
            while not incoming.status:
                try:
                    await incoming.head()
                finally:
                    incoming.looked()
        except Gone:
            raise UpstreamError("reset", "The backend closed the connection before it answered.") from None
        except ProtocolError:
            raise UpstreamError("malformed", "The backend's response is not HTTP as it should be.") from None
        except BaseException:
            incoming.close()
            raise
        return Response(incoming)

    def _reusable(self) -> Connection | None:
        """The connection used last, if it is still open and not too old; older ones are let go."""
        now = time.monotonic()
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.open and now - connection.idle_since < _KEEP_ALIVE:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        tls, name = (_tls(), self._host) if self._secure else (None, None)
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    self._fresh, self._host, self._port, ssl=tls, server_hostname=name
                )
        except TimeoutError:
            raise _unconnected("timeout", "The backend did not accept a connection in time.") from None
        except socket.gaierror:
            raise _unconnected("dns", "The backend's host name does not resolve.") from None
        except ssl.SSLError:
            raise _unconnected("tls", "The backend's TLS certificate or handshake failed.") from None
        except OSError:
            raise _unconnected("connect", "The backend does not accept connections.") from None
        self._connections.add(connection)
        return connection

    def _fresh(self) -> Connection:
        return Connection(self._keep, self._lose)

    def _keep(self, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        self._idle[connection] = None

    def _lose(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)


def _unconnected(kind: Kind, message: str) -> UpstreamError:
    return UpstreamError(kind, message, phase="connect")


class Response:
    """One response: ``status``, lower-case ``headers``, and a body to be read once, by `read` or by `chunks`."""

    __slots__ = ("_incoming", "headers", "status")

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self.status = incoming.status
        self.headers: Mapping[str, str] = incoming.headers

    async def read(self, largest: int = LARGEST_BODY) -> bytes:
        """The whole body. Raises `UpstreamError` (``cut``, or ``malformed`` when it is longer than ``largest``)."""
        body = self._incoming.arrived()
        if body is not None and len(body) <= largest and "content-encoding" not in self.headers:
            return body
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length[-_DIGITS:]) > largest:
            raise self._too_long(largest)
        pieces, size = [], 0
        async for piece in self.chunks():
            pieces.append(piece)
            size += len(piece)
            if size > largest:
                raise self._too_long(largest)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `UpstreamError` when it breaks off."""
        encoding = self.headers.get("content-encoding")
        unpack = _unpacker(encoding) if encoding is not None else None
        more = self._incoming.more
        try:
            while data := await more():
                if unpack is None:
                    yield data
                else:
                    for piece in unpack.feed(data):
                        yield piece
        except (Gone, ProtocolError):
            raise UpstreamError("cut", "The response broke off before its end.", phase="stream") from None
        if unpack is not None and not unpack.eof:
            raise UpstreamError("cut", "The compressed response broke off before its end.", phase="stream")

    def _too_long(self, largest: int) -> UpstreamError:
        self.close()
        return UpstreamError("malformed", f"The response is longer than {largest} bytes.", status=self.status)

    def close(self) -> None:
        """Drop the connection now, unless the response has arrived whole."""
        self._incoming.close()


class _Unpacker:
    """Unpacks gzip or deflate in bounded pieces, so that a small body cannot become a large one in memory at once."""

    def __init__(self, window: int) -> None:
        self._inflate = zlib.decompressobj(window)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    def feed(self, data: bytes) -> list[bytes]:
        pieces, size = [], 0
        try:
            while data and not self._inflate.eof:
                pieces.append(self._inflate.decompress(data, _PIECE))
                data = self._inflate.unconsumed_tail
                size += len(pieces[-1])
                if size > LARGEST_BODY:
                    raise UpstreamError("malformed", "The compressed response unpacks to more than is allowed.")
        except zlib.error:
            raise UpstreamError("malformed", "The response says that it is compressed, but is not.") from None
        return [piece for piece in pieces if piece]


def _unpacker(encoding: str) -> _Unpacker | None:
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip" | "deflate":
            return _Unpacker(zlib.MAX_WBITS | 32)
    raise UpstreamError("malformed", f"The response is encoded as {redact(encoding)[:40]!r}, which was not asked for.")


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
