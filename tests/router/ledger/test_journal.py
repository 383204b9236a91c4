from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from threading import Semaphore

import pytest

from policies.values import Features
from router.ledger import blocks, codec
from router.ledger import journal as journal_module
from router.ledger.feedback import FeedbackError
from router.ledger.journal import COMMIT_WINDOW, Journal
from router.ledger.journal_file import Batch, JournalFile, Line
from router.ledger.judgements import judged
from router.ledger.meter import Reading
from router.ledger.sums import Tally, held, merge_all, pack_entries, seconds_held
from router.reports.sources import JournalSource, NoSource
from tests.contracts.stores_servers import wait_for
from tests.router.ledger.entries import NOON, entry

HOUR = int(NOON) // 3600


def applied(file: JournalFile, number: int) -> dict[str, int]:
    return {file.chapters()[-1].name: number}


def after(file: JournalFile, number: int) -> Batch:
    batch = file.batch_after(file.chapters()[-1], applied(file, number))
    assert batch is not None
    return batch


def sums(file: JournalFile, known: dict[str, int] | None = None) -> Tally:
    total = Tally()
    for (_, name), packed in merge_all(file.packed(HOUR, HOUR + 1, known)).items():
        if name[0] != "=":
            total.merge(Tally.unpack(packed))
    return total


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


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


def test_only_the_owner_may_read_it(path: Path) -> None:
    JournalFile(path).close()
    assert path.stat().st_mode & 0o077 == 0


def test_an_entry_counts_once_however_often_it_is_written(path: Path) -> None:
    file = JournalFile(path)
    file.write([Line(entry("a")), Line(entry("a"))], NOON)
    file.write([Line(entry("a")), Line(entry("b"))], NOON)
    assert sums(file).counts["requests"] == 2
    assert [codec.decode(body).id for body in file.bodies(0, NOON + 1)] == ["a", "b"]
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
    wait_for(lambda: journal.problem != "")
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


def test_workers_share_a_journal_and_its_numbers_have_no_gaps(path: Path) -> None:
    files = [JournalFile(path) for _ in range(3)]
    for i in range(30):
        files[i % 3].write([Line(entry(f"r{i}"))], NOON)
    batch = after(files[0], 0)
    assert (batch.first, batch.last) == (1, 30)
    assert len({file.chapters()[0].name for file in files}) == 1
    for file in files:
        file.close()


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
        with pytest.raises(sqlite3.DatabaseError, match="of version 2 but of version 7"):
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


def test_folding_keeps_every_sum_and_what_may_be_shipped_in_part(path: Path) -> None:
    file = JournalFile(path)
    for i in range(40):
        file.write([Line(entry(f"r{i}", cost=i))], NOON + i)
    before = sums(file)
    assert after(file, 25).last == 40, "so up to 40 is sent, and may have been applied"
    for i in range(40, 50):
        file.write([Line(entry(f"r{i}", cost=i))], NOON + i)
    before = sums(file)
    gone = file.fold(applied(file, 20), now=NOON + 3700)
    assert gone == 19 + 9
    assert sums(file) == before
    whole, rest = after(file, 0), after(file, 20)
    assert (whole.first, whole.last, rest.first, rest.last) == (1, 50, 21, 50)
    assert file.backlog(applied(file, 20)) == 30
    assert file.fold(applied(file, 20), now=NOON + 3700) == 0
    file.close()


@pytest.mark.parametrize("damage", [lambda block: block[:-9], lambda block: b"?" * len(block)], ids=["cut", "other"])
def test_a_damaged_block_is_said_and_keeps_nothing_else_from_going_on(
    path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    file = JournalFile(path)
    for seq in range(1, 4):
        file.write([Line(entry(f"{seq}.{i}", at=NOON + 60 * i, cost=seq)) for i in range(2)], NOON)
    db = sqlite3.connect(path)
    db.create_function("damage", 1, damage)
    db.execute("UPDATE blocks SET bodies = damage(bodies) WHERE seq = 2")
    db.commit()
    db.close()
    batch = after(file, 0)
    assert [codec.decode(body).id for body in batch.recent] == ["1.0", "1.1", "3.0", "3.1"]
    assert merge_all(batch.sums) == merge_all(file.packed(0, 2**40))
    assert "commit 2" in caplog.text
    assert file.retain(NOON + 30, 2**40) == 2
    with pytest.raises(sqlite3.DatabaseError, match="damaged"):
        list(file.bodies(0, NOON + 3600))
    with pytest.raises(FeedbackError, match="damaged"):
        list(judged([path]))
    with pytest.raises(NoSource, match="damaged"):
        list(JournalSource(path).bodies(0, NOON + 3600))
    file.close()


def test_chapters_are_numbered_and_folded_each_for_itself(path: Path) -> None:
    file = JournalFile(path)
    file.begin_chapter()
    for chapter in range(3):
        for i in range(5):
            file.write([Line(entry(f"{chapter}.{i}", cost=1))], NOON)
        file.begin_chapter()
        file.begin_chapter()
    first, second, third, empty = file.chapters()
    assert [(c.base, c.end) for c in (first, second, third, empty)] == [(0, 5), (5, 10), (10, 15), (15, 15)]
    known = {first.name: 5, second.name: 2, third.name: 99}
    assert file.pending(known) == [second]
    batch = file.batch_after(second, known)
    assert batch is not None
    assert (batch.first, batch.last) == (3, 5)
    assert sums(file, known).counts["requests"] == 3 == file.backlog(known)
    assert file.fold(known, NOON + 7200) == 4 + 1 + 4
    assert sums(file).counts["requests"] == 15
    assert sums(file, known).counts["requests"] == 3
    assert file.batch_after(third, known) is None, "a store that has more than the journal is sent nothing"
    file.close()


def test_what_is_fresh_is_not_folded(path: Path) -> None:
    file = JournalFile(path)
    for i in range(10):
        file.write([Line(entry(f"r{i}"))], NOON)
    assert file.fold(applied(file, 10), now=NOON + 30) == 0
    file.close()


def test_a_store_set_back_into_folded_sums_gets_its_entries_counted_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = JournalFile(path)
    for i in range(20):
        file.write([Line(entry(f"r{i}", cost=i))], NOON)
    file.fold(applied(file, 20), now=NOON + 7200)
    batch = after(file, 7)
    assert (batch.first, batch.last) == (8, 20)
    expected = pack_entries([entry(f"r{i}", cost=i) for i in range(7, 20)])
    cells = {name: packed for _, name, packed in batch.sums if name[0] != "="}
    assert cells == {name: packed for (_, name), packed in expected.items() if name[0] != "="}
    assert "went back to commit 7" in caplog.text
    file.close()


def test_old_entries_leave_and_their_sums_stay(path: Path) -> None:
    file = JournalFile(path)
    file.write([Line(entry("old", at=NOON)), Line(entry("new", at=NOON + 60))], NOON)
    before = sums(file)
    assert file.retain(NOON + 30, 2**40) == 1
    assert [codec.decode(body).id for body in file.bodies(0, NOON + 3600)] == ["new"]
    assert sums(file) == before
    file.close()


def test_old_entries_leave_however_many_commits_they_came_in(path: Path) -> None:
    """A busy proxy makes more than a thousand commits a minute, which is how often this is called."""
    file = JournalFile(path)
    db = sqlite3.connect(path)
    db.executemany(
        "INSERT INTO blocks VALUES (?,?,?,?,?)",
        [(seq, NOON, NOON, 1, blocks.pack([codec.encode(entry(f"r{seq}", at=NOON))])) for seq in range(1, 2_501)],
    )
    db.commit()
    db.close()
    assert file.retain(NOON + 30, 2**40) == 2_500
    assert list(file.bodies(0, NOON + 3600)) == []
    file.close()


def test_commits_that_are_old_in_part_are_not_all_held_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where answers take half a minute, any moment lies within many commits, and each would be synced alone."""
    file = JournalFile(path)
    for start in range(0, 3_000, 20):
        lines = [Line(entry(f"r{start + i}", at=NOON + 60 * (i % 2), features=bulky())) for i in range(20)]
        file.write(lines, NOON)
    begun = transactions(file, monkeypatch)
    tracemalloc.start()
    assert file.retain(NOON + 30, 2**40) == 1_500
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(list(file.bodies(0, NOON + 3600))) == 1_500
    assert peak < 2_000_000, "they are 6 MB together"
    assert len(begun) < 10
    file.close()


def transactions(file: JournalFile, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When it began each of its transactions from now on."""
    begun = list[float]()
    transaction = file._transaction

    @contextmanager
    def counted() -> Iterator[None]:
        begun.append(time.monotonic())
        with transaction():
            yield

    monkeypatch.setattr(file, "_transaction", counted)
    return begun


def test_a_journal_of_small_commits_that_is_too_big_is_not_synced_for_each_few(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet proxy's commits have an entry each, and where the bound is lowered a million of them go."""
    file = JournalFile(path)
    block = blocks.pack([codec.encode(entry(at=NOON, features=bulky()))])
    db = sqlite3.connect(path)
    rows = ((seq, NOON, NOON, 1, block) for seq in range(1, 3_001))
    db.executemany("INSERT INTO blocks VALUES (?,?,?,?,?)", rows)
    db.commit()
    db.close()
    begun = transactions(file, monkeypatch)
    gone = file.retain(0, 4_000_000)
    kept = list(file.bodies(0, NOON + 1))
    assert gone + len(kept) == 3_000
    assert 3_500_000 < file._used_bytes() <= 4_000_000
    assert len(begun) < 30
    file.close()


def bulky() -> Features:
    """What no compression makes small."""
    return Features(conversation=token_hex(2_000))


def test_a_journal_that_is_too_big_lets_its_oldest_entries_go(path: Path) -> None:
    file = JournalFile(path)
    for start in range(0, 3_000, 100):
        file.write([Line(entry(f"r{i}", features=bulky())) for i in range(start, start + 100)], NOON)
    before = sums(file)
    assert file.retain(0, 4_000_000) >= 1_000
    kept = [codec.decode(body).id for body in file.bodies(0, NOON + 1)]
    assert kept
    assert kept[-1] == "r2999"
    assert sums(file) == before
    assert path.stat().st_size < 8_000_000
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
    wait_for(lambda: "full" in journal.problem)
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
