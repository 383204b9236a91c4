"""Tests of `classifiers.vocabulary`."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.vocabulary import LONGEST, Vocabulary

NUMBERS = {word: at * 7 for at, word in enumerate([*"abcxyz019.,?!'", "the", "of", "cab", "bac", "x0", "z" * LONGEST])}
SIZE = 200
SPACES = " \t\n\r"


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(NUMBERS.items(), SIZE, 2000)


@given(
    st.lists(
        st.sampled_from([*NUMBERS, *SPACES, "thee", "ba", "00"]) | st.text(st.characters(codec="ascii"), max_size=3)
    )
    .map("".join)
    .map(str.lower)
)
def test_words_and_where_they_begin_are_those_that_a_pattern_finds(vocabulary: Vocabulary, text: str) -> None:
    numbers, unknown, starts = vocabulary.look_up(text)
    words = list(re.finditer(r"[a-z0-9]+|[^a-z0-9\s]", text))
    assert starts.tolist() == [word.start() for word in words]
    assert unknown == [at for at, word in enumerate(words) if word[0] not in NUMBERS]
    known = [number for at, number in enumerate(numbers) if at not in unknown]
    assert known == [NUMBERS[word[0]] for word in words if word[0] in NUMBERS]


def test_of_two_words_in_one_slot_the_later_is_known() -> None:
    many = [(f"w{at}", at) for at in range(60_000)]
    text = " ".join(word for word, _ in many)
    unknown = []
    for words in (many, many[::-1]):
        numbers, missing, _ = Vocabulary(words, len(many), len(text)).look_up(text)
        unknown.append(set(missing))
        assert all(number == at for at, number in enumerate(numbers) if at not in unknown[-1])
        assert 0 < len(missing) < len(many) / 2
    assert min(unknown[0]) < min(unknown[1])
    assert max(unknown[0]) < max(unknown[1])


def test_a_vocabulary_of_no_words_knows_none() -> None:
    assert Vocabulary([], 5, 100).look_up("a b.")[1] == [0, 1, 2]
