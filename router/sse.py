"""Server-sent events as bytes: cut a stream into whole events without changing a byte, and look inside one.

The framing is WHATWG's (html.spec.whatwg.org, "Server-sent events"): lines end in LF, CRLF or CR, an empty line ends an
event, lines that start with a colon are comments, and several ``data:`` lines of one event join with LF.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

LARGEST_EVENT = 16 * 1024 * 1024
"""The most bytes that may pass without an event's end."""

DONE = b"data: [DONE]\n\n"

_END = re.compile(rb"(?:\r\n|\n|\r(?!\n|\Z))(?:\r\n|\n|\r(?!\n|\Z))")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """More than `LARGEST_EVENT` bytes came without the end of an event."""


class Splitter:
    """Cuts what arrives into whole events, terminators included.

    Nothing is lost and nothing is changed: all that `feed` returned, joined, followed by ``rest``, is all that was fed.
    """

    __slots__ = ("_held", "_largest")

    def __init__(self, largest: int = LARGEST_EVENT) -> None:
        self._held = bytearray()
        self._largest = largest

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes, oldest first. Raises `EventTooLarge`."""
        held = self._held
        # By `find`, here and below: `in` first takes what is looked for as a number, and drops an error if it is none.
        if not held and data.find(b"\r") < 0:
            *whole, rest = data.split(b"\n\n")
            held += rest
            events = [event + b"\n\n" for event in whole]
        else:
            events = self._cut(data)
        if len(held) > self._largest:
            raise EventTooLarge(f"{len(held)} bytes without the end of an event")
        return events

    def _cut(self, data: bytes) -> list[bytes]:
        held = self._held
        seen = max(0, len(held) - 3)
        plain = data.find(b"\n") < 0 and data.find(b"\r") < 0 and not held.endswith(b"\r")
        held += data
        events: list[bytes] = []
        if plain:
            return events
        start = 0
        for end in _END.finditer(held, seen):
            events.append(bytes(held[start : end.end()]))
            start = end.end()
        if start:
            del held[:start]
        return events

    @property
    def rest(self) -> bytes:
        """What has come since the last whole event."""
        return bytes(self._held)


def data_of(event: bytes) -> bytes | None:
    """The event's data, its ``data:`` lines joined with LF; None where it has none (a comment, a keep-alive)."""
    if event[:6] == b"data: " and event.find(b"\n") == len(event) - 2 and event.find(b"\r") < 0:
        return event[6:-2]
    lines = []
    for line in event.removeprefix(_BOM).splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines) if lines else None


def event_of(document: Any) -> bytes:
    """A JSON document as one event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"
