"""A closed loop of clients on keep-alive connections, cheap enough to share a core with the upstream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import uvloop

_CONTENT = re.compile(rb'"content": ?"[^"]')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Result:
    """What one run of the loop saw. Times are in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    first_contents: list[float] = field(default_factory=list)
    chunks: int = 0
    failures: list[bytes] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many were answered."""
        return len(self.latencies)

    def quantile_ms(self, q: float) -> float:
        """A quantile of the latencies in milliseconds."""
        return quantile(self.latencies, q) * 1e3


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share ``q`` of the others lies below."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def request(url: str, body: bytes, key: str = "sk-benchmark") -> bytes:
    """One chat completion, as bytes on the wire."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path}/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\naccept: application/json\r\n"
        f"authorization: Bearer {key}\r\nuser-agent: benchmark/1\r\naccept-encoding: identity\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def drive(url: str, bodies: Sequence[bytes], concurrency: int, seconds: float, requests: int | None = None) -> Result:
    """Keep ``concurrency`` requests in flight for some seconds, or for a number of requests, and wait for the last.

    Raises `RuntimeError` when a connection is refused, or closed in the middle of an answer.
    """
    return send(url, [request(url, body) for body in bodies], concurrency, seconds, requests)


def send(url: str, wires: Sequence[bytes], concurrency: int, seconds: float, requests: int | None = None) -> Result:
    """`drive` with requests that are ready to be sent."""
    return uvloop.run(_drive(url, wires, concurrency, seconds, requests))


async def _drive(url: str, wires: Sequence[bytes], concurrency: int, seconds: float, requests: int | None) -> Result:
    loop, result = asyncio.get_running_loop(), Result()
    parts = urlsplit(url)
    run = _Run(cycle(wires), result, requests)
    began = perf_counter()
    run.until = began + seconds
    clients = [_Client(run, loop.create_future()) for _ in range(concurrency)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, parts.hostname, parts.port)  # type: ignore[misc]
    await asyncio.gather(*(client.ended for client in clients))
    result.seconds = perf_counter() - began
    return result


@dataclass(slots=True)
class _Run:
    wires: Iterator[bytes]
    result: Result
    left: int | None
    until: float = 0.0

    def over(self) -> bool:
        if self.left is not None:
            self.left -= 1
            return self.left < 0
        return perf_counter() >= self.until


class _Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, run: _Run, ended: asyncio.Future[None]) -> None:
        self._run, self.ended = run, ended
        self._head = self._body = b""
        self._left = 0
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        if self._run.over():
            self.ended.set_result(None)
            self._transport.close()
            return
        self._head, self._left, self._tail = b"", -1, b""
        self._told = self._said = False
        wire = next(self._run.wires)
        self._began = perf_counter()
        self._transport.write(wire)

    def data_received(self, data: bytes) -> None:
        if self._left == -1:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._head, 0, end + 2)
            self._left = int(length[1]) if length else -2
            data = self._head[end + 4 :]
        if self._left == -2:
            self._streamed(data)
        else:
            self._left -= len(data)
            if self._left <= 0:
                self._answered()

    def _streamed(self, data: bytes) -> None:
        chunks = data.count(b"data: ")
        self._run.result.chunks += chunks
        if chunks and not self._told:
            self._told = True
            self._run.result.first_bytes.append(perf_counter() - self._began)
        if not self._said and _CONTENT.search(data):
            self._said = True
            self._run.result.first_contents.append(perf_counter() - self._began)
        self._tail = (self._tail + data)[-5:]
        if self._tail == b"0\r\n\r\n":
            self._answered()

    def _answered(self) -> None:
        self._run.result.latencies.append(perf_counter() - self._began)
        if not self._head.startswith(b"HTTP/1.1 200"):
            self._run.result.failures.append(self._head)
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(RuntimeError(f"the connection closed in the middle of an answer ({error})"))
