"""What the other side of a connection says of itself with every message, so that it need not be parsed each time."""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_DIGITS: Final = 7
"""Of a length that is read here; there is more to say of a longer one than whether it is the body's."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,%d})\r\n" % _DIGITS, re.IGNORECASE)


class Known(Generic[T]):
    """What a parser read off the head of a message, for the next ones that say the same, to the byte.

    Only the length of their bodies may differ. It is for whoever knows that the parser is between two messages.
    """

    __slots__ = ("_after", "_before", "_begin", "_said")

    def __init__(self) -> None:
        self._before = self._after = b""
        self._begin = 0
        self._said: T | None = None

    def again(self, data: bytes) -> tuple[T, bytes, bytes] | None:
        """What is known of such a message, the length of its body as it is written, and the body.

        None where this is no such message, not all of it or more.
        """
        said, begin = self._said, self._begin
        if said is None or not data.startswith(self._before):
            return None
        end = data.find(b"\r", begin, begin + _DIGITS + 1)
        if not data.startswith(self._after, end):
            return None
        length, body = data[begin:end], data[end + len(self._after) :]
        return (said, length, body) if length.isdigit() and int(length) == len(body) else None

    def learn(self, data: bytes, said: T, body: bytes) -> None:
        """Remember what the parser read off a head, if ``data`` is one message with this body and nothing else."""
        head = data.removesuffix(body)
        length = _LENGTH.search(head)
        if length is not None and head.find(b"\r\n\r\n") == len(head) - 4 and int(length[1]) == len(body):
            self._begin, self._said = length.start(1), said
            self._before, self._after = head[: self._begin], head[length.end(1) :]
