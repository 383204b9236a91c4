"""The ledger: takes an entry without waiting, writes it to the local journal, and ships sums to the store.

One worker of a data folder ships its journal, whichever holds the lock beside it; when that one dies another takes
over. A batch is whatever the store has not applied yet of the journal, so redelivery after a lost acknowledgement
changes nothing, and a store that has lost data is sent it again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import time
from typing import IO, TYPE_CHECKING

from policies.money import GpuClock
from policies.values import Entry
from router.ledger.budgets import Grant, charges
from router.ledger.journal import Journal
from router.ledger.journal_file import JournalFile, Line
from router.ledger.sums import held
from router.state.values import StoreAway

if TYPE_CHECKING:
    from router.state.store import RedisStore

log = logging.getLogger(__name__)

JOURNAL_NAME = "journal.sqlite"
_SHIP_SECONDS = 0.5
_LONGEST_PAUSE = 5.0
_DRAIN_SECONDS = 5.0
_METER_SECONDS = 5.0
_UPKEEP_SECONDS = 60.0
_NO_GRANT = Grant()


class Ledger:
    """The books of one proxy process."""

    def __init__(
        self,
        journal: Journal,
        store: RedisStore,
        *,
        every: float = _SHIP_SECONDS,
        retention: timedelta = timedelta(days=90),
        most_bytes: int = 4 * 2**30,
    ) -> None:
        """``every`` is seconds between shipments. Whole entries stay in the journal for ``retention`` and while it is
        smaller than ``most_bytes``; their sums stay for good."""
        self._journal = journal
        self._store = store
        self._every = every
        self._shipper: asyncio.Task[None] | None = None
        self._file: JournalFile | None = None
        self._lock: IO[bytes] | None = None
        self._applied = 0
        self._backlog = 0
        self._clocks: Callable[[], Iterable[tuple[str, GpuClock]]] = tuple
        self._metered_at = 0.0
        self._retention = retention
        self._most_bytes = most_bytes
        self._upkeep_at = time() + _UPKEEP_SECONDS
        self._stopping = asyncio.Event()

    def record(self, entry: Entry, grant: Grant = _NO_GRANT) -> None:
        """Write an entry down, charge it to the budgets that granted it, and give back what they held; never waits."""
        self._journal.append(Line(entry, charges(grant, entry), grant.holds))

    def meter(self, clocks: Callable[[], Iterable[tuple[str, GpuClock]]]) -> None:
        """Have GPUs billed for as long as their backends are configured; ``clocks`` names each and gives its clock.

        With every tick each clock is told the weight that other proxies have in flight on its GPU.
        """
        self._clocks = clocks

    def _read_meters(self) -> None:
        now = time()
        clocks = list(self._clocks())
        if now - self._metered_at >= _METER_SECONDS or self._stopping.is_set():
            for name, rate in {(name, clock.rate) for name, clock in clocks}:
                if self._metered_at:
                    self._journal.add(held(name, rate, self._metered_at, now))
            self._metered_at = now
        weights: Counter[str] = Counter()
        for name, clock in clocks:
            weights[name] += clock.weight
        others = self._store.exchange_weights(weights)
        for name, clock in clocks:
            clock.others(others.get(name, 0) + weights[name] - clock.weight, now)

    @property
    def problem(self) -> str:
        """What keeps the books from closing now: the journal's problem, else the store's; empty when all is well."""
        return self._journal.problem or self._store.problem

    @property
    def backlog(self) -> int:
        """Commits in the journal that the store has not applied yet, as of the last look."""
        return self._backlog

    async def start(self) -> None:
        """Open the journal and begin shipping. Raises `OSError` or `sqlite3.Error` when the journal cannot be made."""
        await asyncio.to_thread(self._journal.start)
        self._file = JournalFile(self._journal.path)
        self._shipper = asyncio.create_task(self._ship_until_stopped(), name="shipper")

    async def stop(self) -> None:
        """Commit everything taken, ship what the store will have within a few seconds, and end."""
        self._stopping.set()
        if self._shipper is not None:
            await self._shipper
        self._read_meters()
        if not await asyncio.to_thread(self._journal.close):
            log.error(
                "the journal %s cannot be written: entries are lost (%s)", self._journal.path, self._journal.problem
            )
        if self._file is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self._drain()
            self._file.close()
        if self._lock is not None:
            self._lock.close()

    async def _drain(self) -> None:
        """Ship until nothing is left, or the store is away. Another worker may hold the lock for a moment yet."""
        assert self._file is not None
        with suppress(StoreAway):
            while True:
                await self._ship()
                if await self._store.applied(self._file.journal) >= self._file.last_seq():
                    return
                await asyncio.sleep(0.05)

    async def _ship_until_stopped(self) -> None:
        assert self._file is not None
        pause = self._every
        while not self._stopping.is_set():
            try:
                self._read_meters()
                answered = await self._store.tick()
                if answered:
                    await self._ship()
                pause = self._every if answered else min(2 * pause, _LONGEST_PAUSE)
                await self._keep_small()
                self._backlog = max(0, self._file.last_seq() - self._applied)
            except StoreAway:
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception:
                log.exception("shipping the journal failed; it will be tried again")
                pause = _LONGEST_PAUSE
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _ship(self) -> None:
        """Send everything the store has not applied; with nothing new, see what it has. Raises `StoreAway`."""
        assert self._file is not None
        if not self._holds_lock():
            return
        batch = await asyncio.to_thread(self._file.batch_after, self._applied)
        if batch is None:
            self._applied = await self._store.applied(self._file.journal)
            await self._go_on_if_set_back()
            batch = await asyncio.to_thread(self._file.batch_after, self._applied)
        while batch is not None:
            self._applied = await self._store.ship(batch)
            batch = await asyncio.to_thread(self._file.batch_after, self._applied)

    async def _go_on_if_set_back(self) -> None:
        """A journal that was put back from a backup is behind what the store has of it: go on under another name."""
        assert self._file is not None
        last = self._file.last_seq()
        if self._applied > last:
            log.warning("the journal %s was set back from commit %d to %d", self._journal.path, self._applied, last)
            name = uuid.uuid4().hex
            await self._store.begin_at(name, last)
            await asyncio.to_thread(self._file.rename, name)
            self._applied = last

    async def _keep_small(self) -> None:
        """Once a minute, fold sums and let go of old entries."""
        assert self._file is not None
        now = time()
        if now < self._upkeep_at or not self._holds_lock():
            return
        self._upkeep_at = now + _UPKEEP_SECONDS
        await asyncio.to_thread(self._file.fold, self._applied, now)
        since = now - self._retention.total_seconds()
        if gone := await asyncio.to_thread(self._file.retain, since, self._most_bytes):
            log.info("%d old entries left the journal; what they add up to stays", gone)

    def _holds_lock(self) -> bool:
        if self._lock is not None:
            return True
        lock = Path(f"{self._journal.path}.shipper").open("ab")  # noqa: SIM115 the lock is held for as long as the file is open
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True
