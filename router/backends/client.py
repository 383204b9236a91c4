"""The data plane's HTTP client: the one seam between Tierwise and a backend's socket.

One `Client` per backend: its own pool of keep-alive connections, so that a slow backend takes nothing from another.
What comes back is bytes as they came; only a compressed body, which is never asked for, is unpacked, within a limit.
Redirects are not followed, cookies are not kept, proxies and credentials are not read from the environment.

The choice of aiohttp is measured: see tests/benchmarks/README.md.
"""

from __future__ import annotations

import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

import aiohttp

from router.errors import Kind, UpstreamError, redact

LARGEST_BODY: Final = 64 * 1024 * 1024
"""The most bytes of one response that is not streamed, after unpacking."""

LARGEST_ERROR: Final = 64 * 1024
"""How much of an error response is read."""

_KEEP_ALIVE_SECONDS = 55
_PIECE = 64 * 1024


class Client:
    """POSTs and GETs under one base URL. ``connect`` is in seconds and covers name resolution, TCP and TLS."""

    def __init__(self, base_url: str, headers: Mapping[str, str], *, connect: float) -> None:
        self._base = base_url.rstrip("/")
        self._headers = {"accept-encoding": "identity", "content-type": "application/json", **headers}
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes) -> Response:
        """Send ``body``; returns when response headers are there. Raises `UpstreamError`."""
        return await self._request("POST", path, body)

    async def get(self, path: str) -> Response:
        """GET a path; returns when response headers are there. Raises `UpstreamError`."""
        return await self._request("GET", path, None)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(self, method: str, path: str, body: bytes | None) -> Response:
        session = self._session or self._open()
        url = path if path.startswith("http") else f"{self._base}/{path}"
        try:
            response = await session.request(method, url, data=body, allow_redirects=False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _before_response(error) from None
        return Response(response)

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS, ttl_dns_cache=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            skip_auto_headers=("User-Agent", "Accept"),
            timeout=self._timeout,
            auto_decompress=False,
            trust_env=False,
        )
        return self._session


class Response:
    """One response: ``status``, lower-case ``headers``, and a body to be read once, by `read` or by `chunks`."""

    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    async def read(self, largest: int = LARGEST_BODY) -> bytes:
        """The whole body. Raises `UpstreamError` (``cut``, or ``malformed`` when it is longer than ``largest``)."""
        length = self._response.content_length
        if length is not None and length > largest:
            raise self._too_long(largest)
        if length is not None and "content-encoding" not in self.headers:
            try:
                return await self._response.read()
            except (aiohttp.ClientError, OSError) as error:
                raise _within_response(error) from None
        pieces, size = [], 0
        async for piece in self.chunks():
            pieces.append(piece)
            size += len(piece)
            if size > largest:
                raise self._too_long(largest)
        return b"".join(pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `UpstreamError` when it breaks off."""
        unpack = _unpacker(self.headers.get("content-encoding", ""))
        content = self._response.content
        try:
            while data := await content.readany():
                if unpack is None:
                    yield data
                else:
                    for piece in unpack.feed(data):
                        yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise _within_response(error) from None
        if unpack is not None and not unpack.eof:
            raise UpstreamError("cut", "The compressed response broke off before its end.", phase="stream")

    def _too_long(self, largest: int) -> UpstreamError:
        self.close()
        return UpstreamError("malformed", f"The response is longer than {largest} bytes.", status=self.status)

    def close(self) -> None:
        """Drop the connection now, unless the body was read to its end and it is already back in the pool."""
        self._response.close()


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


def _before_response(error: Exception) -> UpstreamError:
    """What kept a response from beginning, without the address it was meant for."""
    kind: Kind
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ServerTimeoutError() | TimeoutError():
            return UpstreamError("timeout", "The backend did not accept a connection in time.", phase="connect")
        case aiohttp.ClientConnectorDNSError():
            kind, message = "dns", "The backend's host name does not resolve."
        case aiohttp.ClientSSLError() | ssl.SSLError() | ssl.CertificateError():
            kind, message = "tls", "The backend's TLS certificate or handshake failed."
        case aiohttp.ClientConnectorError():
            kind, message = "connect", "The backend does not accept connections."
        case aiohttp.ClientResponseError():
            return UpstreamError("malformed", "The backend's response is not HTTP as it should be.", phase="headers")
        case aiohttp.InvalidURL():
            kind, message = "connect", "The backend's address is not a URL that can be called."
        case _:
            return UpstreamError("reset", "The backend closed the connection before it answered.", phase="headers")
    return UpstreamError(kind, message, phase="connect")


def _within_response(error: Exception) -> UpstreamError:
    return UpstreamError("cut", "The response broke off before its end.", phase="stream")
