"""What was spent in each of the last hours, as the store says.

The store numbers its writes and notes the last one to each hour (see ``ship.lua``). So hours are read once, and
again where something was written to them since; the present one each time, since it is written to all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final

from policies.money import NANOS_PER_USD
from router.ledger.sums import SPEND_FIELD, hour_of, unpack_vector
from router.state.snapshot import LAST

ANSWERS: Final = 3
"""How many commands `Spend.ask` puts into a pipeline."""
_HOURS = 26


class Spend:
    """Spending by quarter of an hour, in the hours that any time zone's today may have."""

    def __init__(self, client: Any, key: Callable[..., str]) -> None:
        """``key`` gives a key's full name by its parts."""
        self._client = client
        self._key = key
        self._hours: dict[int, tuple[int, ...]] = {}
        self._written = inf

    def forget(self) -> None:
        """Read all hours anew: the store that answers next may be another."""
        self._written = inf

    def since(self, at: float) -> int:
        """Nano-dollars spent since a Unix time, in whole quarters of an hour."""
        return sum(
            dollars * NANOS_PER_USD + rest
            for hour, spend in self._hours.items()
            for quarter, (dollars, rest) in enumerate(zip(spend[::2], spend[1::2], strict=True))
            if hour * 3600 + quarter * 900 >= at
        )

    def ask(self, pipe: Any, now: float) -> None:
        """Have a pipeline ask for what is new."""
        pipe.zscore(self._key("touched"), LAST)
        pipe.zrangebyscore(self._key("touched"), f"({self._written}", "+inf")
        self._get(pipe, hour_of(now))

    async def take(self, answers: Sequence[Any], now: float) -> None:
        """Take the answers to that, and read other hours that were written to. Raises what redis-py raises."""
        last, touched, spent = answers
        written, present = int(last or 0), hour_of(now)
        hours = range(present - _HOURS, present)
        if written < self._written:
            self._hours, wanted = {}, list(hours)
        else:
            wanted = [int(hour) for hour in touched if hour != LAST.encode() and int(hour) in hours]
        found = {present: spent} | dict(zip(wanted, await self._read(wanted), strict=True))
        self._hours = {hour: spend for hour, spend in self._hours.items() if hour in hours} | _unpacked(found)
        self._written = written

    async def _read(self, hours: Sequence[int]) -> Iterable[bytes | None]:
        if not hours:
            return ()
        pipe = self._client.pipeline(transaction=False)
        for hour in hours:
            self._get(pipe, hour)
        found: list[bytes | None] = await pipe.execute()
        return found

    def _get(self, pipe: Any, hour: int) -> None:
        pipe.hget(self._key("rollup", str(hour)), SPEND_FIELD)


def _unpacked(found: Mapping[int, bytes | None]) -> dict[int, tuple[int, ...]]:
    return {hour: unpack_vector(packed) for hour, packed in found.items() if packed}
