"""The journal on disk: one SQLite file (WAL mode) per data folder, shared by the proxy's workers.

``blocks`` holds whole entries, those of a commit together (see `router.ledger.blocks`); ``sums`` has one row per
commit, numbered without gaps, and ``cells`` what that commit's entries add up to. All of a commit is written in one
transaction. Older journals (see `router.ledger.layout`) are read as they are, and brought up to date by who writes.

Commits are gathered into chapters: whoever takes charge of shipping begins a new one, with a name of its own. The store
remembers how far it has applied each chapter, so that a batch is everything after that: shipping the same thing twice
changes nothing, a store that has lost data asks for it again by naming a lower number, and a journal put back from a
backup, or copied, goes on in a chapter that the store has not seen.

``gpus`` says what is held by proxies that have not let go of it (see `router.ledger.meter`).
``feedback`` holds scores of answers by request id; it enters no sum, and nothing ships it.

Old entries are deleted and old sums folded together; sums are never dropped, so a journal's total stays true.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from policies.values import Entry
from router.ledger import blocks, codec, layout
from router.ledger.feedback import Feedback
from router.ledger.meter import Hold
from router.ledger.sums import Packed, merge_all, merge_packed
from router.ledger.tallying import pack_entries
from router.meeting import alone

log = logging.getLogger(__name__)

_CELLS_PER_BATCH = 2_000
_CELLS_TOGETHER = 8
"""In one statement, since each hands over the interpreter; but few, since SQLite keeps a statement for each number."""
_MAKING_SECONDS = 300.0
"""How long others wait while one of them brings an old journal up to date."""
_BUSY_SECONDS = 10
_CACHED_KIB = 256
"""Of pages, where SQLite would keep 2 MiB a connection: what is written is read once, when it is shipped."""
_MOST_FEEDBACK = 1_000_000
_TRIMMED_TOGETHER = 50
_DELETED_TOGETHER = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Batch:
    """What the store has not applied yet of one chapter: sums of its commits ``first`` to ``last``, counted from 1.

    ``sums`` are (hour, field, packed); ``releases`` what budgets held for its entries, as (account, member); ``recent``
    the newest entries among them, as JSON, oldest first.
    """

    chapter: str
    first: int
    last: int
    sums: tuple[tuple[int, str, bytes], ...]
    releases: tuple[tuple[str, str], ...] = ()
    recent: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Chapter:
    """A run of commits under one name: those after ``base``, up to ``end``."""

    name: str
    base: int
    end: int

    def reached(self, applied: Mapping[str, int]) -> int:
        """The number of the commit up to which it is applied, where stores count from 1 within the chapter."""
        return min(self.end, self.base + applied.get(self.name, 0))


@dataclass(frozen=True, slots=True)
class Line:
    """An entry on its way into the journal, with what it is charged to and what budgets held for it."""

    entry: Entry
    charges: Packed = field(default_factory=dict)
    holds: tuple[tuple[str, str], ...] = ()


class JournalFile:
    """One connection to a journal. Use it from the thread that opened it."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open ``path``. Raises `FileNotFoundError` when it is not there and must not be made, `sqlite3.Error` else."""
        if not create and not path.is_file():
            raise FileNotFoundError(f"no journal at {path}")
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(path, timeout=_MAKING_SECONDS, isolation_level=None, check_same_thread=False)
        self._tried: dict[int, frozenset[str]] = {}
        try:
            layout.check(self._db, path, create=create)
            if create:
                self._make()
            else:
                self._db.execute("PRAGMA query_only=on")
        except BaseException:
            self._db.close()
            raise

    def _make(self) -> None:
        """Make what is not there. Alone, since of two who change the mode at once SQLite refuses one."""
        self.path.chmod(0o600)
        try:
            with alone(self.path.parent):
                self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                with self._transaction():
                    layout.make(self._db, self.path)
        except sqlite3.OperationalError as error:
            raise layout.not_made(self.path, error) from error
        self._db.execute(f"PRAGMA busy_timeout={1000 * _BUSY_SECONDS}")
        self._db.execute(f"PRAGMA cache_size=-{_CACHED_KIB}")

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def write(
        self, lines: Sequence[Line], at: float, carried: Packed | None = None, holds: Iterable[Hold] = ()
    ) -> None:
        """Commit entries and their sums, whole or not at all; an entry that is written again is not counted again.

        ``carried`` are sums that have no entry here, ``holds`` GPUs that are held or let go. Raises `sqlite3.Error` (a
        full disk, for one).
        """
        fresh = self._fresh(lines)
        entries = [line.entry for line in fresh.values()]
        block = blocks.of(entries)
        sums = merge_packed(carried or {}, pack_lines(tuple(fresh.values())))
        given_back = [hold for line in fresh.values() for hold in line.holds]
        with self._transaction():
            seq = self._next_seq()
            self._tried[seq] = frozenset(fresh)
            if entries:
                blocks.put(self._db, seq, [entry.at for entry in entries], block)
            if sums:
                self._add_sums(seq, seq, at, sums)
            if given_back:
                self._db.executemany("INSERT INTO holds VALUES (?,?,?)", [(seq, *hold) for hold in given_back])
            for hold in holds:
                if hold.until is None:
                    key = "proxy = ? AND backend = ? AND hour_nanos = ?"
                    self._db.execute(f"DELETE FROM gpus WHERE {key}", hold[:3])
                else:
                    self._db.execute("INSERT OR REPLACE INTO gpus VALUES (?,?,?,?)", hold)
        self._tried = {seq: self._tried[seq]}

    def gpus(self) -> list[Hold]:
        """The GPUs that are held, as far as was written down."""
        return [Hold(*row) for row in self._db.execute("SELECT proxy, backend, hour_nanos, until FROM gpus")]

    def _next_seq(self) -> int:
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'sums'").fetchone()
        return (row[0] if row else 0) + 1

    def _fresh(self, lines: Sequence[Line]) -> dict[str, Line]:
        """Entries by id, without those that the last commits have: a disk may have kept what it said it refused."""
        fresh = {line.entry.id: line for line in lines}
        for seq, tried in self._tried.items():
            if not tried.isdisjoint(fresh):
                for (block,) in self._db.execute("SELECT bodies FROM blocks WHERE seq = ?", (seq,)):
                    for body in blocks.unpack(block):
                        fresh.pop(blocks.facts(body)["id"], None)
        return fresh

    def _add_sums(self, seq: int, first: int, at: float, sums: Mapping[tuple[int, str], bytes]) -> None:
        self._db.execute("INSERT INTO sums (seq, first, at) VALUES (?,?,?)", (seq, first, at))
        cells = [(seq, hour, name, packed) for (hour, name), packed in sums.items()]
        for start in range(0, len(cells), _CELLS_TOGETHER):
            some = cells[start : start + _CELLS_TOGETHER]
            rows = ",".join(["(?,?,?,?)"] * len(some))
            self._db.execute(f"INSERT INTO cells VALUES {rows}", [part for cell in some for part in cell])

    def write_feedback(self, said: Sequence[Feedback]) -> None:
        """Commit feedback; a later one stands in place of an earlier one. Raises `sqlite3.Error`."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO feedback (id, key_id, at, score) VALUES (?,?,?,?)",
                [(one.request_id, one.key_id, one.at, one.score) for one in said],
            )

    def last_seq(self) -> int:
        """The number of the last commit, 0 before the first."""
        return self._next_seq() - 1

    def chapters(self) -> list[Chapter]:
        """All chapters, oldest first."""
        rows = self._db.execute("SELECT name, base FROM chapters ORDER BY base").fetchall()
        ends = [base for _, base in rows[1:]] + [self.last_seq()]
        return [Chapter(name, base, end) for (name, base), end in zip(rows, ends, strict=True)]

    def begin_chapter(self) -> None:
        """Put what is committed from now on under a name of its own."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO chapters VALUES (?, ?)", (self.last_seq(), uuid.uuid4().hex))

    def pending(self, applied: Mapping[str, int]) -> list[Chapter]:
        """The chapters that a store has not applied to their end."""
        return [chapter for chapter in self.chapters() if chapter.reached(applied) < chapter.end]

    def batch_after(self, chapter: Chapter, applied: Mapping[str, int], recent: int = 50) -> Batch | None:
        """What follows in a chapter, up to a bounded size; None when nothing does.

        The numbers sent are noted first, so that what a store may have seen in part is never folded together.
        """
        reached = chapter.reached(applied)
        last = self._batch_end(reached, chapter.end)
        if last is None:
            return None
        with self._transaction():
            self._db.execute("UPDATE facts SET value = ?1 WHERE name = 'sent' AND CAST(value AS INTEGER) < ?1", (last,))
        span = (reached, last)
        first = self._db.execute("SELECT min(first) FROM sums WHERE seq > ? AND seq <= ?", span).fetchone()[0]
        if first <= reached:
            sums = self._recounted(*span)
        else:
            sums = merge_all(self._db.execute("SELECT hour, field, packed FROM cells WHERE seq > ? AND seq <= ?", span))
        holds = self._db.execute("SELECT account, member FROM holds WHERE seq > ? AND seq <= ?", span)
        return Batch(
            chapter.name,
            reached - chapter.base + 1,
            last - chapter.base,
            tuple((hour, name, packed) for (hour, name), packed in sums.items()),
            tuple(holds),
            tuple(self._newest(span, recent)),
        )

    def _newest(self, span: tuple[int, int], most: int) -> list[bytes]:
        newest: list[bytes] = []
        rows = self._db.execute("SELECT seq, bodies FROM blocks WHERE seq > ? AND seq <= ? ORDER BY seq DESC", span)
        for seq, block in rows:
            newest[:0] = self._readable(seq, block, most - len(newest))
            if len(newest) >= most:
                break
        return newest

    def _readable(self, seq: int, block: bytes, most: int | None = None) -> list[bytes]:
        """A commit's entries, or the last so many.

        None, said in the log, where the disk damaged them: what comes after them is shipped.
        """
        try:
            return blocks.unpack(block, most)
        except sqlite3.DatabaseError as error:
            log.error("the entries of commit %d in %s cannot be read (%s); its sums can", seq, self.path, error)
            return []

    def _recounted(self, applied: int, last: int) -> dict[tuple[int, str], bytes]:
        """The sums of a span that begins within folded commits, from its entries."""
        rows = self._db.execute("SELECT seq, bodies FROM blocks WHERE seq > ? AND seq <= ?", (applied, last))
        entries = [codec.decode(body) for row in rows for body in self._readable(*row)]
        log.error(
            "the store went back to commit %d, within folded sums: %d entries after it are counted again from %s; "
            "budgets and GPU time of that span, and entries older than it keeps, are not",
            applied, len(entries), self.path,
        )  # fmt: skip
        return pack_entries(entries)

    def _batch_end(self, reached: int, end: int) -> int | None:
        last, cells = None, 0
        rows = self._db.execute(
            "SELECT seq, (SELECT count(*) FROM cells WHERE cells.seq = sums.seq) FROM sums "
            "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT 500",
            (reached, end),
        )
        for seq, count in rows:
            cells += count
            if last is not None and cells > _CELLS_PER_BATCH:
                break
            last = seq
        return last

    def fold(self, applied: Mapping[str, int], now: float) -> int:
        """Fold sums of the same hour and chapter together; returns how many rows went.

        Only sums that the store has had for an hour, and, while it is away, those that it cannot have seen: what it may
        have applied in part stays as it was sent.
        """
        gone = 0
        for chapter in self.chapters():
            bounds = {
                "base": chapter.base, "end": chapter.end, "reached": chapter.reached(applied), "sent": self._sent(),
                "settled": now - 3600, "fresh": now - 60,
            }  # fmt: skip
            rows = self._db.execute(
                "SELECT seq, seq <= :reached, CAST(at / 3600 AS INTEGER) FROM sums WHERE seq > :base AND seq <= :end "
                "AND ((seq <= :reached AND at < :settled) OR (seq > :sent AND at < :fresh)) ORDER BY seq LIMIT 5000",
                bounds,
            ).fetchall()
            for _, group in groupby(rows, key=lambda row: row[1:]):
                seqs = [row[0] for row in group]
                if len(seqs) > 1:
                    self._fold(seqs[0], seqs[-1])
                    gone += len(seqs) - 1
            with self._transaction():
                self._db.execute("DELETE FROM holds WHERE seq > :base AND seq <= :reached", bounds)
        return gone

    def _sent(self) -> int:
        return int(self._db.execute("SELECT value FROM facts WHERE name = 'sent'").fetchone()[0])

    def _fold(self, lowest: int, last: int) -> None:
        span = (lowest, last)
        with self._transaction():
            query = "SELECT min(first), max(at) FROM sums WHERE seq BETWEEN ? AND ?"
            first, at = self._db.execute(query, span).fetchone()
            cells = "SELECT hour, field, packed FROM cells WHERE seq BETWEEN ? AND ?"
            sums = merge_all(self._db.execute(cells, span))
            self._db.execute("DELETE FROM sums WHERE seq BETWEEN ? AND ?", span)
            self._db.execute("DELETE FROM cells WHERE seq BETWEEN ? AND ?", span)
            self._add_sums(last, first, at, sums)

    def retain(self, since: float, most_bytes: int) -> int:
        """Delete entries from before a Unix time, and the oldest while the file is too big; returns how many went.

        What they add up to stays. Feedback goes with the entries of its time, and beyond the newest million.
        """
        newest = f"SELECT coalesce(max(number), 0) - {_MOST_FEEDBACK} FROM feedback"
        with self._transaction():
            self._db.execute(f"DELETE FROM feedback WHERE at < ? OR number <= ({newest})", (since,))
        gone = self._trim(since)
        while deleted := self._delete("seq IN (SELECT seq FROM blocks WHERE until < ? LIMIT 1000)", since):
            gone += deleted
        while (excess := self._used_bytes() - most_bytes) > 0:
            deleted = self._delete("seq <= ?", self._oldest(min(excess // 2, _DELETED_TOGETHER)))
            if not deleted:
                break
            gone += deleted
        if gone:
            self._db.executescript("PRAGMA incremental_vacuum")
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return gone

    def _oldest(self, size: int) -> int:
        """The commit up to which blocks have at least so many bytes; the last, where all have fewer."""
        for seq, length in self._db.execute("SELECT seq, length(bodies) FROM blocks ORDER BY seq"):
            size -= length
            if size <= 0:
                return int(seq)
        return self.last_seq()

    def _delete(self, condition: str, parameter: float) -> int:
        with self._transaction():
            gone = self._db.execute(f"DELETE FROM blocks WHERE {condition} RETURNING count", (parameter,)).fetchall()
        return sum(count for (count,) in gone)

    def _trim(self, since: float) -> int:
        """Delete entries from before a Unix time out of blocks that have later ones too; returns how many went."""
        gone = 0
        seqs = self._db.execute("SELECT seq FROM blocks WHERE since < ?1 AND until >= ?1", (since,)).fetchall()
        for start in range(0, len(seqs), _TRIMMED_TOGETHER):
            with self._transaction():
                gone += sum(self._trim_block(seq, since) for (seq,) in seqs[start : start + _TRIMMED_TOGETHER])
        return gone

    def _trim_block(self, seq: int, since: float) -> int:
        ((block,),) = self._db.execute("SELECT bodies FROM blocks WHERE seq = ?", (seq,)).fetchall()
        bodies = self._readable(seq, block)
        kept = [(at, body) for body in bodies if (at := blocks.facts(body)["at"]) >= since]
        if kept:  # else it is damaged, and goes when all of it is old
            blocks.put_lines(self._db, seq, kept)
        return len(bodies) - len(kept)

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def backlog(self, applied: Mapping[str, int]) -> int:
        """How many commits a store has not applied."""
        return sum(chapter.end - chapter.reached(applied) for chapter in self.chapters())

    def packed(
        self, since_hour: int, until_hour: int, applied: Mapping[str, int] | None = None
    ) -> Iterator[tuple[int, str, bytes]]:
        """The packed sums of a half-open range of hours; given what a store has applied, only those it has not."""
        for chapter in self.chapters():
            yield from self._db.execute(
                "SELECT hour, field, packed FROM cells WHERE hour >= ? AND hour < ? AND seq > ? AND seq <= ?",
                (since_hour, until_hour, chapter.reached(applied or {}), chapter.end),
            )

    def bodies(self, since: float, until: float) -> Iterator[bytes]:
        """The JSON of the entries of a half-open range of Unix time, oldest first."""
        rows = self._db.execute(
            "SELECT since, bodies FROM blocks WHERE until >= ? AND since < ? ORDER BY since", (since, until)
        )
        return blocks.in_order(rows, since, until)

    def feedback(self) -> Iterator[tuple[str, str, float, float]]:
        """All feedback as (id, key_id, at, score); none in a journal from before there was any."""
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'feedback'").fetchone():
            yield from self._db.execute("SELECT id, key_id, at, score FROM feedback")


def pack_lines(lines: Sequence[Line]) -> dict[tuple[int, str], bytes]:
    """What some entries add up to, charges to budgets included."""
    return merge_packed(pack_entries([line.entry for line in lines]), *(line.charges for line in lines if line.charges))
