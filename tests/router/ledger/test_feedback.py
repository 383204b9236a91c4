"""Feedback: what is taken for it, whose counts, and that it finds its entry in whichever journal that is."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from router.ledger import feedback
from router.ledger.feedback import ANYBODY, Feedback, FeedbackError
from router.ledger.journal import Journal
from router.ledger.journal_file import JournalFile, Line
from router.ledger.judgements import judged
from tests.router.ledger.entries import NOON, entry


def write(path: Path, ids: list[str], said: list[Feedback]) -> Path:
    file = JournalFile(path)
    file.write([Line(entry(name)) for name in ids], NOON)
    file.write_feedback(said)
    file.close()
    return path


def scores(journals: list[Path], files: list[Path] | None = None) -> dict[str, float]:
    return {found.id: score for found, score in judged(journals, files or [])}


def test_feedback_reaches_the_journal_in_the_commit_window(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.start()
    journal.append(Line(entry("a")))
    journal.judge(Feedback("a", "k1", NOON, 0.5))
    assert journal.flush()
    assert scores([journal.path]) == {"a": 0.5}
    assert journal.close()


def test_only_the_key_that_asked_and_admins_are_heard(tmp_path: Path) -> None:
    said = [Feedback("a", "k2", NOON, 0.0), Feedback("b", "k1", NOON, 0.25), Feedback("c", ANYBODY, NOON, 1.0)]
    assert scores([write(tmp_path / "j", ["a", "b", "c", "d"], said)]) == {"b": 0.25, "c": 1.0}


def test_the_later_word_stands(tmp_path: Path) -> None:
    path = write(tmp_path / "j", ["a"], [Feedback("a", "k1", NOON, 0.0), Feedback("a", "k1", NOON + 1, 0.75)])
    assert scores([path]) == {"a": 0.75}
    both = write(tmp_path / "k", ["b"], [Feedback("b", ANYBODY, NOON + 1, 0.0), Feedback("b", "k1", NOON, 1.0)])
    assert scores([both]) == {"b": 0.0}


def test_journals_of_many_proxies_are_joined(tmp_path: Path) -> None:
    one = write(tmp_path / "one", ["a"], [Feedback("b", "k1", NOON, 1.0)])
    two = write(tmp_path / "two", ["b"], [Feedback("a", "k1", NOON, 0.0)])
    assert scores([one, two]) == {"a": 0.0, "b": 1.0}
    assert scores([one]) == {}


def test_a_file_counts_over_the_journal(tmp_path: Path) -> None:
    path = write(tmp_path / "j", ["a"], [Feedback("a", "k1", NOON, 1.0)])
    file = tmp_path / "feedback.jsonl"
    file.write_text('{"request_id": "a", "score": 0}\n\n{"request_id": "never-seen", "score": 1}\n')
    assert scores([path], [file]) == {"a": 0.0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"request_id": "a", "score": 1, "why": ""}', "unknown key 'why'; known: request_id, score"),
        ('{"score": 1}', "'request_id' must be the x-tierwise-request-id"),
        ('{"request_id": "%s", "score": 1}' % ("a" * 65), "'request_id' must be"),
        ('{"request_id": "a"}', "'score' must be a number from 0 .* found None"),
        ('{"request_id": "a", "score": 1.5}', r"found 1\.5"),
        ('{"request_id": "a", "score": true}', "found True"),
        ('{"request_id": "a", "score": NaN}', "not valid JSON"),
    ],
)
def test_what_is_no_feedback_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(FeedbackError, match=message):
        feedback.read(line.encode(), "k1", NOON)
    file = tmp_path / "feedback.jsonl"
    file.write_text('{"request_id": "a", "score": 1}\n' + line)
    with pytest.raises(FeedbackError, match=rf"feedback\.jsonl, line 2: .*{message}"):
        scores([write(tmp_path / "j", ["a"], [])], [file])


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedbackError, match="there is no journal"):
        scores([tmp_path / "none"])
    (tmp_path / "text").write_text("not a database, whatever it is" * 100)
    with pytest.raises(FeedbackError, match="cannot be read as a journal"):
        scores([tmp_path / "text"])
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE things (a)").connection.close()
    with pytest.raises(FeedbackError, match="not a journal of version 4"):
        scores([tmp_path / "other"])


def test_an_entry_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "j", ["a"], [Feedback("a", "k1", NOON, 1.0)])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE blocks SET bodies = ?", (json.dumps({"id": "a", "at": NOON}).encode(),))
    db.close()
    with pytest.raises(FeedbackError, match=r"j, entry a: cannot be read"):
        scores([path])


def test_a_journal_from_before_feedback_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "j", ["a"], [])
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE feedback")
    db.close()
    assert scores([path]) == {}


def test_old_feedback_goes_with_its_entries(tmp_path: Path) -> None:
    path = write(tmp_path / "j", ["a"], [Feedback("a", "k1", NOON, 1.0), Feedback("b", "k1", NOON + 10, 1.0)])
    file = JournalFile(path)
    file.retain(NOON + 5, 1 << 30)
    file.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT id FROM feedback").fetchall() == [("b",)]
    db.close()


def test_reading_may_stop_half_way(tmp_path: Path) -> None:
    path = write(tmp_path / "j", ["a", "b"], [Feedback(name, "k1", NOON, 1.0) for name in "ab"])
    found = judged([path])
    assert next(found)[0].id == "a"
    found.close()  # type: ignore[attr-defined]
