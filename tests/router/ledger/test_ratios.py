from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.ledger.ratios import Ratios


class Evidence:
    """What was seen, one observation at a time."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[tuple[str, str], tuple[float, float]]] = defaultdict(dict)

    def add(self, subject: str, domain: str, kind: str, used: float, exposure: float = 1) -> None:
        before, given = self.seen[subject].get((domain, kind), (0.0, 0.0))
        self.seen[subject][domain, kind] = before + used, given + exposure

    def ratio(self, of: str, to: str, domain: str) -> float | None:
        return Ratios(20, self.seen).ratio(of, to, domain)


def test_of_what_was_never_seen_alike_nothing_is_known() -> None:
    evidence = Evidence()
    assert evidence.ratio("large", "small", "math") is None
    for _ in range(1_000):
        evidence.add("small", "math", "", 100)
    assert evidence.ratio("large", "small", "math") is None
    evidence.add("large", "law", "", 900)
    assert evidence.ratio("large", "small", "math") is None, "what they were given is nowhere alike"
    assert evidence.ratio("large", "large", "math") == 1


def test_harder_requests_are_not_taken_for_a_longer_writer() -> None:
    """Large writes 1.5 times as much as small on the same request, but is given nine of ten of the long ones."""
    evidence, draw = Evidence(), random.Random(7)
    for _ in range(4_000):
        long = draw.random() < 0.5
        tier = "large" if draw.random() < (0.9 if long else 0.1) else "small"
        length = (800 if long else 100) * draw.lognormvariate(0, 0.3) * (1.5 if tier == "large" else 1)
        evidence.add(tier, "math", "complex" if long else "simple", length)
    assert evidence.ratio("large", "small", "math") == pytest.approx(1.5, rel=0.08)
    assert evidence.ratio("small", "large", "math") == pytest.approx(1 / 1.5, rel=0.08)


def test_little_evidence_is_drawn_towards_what_holds_elsewhere_and_that_towards_none() -> None:
    evidence = Evidence()
    evidence.add("large", "math", "", 400)
    evidence.add("small", "math", "", 100)
    assert 1 < (evidence.ratio("large", "small", "math") or 0) < 1.1
    evidence.add("large", "code", "", 400_000, 2_000)
    evidence.add("small", "code", "", 200_000, 2_000)
    assert evidence.ratio("large", "small", "code") == pytest.approx(2, rel=0.03)
    assert 1.9 < (evidence.ratio("large", "small", "law") or 0) < 2.1, "a domain never seen goes by all the others"


@example([("a", "x", 1e-320, 1.0), ("b", "x", 1e6, 1.0)])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.floats(0, 1e6), st.floats(1, 1e6))))
def test_ratios_are_positive_bounded_and_inverse(seen: list[tuple[str, str, float, float]]) -> None:
    evidence = Evidence()
    for subject, domain, used, exposure in seen:
        evidence.add(subject, domain, "", used, exposure)
    there, back = evidence.ratio("a", "b", "x"), evidence.ratio("b", "a", "x")
    if there is None or back is None:
        assert there is back
    else:
        assert 1 / 8 <= there <= 8
        assert there * back == pytest.approx(1)
