"""Facts of a text: each pulls so far and no further, and counts what it says."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.features import from_text
from classifiers.lexical import LEXICAL, lexical


@given(st.text(max_size=400), st.text(max_size=400))
def test_padding_pulls_each_fact_no_further_than_one(text: str, padding: str) -> None:
    assert np.abs(lexical(from_text(text + padding * 50))).max() <= 1.0


def test_quantities_told_by_others_and_decimals_are_counted() -> None:
    def fact(name: str, text: str) -> float:
        return float(lexical(from_text(text))[LEXICAL.index(name)])

    plain, told = "Ann has 4 pens and Bob has 8.", "Ann has 4 pens and Bob has twice as many."
    assert fact("relations", plain) == 0.0 < fact("relations", told) < fact("relations", f"{told} Cy has half of that.")
    assert fact("relations", f"{told} " * 20) == 1.0
    options = "\nA. 1\nB. 2.5"
    assert fact("relations", told + options) == fact("decimals", told + options) == 0.0  # of word problems only
    assert fact("decimals", "pay $4 for 3.") == 0.0 < fact("decimals", "pay $4.50") < fact("decimals", "$4.50, .5 kg")


_SPOKEN = ["Not", "nOt", "NOt", "EXCEPT", "not", "_not", "False", "false1", "both", "BOTH", "bOth", "neither", "all of"]
_OTHER = ["I", "we", "Ann", "lengthier", "Ünlü", "naïve", "McCoy", "DNAs", "3D", "_", "all,", "twice", "4.5", "a" * 30]


@given(st.lists(st.sampled_from([*_SPOKEN, *_OTHER]), max_size=12), st.sampled_from(["", "word " * 390]))
def test_words_count_however_they_are_spelled(words: list[str], before: str) -> None:
    text = before + " ".join(words)
    found = re.findall(r"[^\W_]+", text)[:400]
    expected = {
        "negation": len(re.findall(r"\b(?:not|except|false)\b", text, re.IGNORECASE)) / 3.0,
        "statements": len(re.findall(r"\b(?:both|neither|all of)\b", text, re.IGNORECASE)) / 4.0,
        "names": sum(word[0].isupper() for word in found[1:]) / max(1, len(found)) * 3.0,
        "first_person": sum(word in ("I", "we") for word in found) / max(1, len(found)) * 8.0,
        "long_words": sum(len(word) > 7 for word in found) / max(1, len(found)) * 2.0,
        "longest_word": (max(map(len, found), default=10) - 10.0) / 6.0,
    }
    facts = lexical(replace(from_text(""), text=text, last_text=text))
    for name, value in expected.items():
        assert facts[LEXICAL.index(name)] == pytest.approx(max(-1.0, min(1.0, value)), abs=1e-6), name


def test_options_are_counted_where_lines_begin_with_letters() -> None:
    def options(text: str) -> float:
        return 5.0 * float(lexical(from_text(text))[LEXICAL.index("options")])

    assert options("Pick:\nA. one\nB) two\n(C) three\nK. four\n D. five\nE.six") == pytest.approx(3.0)
    assert options("A. one\nB. two") == pytest.approx(2.0)
    assert options("None here. A. one") == 0.0
