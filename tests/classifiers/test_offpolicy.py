"""Learning from what a policy chose to see: weights that undo its preference, estimates that outlive bad guesses."""

from __future__ import annotations

import numpy as np
import pytest

from classifiers.offpolicy import CLIP, Importance, clipped, doubly_robust


def test_weights_undo_the_odds_and_average_one_by_model() -> None:
    drawn = [("small", 0.9)] * 90 + [("small", 0.1)] * 10 + [("large", 0.5)] * 4
    weights = Importance(drawn)
    assert weights.rows == 104
    assert weights.weight("small", 0.1) == pytest.approx(9 * weights.weight("small", 0.9))
    for model in ("small", "large"):
        assert np.mean([weights.weight(m, p) for m, p in drawn if m == model]) == pytest.approx(1.0)


def test_a_weighted_mean_is_that_of_all_prompts() -> None:
    """Half the prompts are hard; the policy asks the small model on those one time in ten."""
    random = np.random.default_rng(0)
    hard = random.random(40_000) < 0.5
    odds = np.where(hard, 0.1, 0.9)
    asked = random.random(40_000) < odds
    right = random.random(40_000) < np.where(hard, 0.2, 0.9)
    weights = Importance(("small", p) for p in odds[asked])
    found = np.average(right[asked], weights=[weights.weight("small", p) for p in odds[asked]])
    assert right[asked].mean() > 0.8
    assert found == pytest.approx(0.55, abs=0.02)


def test_no_row_counts_without_bound() -> None:
    assert clipped(1.0) == 1.0
    assert clipped(0.001) == CLIP
    assert clipped(0.0) == CLIP
    assert Importance([("m", 0.001), ("m", 1.0)]).clipped == 1
    assert Importance([("m", 0.5), ("m", 1.0)]).certain == 1


def log(seed: int, count: int = 8000) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """A log whose policy goes large on hard prompts nine times in ten, to judge one that always goes small by."""
    random = np.random.default_rng(seed)
    hard = random.random(count) < 0.5
    small = random.random(count) < np.where(hard, 0.1, 0.9)
    wants_large = np.where(hard, 0.9, 0.1)
    agrees = (random.random(count) >= wants_large).astype(float)
    return {
        "score": np.where(agrees > 0, small, random.random(count) < 0.9).astype(float),
        "odds": np.where(agrees > 0, 1 - wants_large, wants_large),
        "agrees": agrees,
        "hard": hard.astype(float),
    }


@pytest.mark.parametrize("predicted", ["right", "wrong"])
def test_a_policy_is_valued_by_a_log_it_did_not_make(predicted: str) -> None:
    found = log(0)
    of_chosen = np.where(found["hard"] > 0, 0.1, 0.9) if predicted == "right" else np.full(8000, 0.3)
    of_taken = np.where(found["agrees"] > 0, of_chosen, 0.9)
    value, low, high = doubly_robust(found["score"], found["odds"], found["agrees"], of_taken, of_chosen)
    assert value == pytest.approx(0.5, abs=0.03)
    assert low < 0.5 < high
    naive = found["score"][found["agrees"] > 0].mean()
    assert naive > 0.75


def test_good_predictions_narrow_the_interval() -> None:
    found = log(1)
    widths = []
    for of_chosen in (np.where(found["hard"] > 0, 0.1, 0.9), np.full(8000, 0.3)):
        of_taken = np.where(found["agrees"] > 0, of_chosen, 0.9)
        _, low, high = doubly_robust(found["score"], found["odds"], found["agrees"], of_taken, of_chosen)
        widths.append(high - low)
    assert widths[0] < widths[1]
