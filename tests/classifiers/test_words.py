"""Tests of `classifiers.words`."""

import re

from hypothesis import given
from hypothesis import strategies as st

from classifiers.words import words_of


@given(st.text() | st.text(st.characters(max_codepoint=127)))
def test_words_are_runs_of_letters_and_digits(text: str) -> None:
    assert words_of(text) == re.findall(r"[^\W_]+", text)
