"""Rows: streamed as they are, refused with their line when they are wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from classifiers.datasets import DataError, read

GOOD = {"id": "a", "prompt": "hi", "task": "t", "scores": {"m": 0.5}, "domain": "chat", "weight": 2}


def write(path: Path, *lines: Any) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_reading(tmp_path: Path, name: str) -> None:
    other = {"id": "b", "messages": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]}
    first, second = read([write(tmp_path / name, GOOD, "", other)])
    assert (first.id, first.task, first.scores, first.domain, first.weight) == ("a", "t", {"m": 0.5}, "chat", 2.0)
    assert first.features.text == "hi"
    assert second.features.text == "one\ntwo"
    assert second.scores == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nope", "not valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        ({"prompt": "x"}, "key 'id' is missing"),
        ({"id": "x"}, "expected a string under 'prompt'"),
        ({**GOOD, "id": "x", "scores": {"m": 1.5}}, r"the score of 'm' is 1\.5; scores are numbers from 0 to 1"),
        ({**GOOD, "id": "x", "scores": {"m": True}}, "the score of 'm' is True"),
        ('{"id": "x", "prompt": "p", "scores": {"m": NaN}}', "not valid JSON .* leave out a score that is not known"),
        ({**GOOD, "id": "x", "scores": [1]}, "expected 'scores' to map"),
        ({**GOOD, "id": "x", "domain": "cooking"}, "unknown domain 'cooking'; known: biology"),
        ({**GOOD, "id": "x", "weight": 0}, "'weight' must be a positive number"),
        (GOOD, "id 'a' was already used"),
    ],
)
def test_bad_rows_name_their_line(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, line)
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: {message}"):
        list(read([path]))


def test_ids_are_unique_across_files(tmp_path: Path) -> None:
    paths = [write(tmp_path / "one.jsonl", GOOD), write(tmp_path / "two.jsonl", GOOD)]
    with pytest.raises(DataError, match=r"two\.jsonl, line 1: id 'a'"):
        list(read(paths))


def test_scores_may_be_required(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 'scores'"):
        list(read([write(tmp_path / "rows.jsonl", {"id": "a", "prompt": "x"})], need_scores=True))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        list(read([tmp_path / "none.jsonl"]))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode() * 50)[:-9])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz"):
        list(read([tmp_path / "cut.jsonl.gz"]))
