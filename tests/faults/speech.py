"""The words of a well-behaved answer, as documents and as events, for behaviours to say in part."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import orjson

from tests.faults.upstream import Peer

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
TOKENS: ContextVar[Mapping[str, int]] = ContextVar("TOKENS", default=USAGE)
"""The usage that is stated; a behaviour may set another one for its request."""

WORDS = ("Hello", " wide", " world")
TEXT = "".join(WORDS)


def event(document: object) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choices = [{"index": index, "delta": delta or {}, "finish_reason": finish}]
    return event({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more})


def usage(**more: Any) -> bytes:
    stated = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": TOKENS.get(), **more}
    return event(stated)


ROLE = chunk({"role": "assistant", "content": ""})
SAID = tuple(chunk({"content": word}) for word in WORDS)
STOP = chunk(finish="stop")
DONE = b"data: [DONE]\n\n"


def answer(text: str = TEXT, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "c1", "object": "chat.completion", "model": "m", "choices": choices, "usage": TOKENS.get(), **more}


async def well(peer: Peer) -> None:
    """Answer as one should."""
    if not peer.stream:
        return await peer.whole(200, answer())
    await peer.head()
    for part in (ROLE, *SAID, STOP, usage(), DONE):
        await peer.piece(part)
    return await peer.end()


async def say(peer: Peer, *parts: bytes) -> None:
    """A stream of these parts, ended well."""
    await peer.head()
    for part in parts:
        await peer.piece(part)
    await peer.end()
