"""An upstream that costs next to nothing: ``python -m tests.benchmarks.bench_upstream`` prints its port and serves.

It answers a chat request with a canned answer of about 1 KB, or with a stream of 100 chunks, one write each.
"""

from __future__ import annotations

import asyncio

import orjson
import uvloop

CHUNKS = 100
TEXT = "word " * 150
USAGE = {"prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300}


def _event(document: object) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_FRAME = {"id": "chatcmpl-0123456789", "object": "chat.completion.chunk", "created": 1_732_000_000, "model": "m"}
_MESSAGE = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
_BODY = orjson.dumps({**_FRAME, "object": "chat.completion", "choices": [_MESSAGE], "usage": USAGE})
_DELTA = {"index": 0, "delta": {"content": " hello"}, "logprobs": None, "finish_reason": None}
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = _framed(_event({**_FRAME, "choices": [_DELTA]}))
END = (
    _framed(_event({**_FRAME, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    + _framed(_event({**_FRAME, "choices": [], "usage": USAGE}) + b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class Upstream(asyncio.Protocol):
    """One connection, one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data
        head, end, body = self.heard.partition(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"content-length: ")
        if not end or len(body) < int(length.split(b"\r\n")[0] or 0):
            return
        self.heard = b""
        if b'"stream":true' in body:
            self.task = asyncio.ensure_future(self.stream())
        else:
            self.transport.write(WHOLE)  # type: ignore[attr-defined]

    async def stream(self) -> None:
        write = self.transport.write  # type: ignore[attr-defined]
        write(HEAD)
        for _ in range(CHUNKS):
            write(CHUNK)
            await asyncio.sleep(0)
        write(END)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
