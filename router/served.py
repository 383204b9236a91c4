"""What goes out to a client, however it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from policies.frozen import quick
from router.errors import TierwiseError, to_openai


@quick
@dataclass(frozen=True, slots=True)
class Served:
    """An answer: status, headers as ASGI has them, and a body, whole or to be iterated once."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | AsyncIterator[bytes]


def told(error: TierwiseError) -> Served:
    """What a client is told of an error, in OpenAI's shape."""
    status, extra, body = to_openai(error)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return Served(
        status, headers + [(name.encode("latin-1"), value.encode("latin-1")) for name, value in extra.items()], body
    )
