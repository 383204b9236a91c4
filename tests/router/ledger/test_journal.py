"""The writer: what goes in comes to lie in the file, whatever the disk does, and once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Semaphore

import pytest

from router.ledger import codec
from router.ledger import journal as journal_module
from router.ledger.journal import COMMIT_WINDOW, Journal
from router.ledger.journal_file import JournalFile, Line
from router.ledger.meter import Reading
from router.ledger.sums import held, merge_all, seconds_held
from tests.router.ledger.entries import NOON, bulky, entry
from tests.router.ledger.journals import HOUR, sums
from tests.waiting import eventually


def test_entries_are_committed_with_their_sums(path: Path) -> None:
    journal = Journal(path)
    journal.start()
    for i in range(100):
        journal.append(Line(entry(f"r{i}", cost=i)))
    assert journal.flush()
    file = JournalFile(path, create=False)
    assert sums(file).counts["requests"] == 100
    assert sums(file).money["cost"] == sum(range(100))
    assert [codec.decode(body).id for body in file.bodies(0, NOON + 1)] == [f"r{i}" for i in range(100)]
    file.close()
    assert journal.close()


def test_content_stays_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    for keep, expected in ((False, ""), (True, "secret words")):
        journal = Journal(tmp_path / f"{keep}.sqlite", keep_content=keep)
        journal.start()
        journal.append(Line(entry()))
        assert journal.close()
        file = JournalFile(journal.path, create=False)
        (body,) = file.bodies(0, NOON + 1)
        assert codec.decode(body).features.text == expected
        assert keep == (b"secret" in body)
        file.close()


class Doubtful(JournalFile):
    """A journal whose disk commits and says that it did not, every time until it is told to be honest."""

    honest = False

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with super()._transaction():
            yield
        if not self.honest:
            raise sqlite3.OperationalError("disk I/O error")


def test_what_a_disk_kept_though_it_refused_it_is_not_written_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    JournalFile(path).close()
    monkeypatch.setattr(Doubtful, "honest", True)
    journal = Journal(path, open_file=Doubtful)
    journal.start()
    assert journal.flush()
    monkeypatch.setattr(Doubtful, "honest", False)
    for i in range(5):
        journal.append(Line(entry(f"r{i}")))
    eventually(lambda: journal.problem != "")
    monkeypatch.setattr(Doubtful, "honest", True)
    journal.append(Line(entry("r5")))
    assert journal.close()
    file = JournalFile(path, create=False)
    assert sums(file).counts["requests"] == 6
    assert [codec.decode(body).id for body in file.bodies(0, NOON + 1)] == [f"r{i}" for i in range(6)]
    file.close()


def test_nor_after_it_refused_something_else_in_between(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubtful, "honest", True)
    file = Doubtful(path)
    monkeypatch.setattr(Doubtful, "honest", False)
    with pytest.raises(sqlite3.OperationalError):
        file.write([Line(entry("a"))], NOON)
    monkeypatch.setattr(Doubtful, "honest", True)
    db = sqlite3.connect(path)
    db.execute("CREATE TRIGGER full BEFORE INSERT ON blocks BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.Error, match="disk full"):
        file.write([Line(entry("a")), Line(entry("b"))], NOON)
    db.execute("DROP TRIGGER full")
    db.close()
    file.write([Line(entry("a")), Line(entry("b"))], NOON)
    assert [codec.decode(body).id for body in file.bodies(0, NOON + 1)] == ["a", "b"]
    assert sums(file).counts["requests"] == 2
    file.close()


def test_sums_without_entries_are_kept(path: Path) -> None:
    journal = Journal(path)
    journal.start()
    journal.meter(Reading(held("gpu-1", 10**9, NOON, NOON + 9), ()))
    journal.meter(Reading(held("gpu-1", 10**9, NOON + 5, NOON + 19), ()))
    assert journal.close()
    file = JournalFile(path, create=False)
    merged = merge_all(file.packed(HOUR, HOUR + 1))
    assert [seconds_held(packed) for packed in merged.values()] == [20]
    file.close()


class SlowDisk(JournalFile):
    """A journal whose every commit waits to be let through."""

    begun, let = Semaphore(0), Semaphore(0)

    def write(self, *args: object, **settings: object) -> None:
        self.begun.release()
        self.let.acquire()
        super().write(*args, **settings)  # type: ignore[arg-type]


def test_a_kill_loses_the_commit_under_way_and_what_came_after_it_was_gathered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment the file says what a kill would leave; each commit waits for others the window and no longer."""
    waits: list[float] = []
    monkeypatch.setattr(journal_module, "sleep", waits.append)
    journal, file = Journal(path, open_file=SlowDisk), JournalFile(path)

    def left() -> list[str]:
        return [codec.decode(body).id for body in file.bodies(0, NOON + 1)]

    journal.start()
    journal.append(Line(entry("r0")))
    assert SlowDisk.begun.acquire(timeout=60)
    for i in (1, 2):
        journal.append(Line(entry(f"r{i}")))
    assert left() == []
    SlowDisk.let.release()
    assert SlowDisk.begun.acquire(timeout=60)
    assert left() == ["r0"]
    SlowDisk.let.release()
    assert journal.close()
    assert left() == ["r0", "r1", "r2"]
    assert waits == [COMMIT_WINDOW, COMMIT_WINDOW]
    file.close()


class FullDisk(JournalFile):
    """A journal whose disk has room for so many pages and no more, until it is given more."""

    pages = 40

    def __init__(self, path: Path, *, create: bool = True) -> None:
        super().__init__(path, create=create)
        self.write_pages()

    def write_pages(self) -> None:
        self._db.execute(f"PRAGMA max_page_count={self.pages}")

    def write(self, *args: object, **settings: object) -> None:
        self.write_pages()
        super().write(*args, **settings)  # type: ignore[arg-type]


def test_a_full_disk_loses_nothing_and_is_said_loudly(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(path, most_held=20, open_file=FullDisk)
    journal.start()
    for i in range(200):
        journal.append(Line(entry(f"r{i}", cost=i, features=bulky())))
    eventually(lambda: "full" in journal.problem)
    assert not journal.flush(0.1)
    assert "cannot be written" in caplog.text
    for i in range(200, 260):
        journal.append(Line(entry(f"r{i}", cost=i)))
    monkeypatch.setattr(FullDisk, "pages", 100_000)
    assert journal.flush(60)
    assert journal.problem == ""
    assert "can be written again" in caplog.text
    assert journal.close()
    file = JournalFile(path, create=False)
    assert sums(file).counts["requests"] == 260, "counted, whole or folded"
    assert sums(file).money["cost"] == sum(range(260))
    kept = len(list(file.bodies(0, NOON + 1)))
    assert 20 <= kept < 260, "beyond the bound, entries are kept as sums only"
    file.close()


def test_closing_on_a_full_disk_says_that_something_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FullDisk, "pages", 10)
    journal = Journal(path, open_file=FullDisk)
    journal.start()
    for i in range(50):
        journal.append(Line(entry(f"r{i}")))
    assert not journal.close()


def test_an_entry_that_cannot_be_written_does_not_take_others_with_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(path)
    journal.start()
    for i, cost in enumerate((1, 2**100, 3)):
        journal.append(Line(entry(f"r{i}", cost=cost)))
    journal.meter(Reading(held("gpu-1", 10**9, NOON, NOON + 9), ()))
    assert journal.close()
    file = JournalFile(path, create=False)
    assert sums(file).money["cost"] == 4
    assert sum(seconds_held(p) for _, name, p in file.packed(HOUR, HOUR + 1) if name.startswith("=gpu")) == 10
    file.close()
    assert f"entry r1 cannot be written and is lost; it cost {2**100} nanos" in caplog.text


_WRITER = """
import sys
from pathlib import Path
from router.ledger.journal import Journal
from router.ledger.journal_file import Line
from tests.router.ledger.entries import entry

journal = Journal(Path(sys.argv[1]))
journal.start()
for i in range(10**9):
    journal.append(Line(entry(f"r{i}", cost=i)))
    if i % 50 == 49:
        assert journal.flush()
        print(i + 1, flush=True)
"""


def test_what_was_committed_survives_sigkill(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told = 0
    for line in writer.stdout:
        told = int(line)
        if told >= 400:
            os.kill(writer.pid, signal.SIGKILL)
            break
    writer.wait()
    told = max([told, *(int(line) for line in writer.stdout.read().split())])
    writer.stdout.close()
    file = JournalFile(path)
    ids = [codec.decode(body).id for body in file.bodies(0, NOON + 1)]
    assert ids == [f"r{i}" for i in range(len(ids))]
    assert len(ids) >= told, "everything that was told to be committed is there"
    assert sums(file).counts["requests"] == len(ids)
    assert sums(file).money["cost"] == sum(range(len(ids)))
    file.close()
