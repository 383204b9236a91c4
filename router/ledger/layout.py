"""The tables of a journal, and how one that an older version wrote is read and brought up to date."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from itertools import groupby
from pathlib import Path
from typing import Final

from router.ledger import blocks

log = logging.getLogger(__name__)

VERSION: Final = 4
"""Version 1 had a row for each entry, version 2 in each block a line for each, version 3 all of a layout as JSON;
blocks as in 2 and 3 are among later ones."""

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chapters (base INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    seq INTEGER PRIMARY KEY, since REAL NOT NULL, until REAL NOT NULL, count INTEGER NOT NULL, bodies BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_until ON blocks (until, since);
CREATE TABLE IF NOT EXISTS sums (seq INTEGER PRIMARY KEY AUTOINCREMENT, first INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS holds (seq INTEGER NOT NULL, account TEXT NOT NULL, member TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS holds_seq ON holds (seq);
CREATE TABLE IF NOT EXISTS cells (
    seq INTEGER NOT NULL, hour INTEGER NOT NULL, field TEXT NOT NULL, packed BLOB NOT NULL,
    PRIMARY KEY (seq, hour, field)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gpus (
    proxy TEXT NOT NULL, backend TEXT NOT NULL, hour_nanos INTEGER NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (proxy, backend, hour_nanos)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feedback (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, key_id TEXT NOT NULL, at REAL NOT NULL, score REAL NOT NULL,
    UNIQUE (id, key_id));
"""
_OLD_BLOCKS = "SELECT seq, at AS since, at AS until, 1 AS count, body AS bodies FROM entries"


def check(db: sqlite3.Connection, path: Path, *, create: bool) -> None:
    """See that a file is a journal, or, where it may be made, an empty one; make an old one readable as it is.

    Raises `sqlite3.DatabaseError`.
    """
    version = _version(db)
    if version not in range(1, VERSION + 1) and not (create and version == 0):
        raise sqlite3.DatabaseError(f"{path} is not a journal of version {VERSION} but of version {version}")
    if version == 1 and not create:
        db.execute(f"CREATE TEMP VIEW blocks AS {_OLD_BLOCKS}")


def make(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables that are not there, within a transaction, and put an old journal's entries into blocks."""
    for statement in _TABLES.split(";"):
        db.execute(statement)
    if _version(db) == 1:
        log.info("bringing %s up to version %d; this takes about 20 s for a million entries", path, VERSION)
        rows = db.execute(f"{_OLD_BLOCKS} ORDER BY seq, number")
        for seq, some in groupby(rows, key=lambda row: row[0]):
            blocks.put_lines(db, seq, [(at, body) for _, at, _, _, body in some])
        db.execute("DROP TABLE entries")
    db.execute("INSERT OR IGNORE INTO facts VALUES ('sent', '0')")
    db.execute("INSERT OR IGNORE INTO chapters VALUES (0, ?)", (uuid.uuid4().hex,))
    db.execute(f"PRAGMA user_version={VERSION}")


def not_made(path: Path, error: sqlite3.OperationalError) -> sqlite3.OperationalError:
    """What to say where `make` failed, as it does on a full disk: an old journal takes as much room again."""
    room = -(-path.stat().st_size // 2**20)
    return sqlite3.OperationalError(
        f"the journal {path} cannot be begun or brought up to version {VERSION} ({error}); what was in it is as it "
        f"was. See that its disk can be written and has {room} MiB left, and start again"
    )


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
