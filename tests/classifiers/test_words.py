"""Tests of `classifiers.words`."""

import re

from hypothesis import given
from hypothesis import strategies as st

from classifiers.words import KEPT, LONGEST, Kept, words_of


@given(st.text() | st.text(st.characters(max_codepoint=127)))
def test_words_are_runs_of_letters_and_digits(text: str) -> None:
    assert words_of(text) == re.findall(r"[^\W_]+", text)


def test_what_is_known_of_a_word_is_worked_out_once() -> None:
    asked: list[str] = []

    def size(word: str) -> int:
        asked.append(word)
        return len(word)

    sizes = Kept(size)
    assert sizes.of(["a", "bb", "a"]) == [1, 2, 1]
    assert sizes.of(["bb", "ccc"]) == [2, 3]
    assert asked == ["a", "bb", "ccc"]


def test_no_more_words_are_kept_than_there_is_room_for() -> None:
    sizes = Kept(len)
    long = "x" * (LONGEST + 1)
    assert sizes.of([long, long]) == [LONGEST + 1] * 2
    assert long not in sizes
    assert sizes.of(map(str, range(KEPT + 1))) == [len(str(number)) for number in range(KEPT + 1)]
    assert [*sizes] == [str(KEPT)]
