"""The model server that every benchmark's requests end at: ``python -m tests.benchmarks.upstream [--port N]``.

It speaks just enough HTTP/1.1 and OpenAI to be called by any router, and costs so little that it is not what is
measured: an answer of about 1 KB, or a stream of 100 chunks of which each goes out in a turn of the event loop of its
own, so that they arrive as a model's would and not in one piece. Who waits for the first of them, on the same core,
often waits for the rest to be sent as well, which nobody does whose model runs elsewhere. For the user ``paused`` the
first content is followed by a pause, as it is from a model; for ``yielding`` the server gives way to whoever would run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
from collections.abc import Iterator
from typing import cast

import uvloop

MODEL = "bench-7b"
CHUNKS = 100
_FRAME = {"id": "chatcmpl-bench", "created": 1700000000, "model": MODEL, "system_fingerprint": "fp_bench"}
_USAGE = {"prompt_tokens": 230, "completion_tokens": 100, "total_tokens": 330}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream": ?true')
_USER = re.compile(rb'"user": ?"(\w+)"')
_PAUSE = 1e-3
"""Seconds."""


def _whole() -> bytes:
    message = {"role": "assistant", "content": "It depends on what you measure, and how often you do it. " * 12}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _response({**_FRAME, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _response(document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _pieces() -> Iterator[bytes]:
    frame = {**_FRAME, "object": "chat.completion.chunk"}
    yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + _event(
        {**frame, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    )
    for number in range(CHUNKS - 3):
        delta = {"content": f" word{number}"}
        yield _event({**frame, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]})
    yield _event({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield _event({**frame, "choices": [], "usage": _USAGE})
    yield _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _event(document: object) -> bytes:
    return _chunk(b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_ANSWER, _STREAMED = _whole(), tuple(_pieces())
_HEALTHY = _response(
    {"status": "ok", "object": "list", "data": [{"id": MODEL, "object": "model"}], "model_path": MODEL}
)


class Server(asyncio.Protocol):
    """One connection: requests in, answers out, one after the other."""

    def __init__(self) -> None:
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        head = self._held.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._held, 0, head + 2)
        end = head + 4 + (int(length[1]) if length else 0)
        if len(self._held) < end:
            return
        request, self._held = self._held[:end], self._held[end:]
        if not request.startswith(b"POST"):
            self._transport.write(_HEALTHY)
        elif _STREAM.search(request, head):
            pieces, named = iter(_STREAMED), _USER.search(request, head)
            user = named[1] if named else b""
            _be_scheduled(os.SCHED_IDLE if user == b"yielding" else os.SCHED_OTHER)
            self._send(pieces)
            asyncio.get_running_loop().call_soon(self._send_on, pieces, _PAUSE if user == b"paused" else 0.0)
        else:
            self._transport.write(_ANSWER)

    def _send_on(self, pieces: Iterator[bytes], pause: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        if self._send(pieces):
            if pause:
                loop.call_later(pause, self._send_on, pieces)
            else:
                loop.call_soon(self._send_on, pieces)

    def _send(self, pieces: Iterator[bytes]) -> bool:
        piece = next(pieces, None)
        if piece is None or self._transport.is_closing():
            return False
        self._transport.write(piece)
        return True


def _be_scheduled(policy: int) -> None:
    if os.sched_getscheduler(0) != policy:
        os.sched_setscheduler(0, policy, os.sched_param(0))


async def serve(port: int) -> None:
    """Serve on loopback until the process ends; the port is printed first."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(serve(parser.parse_args().port))
