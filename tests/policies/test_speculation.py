"""Theory of speculative decoding against itself, and the warnings that follow from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.speculation import acceptance_of, speedup, tokens_per_pass, watch
from policies.values import EngineView
from tests.policies.examples import engines

alphas, lengths = st.floats(0, 0.999), st.integers(1, 12)


@pytest.mark.parametrize(
    ("alpha", "k", "tokens"), [(0.7, 5, 2.94), (0.8, 5, 3.69), (0.8, 6, 3.95), (0, 4, 1), (1, 4, 5)]
)
def test_tokens_of_a_pass(alpha: float, k: int, tokens: float) -> None:
    assert tokens_per_pass(alpha, k) == pytest.approx(tokens, abs=0.005)


@given(alphas, lengths)
def test_it_is_the_sum_of_chances_that_each_token_is_kept(alpha: float, k: int) -> None:
    assert tokens_per_pass(alpha, k) == pytest.approx(sum(alpha**position for position in range(k + 1)))


@given(st.floats(0.01, 0.99), lengths)
def test_acceptance_follows_from_the_share_that_is_kept(alpha: float, k: int) -> None:
    share = (tokens_per_pass(alpha, k) - 1) / k
    assert share <= alpha + 1e-9
    assert acceptance_of(share, k) == pytest.approx(alpha, abs=1e-6)


@given(alphas, lengths, st.floats(1, 1000), st.floats(1, 1000))
def test_a_larger_batch_never_gains_more(alpha: float, k: int, batch: float, more: float) -> None:
    yielded = tokens_per_pass(alpha, k)
    assert speedup(yielded, k, batch + more) <= speedup(yielded, k, batch) + 1e-9


def test_a_good_draft_gains_as_published() -> None:
    """Leviathan et al., table 1: α = 0.8, k = 5, negligible draft: 3.69 times as fast."""
    assert speedup(tokens_per_pass(0.8, 5), 5, 1, draft_cost=0.0) == pytest.approx(3.69, abs=0.01)


def test_what_is_watched() -> None:
    view = EngineView(draft_acceptance=0.5, draft_length=3, first_acceptance=0.7, tokens_per_pass=2.5, running=4)
    seen = watch(view)
    assert seen is not None
    assert seen.acceptance == 0.7
    assert seen.theory == pytest.approx(1 + 0.7 + 0.49 + 0.343)
    assert seen.speedup == pytest.approx(2.5 / 1.15)
    assert seen.warning == ""


def test_sglang_tells_no_length_but_it_follows() -> None:
    seen = watch(EngineView(draft_acceptance=0.5, tokens_per_pass=2.5))
    assert seen is not None
    assert seen.draft_length == pytest.approx(3)
    assert seen.theory == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (EngineView(draft_acceptance=0.01, draft_length=4, tokens_per_pass=1.04, running=1), "closer or smaller draft"),
        (EngineView(draft_acceptance=0.5, draft_length=4, tokens_per_pass=3, running=400), "400 requests at once"),
        (EngineView(draft_length=4, tokens_per_pass=3, running=None), ""),
    ],
)
def test_a_draft_that_costs_more_than_it_saves_is_warned_of(view: EngineView, words: str) -> None:
    seen = watch(view)
    assert seen is not None
    assert words in seen.warning
    assert bool(words) == (seen.speedup < 1)


@pytest.mark.parametrize("view", [EngineView(), EngineView(draft_acceptance=0.5), EngineView(tokens_per_pass=2.0),
                                  EngineView(draft_acceptance=0.0, tokens_per_pass=1.0)])  # fmt: skip
def test_nothing_is_said_where_too_little_is_known(view: EngineView) -> None:
    assert watch(view) is None


@given(engines)
def test_watching_never_fails(view: EngineView) -> None:
    seen = watch(view)
    assert seen is None or isinstance(seen.warning, str)
