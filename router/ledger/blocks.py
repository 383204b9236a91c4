"""Entries as they lie in the journal: those of one commit together, compressed, field by field or a line of JSON each.

One row a commit costs a third of what a row an entry does, and a tenth of the room: entries are much alike. What
follows the compressed part is the bulk of a layout (see `columns`).
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from typing import Any

import orjson

from policies.values import Entry
from router.ledger import codec, columns

_FASTEST = 1
_FEW = 12
"""Fewer entries than these are written more quickly as lines."""


def of(entries: Sequence[Entry]) -> bytes:
    """A block of entries."""
    if len(entries) >= _FEW:
        with suppress(ValueError, TypeError):
            layout = columns.lay(entries)
            return zlib.compress(layout.text, _FASTEST) + layout.bulk
    return pack(list(map(codec.encode, entries)))


def pack(bodies: Sequence[bytes]) -> bytes:
    """A block of entries as `codec.encode` writes them."""
    return zlib.compress(b"\n".join(bodies), _FASTEST)


def put(db: sqlite3.Connection, seq: int, times: Sequence[float], block: bytes) -> None:
    """Put a commit's entries, of these times, into the table of blocks, in place of those that are there."""
    row = (seq, min(times), max(times), len(times), block)
    db.execute("INSERT OR REPLACE INTO blocks VALUES (?,?,?,?,?)", row)


def put_lines(db: sqlite3.Connection, seq: int, some: Sequence[tuple[float, bytes]]) -> None:
    """Put entries that are lines already, each with its time."""
    put(db, seq, [at for at, _ in some], pack([body for _, body in some]))


def unpack(block: bytes, most: int | None = None) -> list[bytes]:
    """The entries of a block, or the last so many, a line of JSON each. An entry by itself, as once written, is one.

    Raises `sqlite3.DatabaseError` for one that is damaged.
    """
    try:
        if block.startswith(b"{"):
            return [block]
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(block)
        if not unpacking.eof:
            raise ValueError("its end is missing")
        if text.startswith(b"["):
            return columns.lines(columns.Layout(text, unpacking.unused_data), most)
        return text.split(b"\n")[-(most or 0) :]
    except (zlib.error, ValueError) as error:
        raise sqlite3.DatabaseError(f"a block of entries is damaged: {error}") from error


def facts(body: bytes) -> dict[str, Any]:
    """An entry's fields, undecoded: enough to see its ``id`` and ``at``. Raises `sqlite3.DatabaseError`."""
    try:
        fields: dict[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise sqlite3.DatabaseError(f"an entry is damaged: {error}") from error
    return fields


def in_order(blocks: Iterable[tuple[float, bytes]], since: float, until: float) -> Iterator[bytes]:
    """The entries of a half-open range of Unix time, oldest first.

    Blocks come by the time of their oldest entry, which is given with each. Only those that overlap are held.
    """
    waiting: list[tuple[float, int, bytes]] = []
    number = 0
    for oldest, block in blocks:
        while waiting and waiting[0][0] < oldest:
            yield heappop(waiting)[2]
        for body in unpack(block):
            at, number = facts(body)["at"], number + 1
            if since <= at < until:
                heappush(waiting, (at, number, body))
    while waiting:
        yield heappop(waiting)[2]
