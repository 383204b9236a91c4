"""Ships a journal to the store: whatever the store has not applied yet, by whichever worker holds the lock beside it.

Redelivery after a lost acknowledgement changes nothing, and a store that has lost data is sent it again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import time
from typing import IO, TYPE_CHECKING

from policies.schema import LedgerSettings
from router.ledger.journal_file import Chapter, JournalFile
from router.state.values import StoreAway

if TYPE_CHECKING:
    from router.state.store import RedisStore

log = logging.getLogger(__name__)

_UPKEEP_SECONDS = 60.0
_COMPACT_SECONDS = 6 * 3600.0
_OTHERS_SECONDS = 0.05


class Shipper:
    """Ships one journal file, and keeps it small."""

    def __init__(self, path: Path, store: RedisStore, keep: LedgerSettings) -> None:
        """Take charge if nobody else has, before anything is written: it then stands in a chapter of our own.

        Raises `OSError` or `sqlite3.Error` when the file cannot be opened.
        """
        self._file = JournalFile(path)
        self._store = store
        self._keep = keep
        self._lock: IO[bytes] | None = None
        self._applied: dict[str, int] = {}
        self._knows = False
        self._backlog = 0
        self._upkeep_at = time() + _UPKEEP_SECONDS
        self._compact_at = time() + _UPKEEP_SECONDS
        self._in_charge()

    @property
    def backlog(self) -> int:
        """Commits that the store is not known to have applied, at the last count."""
        return self._backlog

    def count(self) -> None:
        """Count the backlog."""
        self._backlog = self._file.backlog(self._applied)

    @property
    def witness(self) -> str:
        """The newest chapter that the store has of what was shipped; empty where it has none.

        A store loses all or its newest: this chapter is witness for both.
        """
        known = [chapter.name for chapter in self._file.chapters() if self._applied.get(chapter.name)]
        return known[-1] if known else ""

    async def ship(self, applied: Mapping[str, int] | None = None) -> None:
        """Send everything the store has not applied; with nothing new, see that it still has the rest.

        ``applied`` says how far the store has just told to have applied the `witness`; otherwise it is asked. Raises
        `StoreAway`.
        """
        in_charge = self._in_charge()
        if not (in_charge and self._knows):
            await self._take_stock()
        if not in_charge:
            return
        pending = self._file.pending(self._applied)
        for chapter in pending:
            await self._ship_chapter(chapter)
        if not pending:
            await self._see_that_nothing_was_lost(applied or {})

    async def drain(self) -> None:
        """Ship until nothing is left, or the store is away. Another worker may be in charge for a moment yet."""
        with suppress(StoreAway):
            while True:
                await self.ship()
                self.count()
                if not self._backlog:
                    return
                await asyncio.sleep(_OTHERS_SECONDS)

    async def keep_small(self) -> None:
        """Once a minute, fold sums and let go of old entries; a few times a day, compact the store's oldest days.

        Raises `StoreAway`.
        """
        now = time()
        if now < self._upkeep_at or not self._in_charge():
            return
        self._upkeep_at = now + _UPKEEP_SECONDS
        await asyncio.to_thread(self._file.fold, self._applied, now)
        since = now - self._keep.entries.total_seconds()
        if gone := await asyncio.to_thread(self._file.retain, since, self._keep.entries_mib * 2**20):
            log.info("%d old entries left the journal; what they add up to stays", gone)
        if now >= self._compact_at:
            self._compact_at = now + _COMPACT_SECONDS
            await self._store.compact(now - self._keep.hours.total_seconds())

    def close(self) -> None:
        """Let go of the file and the lock."""
        self._file.close()
        if self._lock is not None:
            self._lock.close()

    async def _take_stock(self) -> None:
        """Ask how far the store has applied each chapter: at the beginning, and when it has lost some of it."""
        names = [chapter.name for chapter in self._file.chapters()]
        self._applied = dict(zip(names, await self._store.applied(names), strict=True))
        self._knows = True

    async def _ship_chapter(self, chapter: Chapter) -> None:
        while batch := await asyncio.to_thread(self._file.batch_after, chapter, self._applied):
            applied = await self._store.ship(batch)
            if applied != batch.last:
                await self._take_stock()
            self._applied[chapter.name] = applied

    async def _see_that_nothing_was_lost(self, applied: Mapping[str, int]) -> None:
        if witness := self.witness:
            told = applied[witness] if witness in applied else (await self._store.applied([witness]))[0]
            self._knows = told == self._applied[witness]

    def _in_charge(self) -> bool:
        if self._lock is not None:
            return True
        lock = Path(f"{self._file.path}.shipper").open("ab")  # noqa: SIM115 the lock is held while the file is open
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        self._file.begin_chapter()
        return True
