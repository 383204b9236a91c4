"""Reads rollups of many hours as they stood at one moment, without keeping the store from others while it does.

Hours are read a few at a time, and those that were written to meanwhile once more, in one step with how far each
chapter of a journal is applied: the store numbers its writes and notes the last one to each hour (see ``ship.lua``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from router.state.values import Snapshot

HOURS_AT_ONCE = 24
LAST = "last"
"""The member of the touched hours whose score is the number of the last write."""


async def read_rollups(client: Any, key: Callable[..., str], hours: range) -> Snapshot:
    """All sums of some hours. ``key`` gives a key's full name by its parts. Raises what redis-py raises."""
    while True:
        written = int(await client.zscore(key("touched"), LAST) or 0)
        sums: dict[int, dict[bytes, bytes]] = {}
        for start in range(hours.start, hours.stop, HOURS_AT_ONCE):
            some = range(start, min(start + HOURS_AT_ONCE, hours.stop))
            pipe = client.pipeline(transaction=False)
            for hour in some:
                pipe.hgetall(key("rollup", str(hour)))
            sums |= zip(some, await pipe.execute(), strict=True)
        applied = await _settle(client, key, sums, written)
        if applied is not None:
            found = ((hour, name.decode(), packed) for hour in hours for name, packed in sums[hour].items())
            return Snapshot(tuple(found), {chapter.decode(): int(number) for chapter, number in applied.items()})


async def _settle(
    client: Any, key: Callable[..., str], sums: dict[int, dict[bytes, bytes]], written: int
) -> dict[bytes, bytes] | None:
    """Read hours again until none was written to since; returns how far chapters are applied. None after a wipe."""
    again: Sequence[int] = sorted(sums)[-1:]
    while True:
        pipe = client.pipeline(transaction=True)
        pipe.zscore(key("touched"), LAST)
        pipe.zrangebyscore(key("touched"), f"({written}", "+inf")
        pipe.hgetall(key("applied"))
        for hour in again:
            pipe.hgetall(key("rollup", str(hour)))
        last, touched, applied, *found = await pipe.execute()
        if int(last or 0) < written:
            return None
        late = {int(hour) for hour in touched if hour != LAST.encode()} & sums.keys()
        if late <= set(again):
            sums |= zip(again, found, strict=True)
            return dict(applied)
        again = sorted(late.union(again))
