"""Entries with what was said of their answers: feedback and the entries it is about, out of any number of journals."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from policies.values import Entry
from router.ledger import blocks, codec
from router.ledger.feedback import ANYBODY, Feedback, FeedbackError, read
from router.ledger.journal_file import JournalFile


def judged(journals: Sequence[Path], files: Sequence[Path] = ()) -> Iterator[tuple[Entry, float]]:
    """Every entry of some journals, once, with the latest score that counts for it; by journal, oldest first.

    Feedback may lie in another journal than its entry, since clients give it to whichever proxy answers them, or in
    JSON-lines ``files``, which count for every key and over what the journals say. Memory does not grow with the
    journals: what is known lies in a temporary database. Raises `FeedbackError`, which names the file and the line.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        db.execute("CREATE TABLE known (id TEXT, key_id TEXT, at REAL, score REAL, PRIMARY KEY (id, key_id))")
        for path in journals:
            with _opened(path) as journal:
                _know(db, journal.feedback())
        for file in files:
            _know(db, ((f.request_id, f.key_id, f.at, f.score) for f in _lines(file)))
        db.execute("CREATE TABLE told (id TEXT PRIMARY KEY)")
        for path in journals:
            with _opened(path) as journal:
                yield from _joined(db, path, journal.bodies(0.0, float("inf")))


def _know(db: sqlite3.Connection, rows: Iterable[tuple[str, str, float, float]]) -> None:
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO known VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET at = excluded.at, score = excluded.score "
        "WHERE excluded.at >= at",
        rows,
    )
    db.execute("COMMIT")


def _joined(db: sqlite3.Connection, path: Path, bodies: Iterable[bytes]) -> Iterator[tuple[Entry, float]]:
    query = "SELECT key_id, score FROM known WHERE id = ? ORDER BY at DESC"
    for body in bodies:
        name = blocks.facts(body)["id"]
        said = db.execute(query, (name,)).fetchall()
        if not said:
            continue
        try:
            entry = codec.decode(body)
        except ValueError as error:
            raise FeedbackError(f"{path}, entry {name}: cannot be read: {error}") from error
        heard = next((score for key_id, score in said if key_id in (ANYBODY, entry.key_id)), None)
        if heard is not None and db.execute("INSERT OR IGNORE INTO told VALUES (?)", (name,)).rowcount:
            yield entry, heard


@contextmanager
def _opened(path: Path) -> Iterator[JournalFile]:
    """A journal, for reading."""
    try:
        with closing(JournalFile(path, create=False)) as journal:
            yield journal
    except FileNotFoundError as error:
        raise FeedbackError(f"{path}: there is no journal; give the journal.sqlite of a proxy's data folder") from error
    except sqlite3.Error as error:
        raise FeedbackError(f"{path}: cannot be read as a journal: {error}") from error


def _lines(file: Path) -> Iterator[Feedback]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield read(line, ANYBODY, float("inf"))
                    except FeedbackError as error:
                        raise FeedbackError(f"{file}, line {number}: {error}") from error
    except OSError as error:
        raise FeedbackError(f"{file}: cannot be read: {error}") from error
