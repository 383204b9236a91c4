"""What a benchmark asks: built in and never the same, or from a file in any of its shapes."""

from itertools import islice
from pathlib import Path

import pytest

from router.bench.prompts import endless, read


def test_built_in_prompts_never_repeat_and_can_be_repeated() -> None:
    some = list(islice(endless(None, 7), 500))
    assert len({str(each) for each in some}) == 500
    assert some == list(islice(endless(None, 7), 500))
    assert len({each[0]["content"] for each in some}) == 1


def test_a_file_may_hold_lines_prompts_and_messages(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('Why?\n\n"How?"\n{"prompt": "When?"}\n{"messages": [{"role": "user", "content": "Who?"}]}\n')
    given = read(file)
    assert [each[0]["content"] for each in given] == ["Why?", "How?", "When?", "Who?"]
    assert list(islice(endless(given, 0), 5)) == [*given, given[0]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no prompts"),
        ('ok\n{"prompt": ', ":2: not JSON"),
        ('{"id": 3}', ":1: expected a prompt"),
        ("[1", "not JSON"),
    ],
)
def test_a_file_that_makes_no_sense_is_told_where(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        read(file)
