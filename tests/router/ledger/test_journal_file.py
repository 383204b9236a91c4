"""The file: numbers, chapters, folding, and what leaves it."""

from __future__ import annotations

import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from router.ledger import blocks, codec
from router.ledger.feedback import FeedbackError
from router.ledger.journal_file import JournalFile, Line
from router.ledger.judgements import judged
from router.ledger.sums import merge_all
from router.ledger.tallying import pack_entries
from router.reports.sources import JournalSource, NoSource
from tests.router.ledger.entries import NOON, bulky, entry
from tests.router.ledger.journals import after, applied, sums


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


def test_workers_share_a_journal_and_its_numbers_have_no_gaps(path: Path) -> None:
    files = [JournalFile(path) for _ in range(3)]
    for i in range(30):
        files[i % 3].write([Line(entry(f"r{i}"))], NOON)
    batch = after(files[0], 0)
    assert (batch.first, batch.last) == (1, 30)
    assert len({file.chapters()[0].name for file in files}) == 1
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


def test_what_ten_seconds_take_to_read_does_not_grow_with_what_came_before(path: Path) -> None:
    """In steps of SQLite's machine, where reading every row takes several for each."""
    file = JournalFile(path)
    block = blocks.pack([codec.encode(entry(at=NOON))])
    db = sqlite3.connect(path)
    rows = ((seq, NOON + seq, NOON + seq, 1, block) for seq in range(10_000))
    db.executemany("INSERT INTO blocks VALUES (?,?,?,?,?)", rows)
    db.commit()
    db.close()
    steps = count()
    file._db.set_progress_handler(lambda: next(steps) and 0, 1)
    assert len(list(file.bodies(NOON + 9_990, NOON + 10_000))) == 0, "all say that they are from noon"
    assert 100 < next(steps) < 1_000
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
