"""The journal's writer: entries go in from the event loop without waiting, a thread of its own commits them in groups.

What can be lost: entries younger than the commit window when the process is killed, and, while the disk refuses writes,
what is held in memory. Nothing else: a commit is on disk (``synchronous=FULL``) before anybody is told of it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic, sleep, time
from typing import Literal, TypeAlias

from router.ledger import codec
from router.ledger.feedback import Feedback
from router.ledger.journal_file import JournalFile, Line, pack_lines
from router.ledger.meter import Hold, Reading
from router.ledger.sums import merge_packed

log = logging.getLogger(__name__)

COMMIT_WINDOW = 0.05
"""Seconds that an entry waits for others to share its commit."""
_RETRY_DISK = 1.0
_MOST_HELD = 20_000
_MOST_PER_COMMIT = 2_000
_NOT_THE_DISK = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, sqlite3.IntegrityError)

_Stop: TypeAlias = None
_Wake: TypeAlias = Literal["wake"]
_Item: TypeAlias = "Feedback | Reading | Event | _Wake | _Stop"


class Journal:
    """Writes entries to a `JournalFile` in a thread of its own."""

    def __init__(
        self,
        path: Path,
        *,
        keep_content: bool = False,
        most_held: int = _MOST_HELD,
        open_file: Callable[[Path], JournalFile] = JournalFile,
    ) -> None:
        """``most_held`` entries are kept whole in memory while the disk refuses them; older ones then only as sums."""
        self.path = path
        self.keep_content = keep_content
        self._most_held = most_held
        self._open_file = open_file
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._lines: deque[Line] = deque()
        self._awake = False
        self._held: list[Line] = []
        self._carried: dict[tuple[int, str], bytes] = {}
        self._gpus: dict[tuple[str, str, int], Hold] = {}
        self._feedback: list[Feedback] = []
        self._flushes: list[Event] = []
        self._problem = ""
        self._retry_at = 0.0
        self._thread = Thread(target=self._run, name="journal", daemon=True)

    @property
    def problem(self) -> str:
        """Why entries are held in memory instead of being written; empty while all is well."""
        return self._problem

    @property
    def held(self) -> int:
        """Entries held in memory."""
        return len(self._held) + len(self._lines)

    def start(self) -> list[Hold]:
        """Open the file and begin; returns the GPUs that its proxies have not let go of.

        Raises `OSError` or `sqlite3.Error` when the file cannot be made.
        """
        with closing(self._open_file(self.path)) as file:
            gpus = file.gpus()
        self._thread.start()
        return gpus

    def append(self, line: Line) -> None:
        """Take an entry; never waits. Only one that the thread has to be woken for costs what waking it does."""
        self._lines.append(line)
        if not self._awake:  # looked at behind the line: a thread that goes to sleep meanwhile has seen it
            self._awake = True
            self._queue.put("wake")

    def meter(self, reading: Reading) -> None:
        """Take what GPUs are held; never waits."""
        self._queue.put(reading)

    def judge(self, feedback: Feedback) -> None:
        """Take feedback; never waits."""
        self._queue.put(feedback)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything taken so far is committed; False when that did not happen in time."""
        done = Event()
        self._queue.put(done)
        return done.wait(timeout)

    def close(self) -> bool:
        """Commit what is left and end the thread; False when the disk refused some of it."""
        self._queue.put(None)
        self._thread.join()
        return not self._waiting()

    def _run(self) -> None:
        file = self._open_file(self.path)
        running = True
        while running:
            running = self._collect()
            self._commit(file, insist=not running)
        file.close()

    def _waiting(self) -> bool:
        return bool(self._held or self._carried or self._feedback)

    def _collect(self) -> bool:
        """Wait for something to do, gather what comes within the commit window, and say whether to go on."""
        self._awake = False
        items: list[_Item] = []
        if not self._lines:
            try:
                items.append(self._queue.get(timeout=_RETRY_DISK if self._waiting() else None))
            except Empty:
                return True
        self._awake = True
        if self._lines or isinstance(items[0], Feedback):
            sleep(COMMIT_WINDOW)
        items += [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        self._held += lines if self.keep_content else _without_content(lines)
        for item in items:
            if isinstance(item, Event):
                self._flushes.append(item)
            elif isinstance(item, Feedback):
                self._feedback.append(item)
            elif isinstance(item, Reading):
                self._carried = merge_packed(self._carried, item.packed)
                self._gpus |= {hold[:3]: hold for hold in item.holds}
        return None not in items

    def _commit(self, file: JournalFile, *, insist: bool) -> None:
        """Write what is held, in one transaction or a few; while the disk refuses, try once a second."""
        if self._problem and monotonic() < self._retry_at and not insist:
            self._fold_surplus()
            return
        try:
            self._write_held(file)
        except sqlite3.Error as error:
            self._refused(error)
            return
        if self._problem:
            log.warning("the journal %s can be written again", self.path)
            self._problem = ""
        for done in self._flushes:
            done.set()
        self._flushes = []

    def _write_held(self, file: JournalFile) -> None:
        """Write everything; what no disk would take is given up alone. Raises `sqlite3.Error` when this one refuses."""
        if self._feedback:
            file.write_feedback(self._feedback)
            self._feedback = []
        together = _MOST_PER_COMMIT
        while self._held or self._carried:
            try:
                file.write(self._held[:together], time(), self._carried, self._gpus.values())
            except Exception as error:
                if isinstance(error, sqlite3.Error) and not isinstance(error, _NOT_THE_DISK):
                    raise
                if together == 1:
                    self._give_up_one()
                together = 1
            else:
                self._held, self._carried, self._gpus = self._held[together:], {}, {}

    def _give_up_one(self) -> None:
        if self._held:
            lost = self._held.pop(0).entry
            log.exception("entry %s cannot be written and is lost; it cost %s nanos", lost.id, lost.cost_nanos)
        else:
            log.exception("%d sums cannot be written and are lost", len(self._carried))
            self._carried, self._gpus = {}, {}

    def _refused(self, error: sqlite3.Error) -> None:
        if not self._problem:
            log.error("the journal %s cannot be written (%s); entries are held in memory", self.path, error)
        self._problem = str(error)
        self._retry_at = monotonic() + _RETRY_DISK
        self._fold_surplus()

    def _fold_surplus(self) -> None:
        """Keep no more entries whole than the bound, the oldest of the others as sums."""
        self._feedback = self._feedback[-self._most_held :]
        surplus = len(self._held) - self._most_held
        if surplus > 0:
            folded, self._held = self._held[:surplus], self._held[surplus:]
            self._carried = merge_packed(self._carried, pack_lines(folded))


def _without_content(lines: list[Line]) -> list[Line]:
    for place in codec.with_content([line.entry for line in lines]):
        line = lines[place]
        lines[place] = Line(codec.without_content(line.entry), line.charges, line.holds)
    return lines
