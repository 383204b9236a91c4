"""The journal on disk: one SQLite file (WAL mode) per data folder, shared by the proxy's workers.

``entries`` holds whole entries; ``sums`` has one row per commit, numbered without gaps, and ``cells`` what that
commit's entries add up to. Entries and their sums are written in one transaction. The store remembers the number up to which it
has applied each journal, so that a batch is everything after that number: shipping the same thing twice changes
nothing, and a store that has lost data asks for it again by naming a lower number.

Old entries are deleted and old sums folded together; sums are never dropped, so a journal's total stays true.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policies.values import Entry
from router.ledger import codec
from router.ledger.sums import merge_all, pack_entries

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY, seq INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, at REAL NOT NULL,
    tier TEXT NOT NULL, backend TEXT NOT NULL, cost_nanos INTEGER, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entries_at ON entries (at);
CREATE INDEX IF NOT EXISTS entries_seq ON entries (seq);
CREATE TABLE IF NOT EXISTS sums (seq INTEGER PRIMARY KEY AUTOINCREMENT, first INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS cells (
    seq INTEGER NOT NULL, hour INTEGER NOT NULL, field TEXT NOT NULL, packed BLOB NOT NULL,
    PRIMARY KEY (seq, hour, field)) WITHOUT ROWID;
"""
_CELLS_PER_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Batch:
    """What the store has not applied yet of one journal: sums of its commits ``first`` to ``last``.

    ``sums`` are (hour, field, packed); ``recent`` the newest entries among them, as JSON, oldest first.
    """

    journal: str
    first: int
    last: int
    sums: tuple[tuple[int, str, bytes], ...]
    recent: tuple[bytes, ...] = ()


class JournalFile:
    """One connection to a journal. Use it from the thread that opened it."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open ``path``. Raises `FileNotFoundError` when it is not there and must not be made, `sqlite3.Error` else."""
        if not create and not path.is_file():
            raise FileNotFoundError(f"no journal at {path}")
        self.path = path
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        if not create:
            self._db.execute("PRAGMA query_only=on")
            return
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        with self._transaction():
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT OR IGNORE INTO facts VALUES ('journal', ?)", (uuid.uuid4().hex,))

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @property
    def journal(self) -> str:
        """The journal's identity, made with the file."""
        return str(self._db.execute("SELECT value FROM facts WHERE name = 'journal'").fetchone()[0])

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
        self, entries: Sequence[Entry], at: float, carried: Mapping[tuple[int, str], bytes] | None = None
    ) -> None:
        """Commit entries and their sums, whole or not at all; an entry whose id is known already is not counted again.

        ``carried`` are sums of entries that could not be kept whole. Raises `sqlite3.Error` (a full disk, for one).
        """
        bodies = [codec.encode(entry) for entry in entries]
        with self._transaction():
            seq = self._next_seq()
            added = [e for e, body in zip(entries, bodies, strict=True) if self._add_entry(seq, e, body)]
            sums = [(hour, name, packed) for (hour, name), packed in pack_entries(added).items()]
            sums += [(hour, name, packed) for (hour, name), packed in (carried or {}).items()]
            if sums:
                self._add_sums(seq, seq, at, merge_all(sums))

    def _next_seq(self) -> int:
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'sums'").fetchone()
        return (row[0] if row else 0) + 1

    def _add_entry(self, seq: int, entry: Entry, body: bytes) -> bool:
        added = self._db.execute(
            "INSERT INTO entries (seq, id, at, tier, backend, cost_nanos, body) VALUES (?,?,?,?,?,?,?) "
            "ON CONFLICT (id) DO NOTHING",
            (seq, entry.id, entry.at, entry.tier, entry.backend, entry.cost_nanos, body),
        )
        return added.rowcount == 1

    def _add_sums(self, seq: int, first: int, at: float, sums: Mapping[tuple[int, str], bytes]) -> None:
        self._db.execute("INSERT INTO sums (seq, first, at) VALUES (?,?,?)", (seq, first, at))
        self._db.executemany(
            "INSERT INTO cells VALUES (?,?,?,?)", [(seq, hour, name, packed) for (hour, name), packed in sums.items()]
        )

    def last_seq(self) -> int:
        """The number of the last commit, 0 before the first."""
        return self._next_seq() - 1

    def batch_after(self, applied: int, recent: int = 50) -> Batch | None:
        """What follows commit ``applied``, up to a bounded size; None when nothing does.

        The numbers sent are noted first, so that what a store may have seen in part is never folded together.
        """
        last = self._batch_end(applied)
        if last is None:
            return None
        with self._transaction():
            self._db.execute(
                "INSERT INTO facts VALUES ('sent', ?1) ON CONFLICT (name) "
                "DO UPDATE SET value = ?1 WHERE CAST(value AS INTEGER) < CAST(?1 AS INTEGER)",
                (str(last),),
            )
        first = self._db.execute("SELECT min(first) FROM sums WHERE seq > ? AND seq <= ?", (applied, last)).fetchone()[
            0
        ]
        cells = self._db.execute("SELECT hour, field, packed FROM cells WHERE seq > ? AND seq <= ?", (applied, last))
        sums = tuple((hour, name, packed) for (hour, name), packed in merge_all(cells).items())
        newest = self._db.execute(
            "SELECT body FROM entries WHERE seq > ? AND seq <= ? ORDER BY number DESC LIMIT ?", (applied, last, recent)
        )
        return Batch(self.journal, first, last, sums, tuple(row[0] for row in newest)[::-1])

    def _batch_end(self, applied: int) -> int | None:
        last, cells = None, 0
        rows = self._db.execute(
            "SELECT seq, (SELECT count(*) FROM cells WHERE cells.seq = sums.seq) FROM sums "
            "WHERE seq > ? ORDER BY seq LIMIT 500",
            (applied,),
        )
        for seq, count in rows:
            cells += count
            if last is not None and cells > _CELLS_PER_BATCH:
                break
            last = seq
        return last

    def unshipped(self, applied: int) -> int:
        """How many commits follow ``applied``."""
        return int(self._db.execute("SELECT count(*) FROM sums WHERE seq > ?", (applied,)).fetchone()[0])

    def packed(self, since_hour: int, until_hour: int, after: int = 0) -> Iterator[tuple[int, str, bytes]]:
        """All packed sums of a half-open range of hours, of commits after ``after``."""
        yield from self._db.execute(
            "SELECT hour, field, packed FROM cells WHERE hour >= ? AND hour < ? AND seq > ?",
            (since_hour, until_hour, after),
        )

    def bodies(self, since: float, until: float) -> Iterator[bytes]:
        """The JSON of the entries of a half-open range of Unix time, oldest first."""
        rows = self._db.execute("SELECT body FROM entries WHERE at >= ? AND at < ? ORDER BY at, number", (since, until))
        for (body,) in rows:
            yield bytes(body)
