from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.ledger.ratios import Ratios


def test_nothing_known_of_both_is_no_difference() -> None:
    ratios = Ratios(20)
    assert ratios.ratio("large", "small", "math") == 1
    for _ in range(1_000):
        ratios.learn("small", "math", "", 100, 1)
    assert ratios.ratio("large", "small", "math") == 1
    ratios.learn("large", "law", "", 900, 1)
    assert ratios.ratio("large", "small", "math") == 1, "what they were given is nowhere alike"


def test_harder_requests_are_not_taken_for_a_longer_writer() -> None:
    """Large writes 1.5 times as much as small on the same request, but is given nine of ten of the long ones."""
    ratios, draw = Ratios(20), random.Random(7)
    for _ in range(4_000):
        long = draw.random() < 0.5
        tier = "large" if draw.random() < (0.9 if long else 0.1) else "small"
        length = (800 if long else 100) * draw.lognormvariate(0, 0.3) * (1.5 if tier == "large" else 1)
        ratios.learn(tier, "math", "complex" if long else "simple", length, 1)
    assert ratios.ratio("large", "small", "math") == pytest.approx(1.5, rel=0.08)
    assert ratios.ratio("small", "large", "math") == pytest.approx(1 / 1.5, rel=0.08)


def test_little_evidence_is_drawn_towards_what_holds_elsewhere_and_that_towards_none() -> None:
    ratios = Ratios(20)
    ratios.learn("large", "math", "", 400, 1)
    ratios.learn("small", "math", "", 100, 1)
    assert 1 < ratios.ratio("large", "small", "math") < 1.1
    for _ in range(2_000):
        ratios.learn("large", "code", "", 200, 1)
        ratios.learn("small", "code", "", 100, 1)
    assert ratios.ratio("large", "small", "code") == pytest.approx(2, rel=0.03)
    assert 1.9 < ratios.ratio("large", "small", "law") < 2.1, "a domain never seen goes by all the others"


def test_a_change_of_model_is_followed() -> None:
    ratios = Ratios(0.001)
    for factor in (4, 1):
        for _ in range(3_000):
            ratios.learn("large", "math", "", 100 * factor, 1)
            ratios.learn("small", "math", "", 100, 1)
    assert ratios.ratio("large", "small", "math") < 1.05


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.floats(0, 1e6), st.floats(1, 1e6))))
def test_ratios_are_positive_bounded_and_inverse(seen: list[tuple[str, str, float, float]]) -> None:
    ratios = Ratios(20)
    for subject, domain, used, exposure in seen:
        ratios.learn(subject, domain, "", used, exposure)
    there, back = ratios.ratio("a", "b", "x"), ratios.ratio("b", "a", "x")
    assert 1 / 8 <= there <= 8
    assert there * back == pytest.approx(1)
