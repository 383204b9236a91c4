"""The ledger: takes an entry without waiting, writes it to the local journal, and has its sums shipped to the store."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from time import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from policies.frozen import maker
from policies.money import GpuClock
from policies.schema import LedgerSettings
from policies.values import Entry
from router.ledger.budgets import NOTHING_HELD, Grant, charges
from router.ledger.counting import Counting
from router.ledger.feedback import Feedback
from router.ledger.journal import Journal
from router.ledger.journal_file import Line
from router.ledger.meter import Meter
from router.ledger.shipper import Shipper
from router.ledger.sums import Packed
from router.state.values import StoreAway

if TYPE_CHECKING:
    from router.state.store import RedisStore

log = logging.getLogger(__name__)

_line = maker(Line)
_NOTHING: Final[Packed] = MappingProxyType({})

JOURNAL_NAME = "journal.sqlite"
_SHIP_SECONDS = 0.5
_LONGEST_PAUSE = 5.0
_DRAIN_SECONDS = 5.0
_METER_SECONDS = 5.0
_KEEP = LedgerSettings()


class Ledger:
    """The books of one proxy process; ``counting`` counts tokens for entries before they are recorded."""

    def __init__(
        self,
        journal: Journal,
        store: RedisStore,
        *,
        every: float = _SHIP_SECONDS,
        keep: LedgerSettings = _KEEP,
    ) -> None:
        """``every`` is seconds between shipments."""
        self._journal = journal
        self._store = store
        self._every = every
        self._shipper: Shipper | None = None
        self._shipping: asyncio.Task[None] | None = None
        self._meter = Meter()
        self._clocks: list[tuple[str, GpuClock]] = []
        self._draining: list[tuple[str, GpuClock]] = []
        self._metered_at = 0.0
        self._keep = keep
        self.counting = Counting()
        self._stopping = asyncio.Event()

    def record(self, entry: Entry, grant: Grant = NOTHING_HELD) -> None:
        """Write an entry down, charge it to the budgets that granted it, and give back what they held; never waits."""
        self._journal.append(_line(entry, charges(grant, entry) if grant.claims else _NOTHING, grant.holds))

    def judge(self, feedback: Feedback) -> None:
        """Write feedback down, in this proxy's journal; never waits."""
        self._journal.judge(feedback)

    def meter(self, clocks: Iterable[tuple[str, GpuClock]]) -> None:
        """Have GPUs billed from now on for as long as these are in force; each clock with its backend's name.

        Clocks that were in force before share their GPUs until nothing is in flight on them any more.
        """
        self._draining += self._clocks
        self._clocks = list(clocks)
        self._metered_at = 0.0
        self._read_meters()

    def _read_meters(self) -> None:
        """Write down what is held, and tell each clock the weight that others have in flight on its GPU."""
        now = time()
        if now - self._metered_at >= _METER_SECONDS:
            self._metered_at = now
            self._write_meter({(name, clock.rate) for name, clock in self._clocks})
        self._draining = [(name, clock) for name, clock in self._draining if clock.weight]
        weights: Counter[str] = Counter()
        for name, clock in (*self._clocks, *self._draining):
            weights[name] += clock.weight
        others = self._store.exchange_weights(weights)
        for name, clock in (*self._clocks, *self._draining):
            clock.others(others.get(name, 0) + weights[name] - clock.weight, now)

    def _write_meter(self, backends: Iterable[tuple[str, int]]) -> None:
        reading = self._meter.read(time(), backends)
        if reading.holds:
            self._journal.meter(reading)

    @property
    def problem(self) -> str:
        """What keeps the books from closing now: the journal's problem, else the store's; empty when all is well."""
        return self._journal.problem or self._store.problem

    @property
    def backlog(self) -> int:
        """Commits in the journal that the store is not known to have applied, as of the last tick."""
        return self._shipper.backlog if self._shipper is not None else 0

    async def start(self) -> None:
        """Open the journal and begin shipping. Raises `OSError` or `sqlite3.Error` when the journal cannot be made."""
        self._shipper = await asyncio.to_thread(Shipper, self._journal.path, self._store, self._keep)
        self._meter = Meter(await asyncio.to_thread(self._journal.start))
        self._shipping = asyncio.create_task(self._ship_until_stopped(), name="shipping")

    async def stop(self) -> None:
        """Commit everything taken, ship what the store will have within a few seconds, and end."""
        await self.counting.close()
        self._stopping.set()
        if self._shipping is not None:
            await self._shipping
        self._write_meter(())
        if not await asyncio.to_thread(self._journal.close):
            log.error(
                "the journal %s cannot be written: entries are lost (%s)", self._journal.path, self._journal.problem
            )
        if self._shipper is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self._shipper.drain()
            self._shipper.close()

    async def _ship_until_stopped(self) -> None:
        assert self._shipper is not None
        pause = self._every
        while not self._stopping.is_set():
            try:
                self._read_meters()
                answered = await self._store.tick(self._shipper.witness)
                if answered:
                    await self._shipper.ship(self._store.applied_at_tick)
                pause = self._every if answered else min(2 * pause, _LONGEST_PAUSE)
                self._shipper.count()
                await self._shipper.keep_small()
            except StoreAway:
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception:
                log.exception("shipping the journal failed; it will be tried again")
                pause = _LONGEST_PAUSE
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
