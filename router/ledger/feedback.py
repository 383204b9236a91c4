"""Feedback: what somebody who saw an answer says of it, from 0 (wrong) to 1 (right), and the entries it is about."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from policies.values import Entry
from router.ledger import codec

ANYBODY: Final = "*"
"""The ``key_id`` of feedback that counts for every key's requests: an admin's, or anyone's where no key is required."""

LONGEST_ID: Final = 64


class FeedbackError(ValueError):
    """Feedback or a journal that cannot be used; the message says where, what was found, and what is expected."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """A score, 0..1, of the answer to a request. It counts where the request was made with the key ``key_id``.

    ``at`` is Unix time in seconds; of two with the same request and key the later one stands.
    """

    request_id: str
    key_id: str
    at: float
    score: float


def read(body: bytes, key_id: str, at: float) -> Feedback:
    """The feedback in a JSON object ``{"request_id", "score"}``. Raises `FeedbackError`."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FeedbackError(f"not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise FeedbackError(f"expected a JSON object, found {type(value).__name__}")
    if unknown := sorted(value.keys() - {"request_id", "score"}):
        raise FeedbackError(f"unknown key {unknown[0]!r}; known: request_id, score")
    name, score = value.get("request_id"), value.get("score")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID or not name.isascii() or not name.isprintable():
        raise FeedbackError("'request_id' must be the x-tierwise-request-id of an answer")
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise FeedbackError(f"'score' must be a number from 0 (wrong) to 1 (right), found {score!r}")
    return Feedback(name, key_id, at, float(score))


def judged(journals: Sequence[Path], files: Sequence[Path] = ()) -> Iterator[tuple[Entry, float]]:
    """Every entry of some journals, once, with the latest score that counts for it; by journal, oldest first.

    Feedback may lie in another journal than its entry, since clients give it to whichever proxy answers them, or in
    JSON-lines ``files``, which count for every key and over what the journals say. Memory does not grow with the
    journals: what is joined lies in a temporary database. Raises `FeedbackError`, which names the file and the line.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        db.execute("CREATE TABLE known (id TEXT, key_id TEXT, at REAL, score REAL, PRIMARY KEY (id, key_id))")
        for journal in journals:
            with _attached(db, journal):
                if _has(db, "feedback"):
                    _know(db, db.execute("SELECT id, key_id, at, score FROM journal.feedback"))
        for file in files:
            _know(db, ((f.request_id, f.key_id, f.at, f.score) for f in _lines(file)))
        db.execute("CREATE TABLE told (id TEXT PRIMARY KEY)")
        for journal in journals:
            with _attached(db, journal):
                yield from _joined(db, journal)


def _know(db: sqlite3.Connection, rows: Iterable[tuple[str, str, float, float]]) -> None:
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO known VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET at = excluded.at, score = excluded.score "
        "WHERE excluded.at >= at",
        rows,
    )
    db.execute("COMMIT")


def _joined(db: sqlite3.Connection, journal: Path) -> Iterator[tuple[Entry, float]]:
    query = (
        "SELECT number, body, key_id, score FROM journal.entries JOIN known USING (id) ORDER BY number, known.at DESC"
    )
    with closing(db.execute(query)) as rows:
        for number, body, key_id, score in rows:
            try:
                entry = codec.decode(bytes(body))
            except ValueError as error:
                raise FeedbackError(f"{journal}, entry {number}: cannot be read: {error}") from error
            heard = key_id in (ANYBODY, entry.key_id)
            if heard and db.execute("INSERT OR IGNORE INTO told VALUES (?)", (entry.id,)).rowcount:
                yield entry, score


@contextmanager
def _attached(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """A journal under the name ``journal`` while it is looked at."""
    if not path.is_file():
        raise FeedbackError(f"{path}: there is no journal; give the journal.sqlite of a proxy's data folder")
    try:
        db.execute("ATTACH ? AS journal", (str(path),))
        if not _has(db, "entries"):
            raise FeedbackError(f"{path}: has no entries; it is not a journal")
        yield
    except sqlite3.Error as error:
        raise FeedbackError(f"{path}: cannot be read as a journal: {error}") from error
    finally:
        with suppress(sqlite3.Error):
            db.execute("DETACH journal")


def _has(db: sqlite3.Connection, table: str) -> bool:
    return bool(db.execute("SELECT 1 FROM journal.sqlite_master WHERE name = ?", (table,)).fetchone())


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
