"""Journals that older versions wrote, and files that are none."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policies.values import Entry
from router.ledger import blocks, codec
from router.ledger.journal_file import JournalFile, Line
from router.ledger.judgements import judged
from router.ledger.tallying import pack_entries
from tests.router.ledger.entries import NOON, entry
from tests.router.ledger.journals import after, sums


def test_a_journal_that_is_not_there_or_not_one_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no journal at"):
        JournalFile(tmp_path / "none.sqlite", create=False)
    (tmp_path / "text").write_text("this is a text, and no database of any kind\n" * 50)
    with pytest.raises(sqlite3.DatabaseError):
        JournalFile(tmp_path / "text")
    newer = sqlite3.connect(tmp_path / "newer.sqlite")
    newer.execute("PRAGMA user_version=7")
    newer.close()
    for create in (True, False):
        with pytest.raises(sqlite3.DatabaseError, match="of version 4 but of version 7"):
            JournalFile(tmp_path / "newer.sqlite", create=create)


_OLD = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE chapters (base INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE entries (
    number INTEGER PRIMARY KEY, seq INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, at REAL NOT NULL,
    tier TEXT NOT NULL, backend TEXT NOT NULL, cost_nanos INTEGER, body BLOB NOT NULL);
CREATE INDEX entries_at ON entries (at);
CREATE INDEX entries_seq ON entries (seq);
CREATE TABLE sums (seq INTEGER PRIMARY KEY AUTOINCREMENT, first INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE holds (seq INTEGER NOT NULL, account TEXT NOT NULL, member TEXT NOT NULL);
CREATE TABLE cells (
    seq INTEGER NOT NULL, hour INTEGER NOT NULL, field TEXT NOT NULL, packed BLOB NOT NULL,
    PRIMARY KEY (seq, hour, field)) WITHOUT ROWID;
CREATE TABLE feedback (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, key_id TEXT NOT NULL, at REAL NOT NULL, score REAL NOT NULL,
    UNIQUE (id, key_id));
PRAGMA user_version=1;
"""


def old_journal(path: Path) -> None:
    """A journal of version 1: four commits of five entries."""
    db = sqlite3.connect(path)
    db.executescript(_OLD)
    db.execute("INSERT INTO facts VALUES ('sent', '2')")
    db.execute("INSERT INTO chapters VALUES (0, 'old')")
    for seq in range(1, 5):
        made = [entry(f"{seq}.{i}", at=NOON + 10 * i + seq, cost=seq) for i in range(5)]
        rows = [(seq, one.id, one.at, one.tier, one.backend, one.cost_nanos, codec.encode(one)) for one in made]
        db.executemany(
            "INSERT INTO entries (seq, id, at, tier, backend, cost_nanos, body) VALUES (?,?,?,?,?,?,?)", rows
        )
        db.execute("INSERT INTO sums VALUES (?, ?, ?)", (seq, seq, NOON))
        packed = [(seq, hour, name, packed) for (hour, name), packed in pack_entries(made).items()]
        db.executemany("INSERT INTO cells VALUES (?,?,?,?)", packed)
    db.execute("INSERT INTO feedback VALUES (1, '2.3', '*', ?, 0.5)", (NOON,))
    db.commit()
    db.close()


def test_a_journal_of_version_1_is_read_as_it_is_and_brought_up_by_who_writes(path: Path) -> None:
    old_journal(path)
    ids = [f"{seq}.{i}" for i in range(5) for seq in range(1, 5)]
    for create in (False, True, False):
        file = JournalFile(path, create=create)
        assert [codec.decode(body).id for body in file.bodies(0, NOON + 99)] == ids
        assert [codec.decode(body).id for body in file.bodies(NOON + 11, NOON + 14)] == ["1.1", "2.1", "3.1"]
        assert sums(file).counts["requests"] == 20
        assert sums(file).money["cost"] == 5 * (1 + 2 + 3 + 4)
        file.close()
        assert [(one.id, score) for one, score in judged([path])] == [("2.3", 0.5)]
    file = JournalFile(path)
    file.write([Line(entry("new"))], NOON)
    batch = after(file, 2)
    assert (batch.chapter, batch.first, batch.last) == ("old", 3, 5)
    assert codec.decode(batch.recent[-1]).id == "new"
    assert len(batch.recent) == 11
    assert file.retain(NOON + 12, 2**40) == 4 + 1 + 1
    assert [codec.decode(body).id for body in file.bodies(0, NOON + 99)] == ids[5:]
    assert sums(file).counts["requests"] == 21
    file.close()


def test_workers_that_start_together_bring_a_journal_up_once(path: Path) -> None:
    old_journal(path)
    with ThreadPoolExecutor(4) as workers:
        files = list(workers.map(JournalFile, [path] * 4))
    for number, file in enumerate(files):
        file.write([Line(entry(f"new{number}", at=NOON + 200 + number))], NOON)
    assert len(list(files[0].bodies(0, NOON + 300))) == 24
    assert sums(files[0]).counts["requests"] == 24
    for file in files:
        file.close()


_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from router.ledger.journal_file import JournalFile

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
JournalFile(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("room", [0, 5_000, 20_000, 50_000])
def test_an_old_journal_on_a_full_disk_stays_as_it_is_and_it_is_said_what_to_do(path: Path, room: int) -> None:
    old_journal(path)
    command = [sys.executable, "-c", _ON_A_FULL_DISK, str(path), str(room)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert f"the journal {path} cannot be begun or brought up to version 4" in last
    assert "what was in it is as it was. See that its disk can be written and has 1 MiB left" in last
    for create in (False, True):
        file = JournalFile(path, create=create)
        assert len(list(file.bodies(0, NOON + 99))) == 20
        assert sums(file).counts["requests"] == 20
        file.close()


def as_lines(old: list[Entry]) -> bytes:
    """A block of version 2."""
    return blocks.pack(list(map(codec.encode, old)))


def as_json(old: list[Entry]) -> bytes:
    """A block of version 3: what differs as lists, the rest of the first for all."""
    facts = [json.loads(codec.encode(one)) for one in old]
    node = {name: {"=": [value]} for name, value in facts[0].items()}
    node |= {name: [one[name] for one in facts] for name in ("id", "at", "view")}
    node["signals"] = {"?": [True] * 20, "of": {"domain": {"=": ["math"]}, "domain_probs": {"~": {"math": [1.0] * 20}}}}  # type: ignore[dict-item]
    attempts = {"#": [1] * 20, "of": [{"=": facts[0]["attempts"]}]}
    return zlib.compress(json.dumps([len(old), node | {"attempts": attempts}]).encode())


@pytest.mark.parametrize(("version", "write"), [(2, as_lines), (3, as_json)])
def test_an_older_journal_is_read_as_it_is_and_gets_blocks_of_columns_beside_its_own(
    path: Path, version: int, write: Callable[[list[Entry]], bytes]
) -> None:
    file = JournalFile(path)
    old = [entry(f"old{i}", at=NOON + i) for i in range(20)]
    file.write(list(map(Line, old)), NOON)
    file.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE blocks SET bodies = ?", (write(old),))
    db.execute(f"PRAGMA user_version={version}")
    db.commit()
    db.close()
    for create in (False, True):
        file = JournalFile(path, create=create)
        assert list(map(codec.decode, file.bodies(0, NOON + 99))) == old
        file.close()
    file = JournalFile(path)
    new = [entry(f"new{i}", at=NOON + i + 0.5) for i in range(20)]
    file.write(list(map(Line, new)), NOON)
    assert {one.id for one in map(codec.decode, file.bodies(0, NOON + 99))} == {one.id for one in (*old, *new)}
    assert sums(file).counts["requests"] == 40
    assert [codec.decode(body) for body in after(file, 0).recent] == [*old, *new]
    assert file.retain(NOON + 10, 2**40) == 20
    assert list(map(codec.decode, file.bodies(0, NOON + 99))) == sorted([*old, *new], key=lambda one: one.at)[20:]
    file.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (4,)
    db.close()
