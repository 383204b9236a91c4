"""The ledger: takes an entry without waiting, writes it to the local journal, and ships sums to the store.

One worker of a data folder ships its journal, whichever holds the lock beside it; when that one dies another takes
over. A batch is whatever the store has not applied yet of the journal, so redelivery after a lost acknowledgement
changes nothing, and a store that has lost data is sent it again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from policies.values import Entry
from router.ledger.journal import Journal
from router.ledger.journal_file import JournalFile
from router.state.values import StoreAway

if TYPE_CHECKING:
    from router.state.store import RedisStore

log = logging.getLogger(__name__)

JOURNAL_NAME = "journal.sqlite"
_SHIP_SECONDS = 0.5
_LONGEST_PAUSE = 5.0
_DRAIN_SECONDS = 5.0


class Ledger:
    """The books of one proxy process."""

    def __init__(self, journal: Journal, store: RedisStore, *, every: float = _SHIP_SECONDS) -> None:
        """``every`` is seconds between shipments."""
        self._journal = journal
        self._store = store
        self._every = every
        self._shipper: asyncio.Task[None] | None = None
        self._file: JournalFile | None = None
        self._lock: IO[bytes] | None = None
        self._stopping = asyncio.Event()

    def record(self, entry: Entry) -> None:
        """Write an entry down; never waits and never raises."""
        self._journal.append(entry)

    @property
    def problem(self) -> str:
        """What keeps the books from closing now: the journal's problem, else the store's; empty when all is well."""
        return self._journal.problem or self._store.problem

    async def start(self) -> None:
        """Open the journal and begin shipping. Raises `OSError` or `sqlite3.Error` when the journal cannot be made."""
        await asyncio.to_thread(self._journal.start)
        self._file = JournalFile(self._journal.path)
        self._shipper = asyncio.create_task(self._ship_until_stopped(), name="shipper")

    async def stop(self) -> None:
        """Commit everything taken, ship what the store will have within a few seconds, and end."""
        if not await asyncio.to_thread(self._journal.close):
            log.error(
                "the journal %s cannot be written: entries are lost (%s)", self._journal.path, self._journal.problem
            )
        self._stopping.set()
        if self._shipper is not None:
            await self._shipper
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
        pause = self._every
        while not self._stopping.is_set():
            try:
                answered = await self._store.tick()
                if answered:
                    await self._ship()
                pause = self._every if answered else min(2 * pause, _LONGEST_PAUSE)
            except StoreAway:
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception:
                log.exception("shipping the journal failed; it will be tried again")
                pause = _LONGEST_PAUSE
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _ship(self) -> None:
        """Send everything the store has not applied. Raises `StoreAway`."""
        assert self._file is not None
        if not self._holds_lock():
            return
        applied = await self._store.applied(self._file.journal)
        while batch := await asyncio.to_thread(self._file.batch_after, applied):
            applied = await self._store.ship(batch)

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
