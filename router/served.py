"""What goes out to a client, however it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from policies.frozen import maker, quick
from router.errors import TierwiseError, to_openai


@quick
@dataclass(frozen=True, slots=True)
class Served:
    """An answer: status, the ``lines`` of its headers, each with its end, and a body, whole or to be iterated once."""

    status: int
    lines: bytes
    body: bytes | AsyncIterator[bytes]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI has them."""
        pairs = (line.partition(b": ") for line in self.lines.split(b"\r\n")[:-1])
        return [(name, value) for name, _, value in pairs]


served = maker(Served)


def told(error: TierwiseError) -> Served:
    """What a client is told of an error, in OpenAI's shape."""
    status, extra, body = to_openai(error)
    headers = {"content-type": "application/json", "content-length": len(body), **extra}
    return Served(status, "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1"), body)
