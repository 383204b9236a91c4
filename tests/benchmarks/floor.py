"""The floor: the least that a Python proxy can do, as a ratio's denominator.

A raw ASGI application under the same server as Tierwise, which parses the body, puts the backend's model into it, sends
it upstream over its own keep-alive connections, and hands on what comes back, bytes as they come. It decides nothing,
counts nothing, times nothing out, and takes no notice of a client that leaves.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvicorn

from tests.benchmarks.upstream import MODEL


class Upstream(asyncio.Protocol):
    """One connection upstream."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._turn()

    def _turn(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.pieces: list[bytes] = []
        self.content_type = b""
        self.began = self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, data: bytes) -> None:
        self._turn()
        self._transport.write(data)

    async def wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.content_type = value

    def on_headers_complete(self) -> None:
        self.began = True

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.ended = True


class Floor:
    """The application."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._host, self._port = parts.hostname, parts.port
        self._idle: list[Upstream] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        raw, more = b"", True
        while more:
            message = await receive()
            raw += message.get("body", b"")
            more = message.get("more_body", False)
        body = orjson.loads(raw)
        body["model"] = MODEL
        sent = orjson.dumps(body)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        upstream = self._idle.pop() if self._idle else await self._connect()
        upstream.send(b"%scontent-length: %d\r\n\r\n%s" % (head, len(sent), sent))
        while not upstream.began or not (upstream.ended or upstream.pieces):
            await upstream.wait()
        headers = [(b"content-type", upstream.content_type)]
        if upstream.ended:
            whole = b"".join(upstream.pieces)
            headers.append((b"content-length", str(len(whole)).encode()))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": whole})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while upstream.pieces or not upstream.ended:
                if not upstream.pieces:
                    await upstream.wait()
                pieces, upstream.pieces = upstream.pieces, []
                await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        self._idle.append(upstream)

    async def _connect(self) -> Upstream:
        _, upstream = await asyncio.get_running_loop().create_connection(Upstream, self._host, self._port)
        return upstream


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    uvicorn.run(
        Floor(args.upstream), host="127.0.0.1", port=args.port, loop="uvloop", http="httptools", lifespan="off",
        access_log=False, log_config=None, server_header=False, date_header=False,
    )  # fmt: skip
