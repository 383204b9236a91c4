"""Facts of a text: each pulls so far and no further, and counts what it says."""

import numpy as np
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
