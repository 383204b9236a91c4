"""Hashed n-grams: stable, of length 1, within bounds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from classifiers.ngrams import SIZE, ngrams

GOLDEN = [155, 1467, 1831, 1986, 2169]


@given(st.text(max_size=5000))
def test_a_unit_vector_in_bounds(text: str) -> None:
    indices, values = ngrams(text)
    assert len(indices) == len(values) > 0
    assert (np.diff(indices) > 0).all()
    assert indices[0] >= 0
    assert indices[-1] < SIZE
    assert np.isclose(np.square(values).sum(), 1.0, atol=1e-5)


def test_case_and_spaces_do_not_matter() -> None:
    first, second = ngrams("Hello  World\n"), ngrams("hello world ")
    assert np.array_equal(first[0], second[0])
    assert np.allclose(first[1], second[1])


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert ngrams("tierwise")[0][:5].tolist() == GOLDEN
