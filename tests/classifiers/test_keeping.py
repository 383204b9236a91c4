"""What is enough to keep quality: the promise holds on rows that were not calibrated on."""

import numpy as np
import pytest

from classifiers.heads import Array
from classifiers.keeping import FEWEST, NEVER, enough, shares
from classifiers.metrics import exceeds_zero
from classifiers.targets import CLASSES, Mapped, enough_beside
from policies.values import KEPT


def world(count: int, seed: int, off: float = 0.0) -> tuple[Array, Array, Array]:
    """A share as predicted, and what a small and a large model got right; predictions are ``off`` by so much."""
    random = np.random.default_rng(seed)
    large = random.uniform(0.5, 1.0, count)
    small = large * random.uniform(0.3, 1.05, count).clip(0, 1 / large)
    share = (small / large + off).astype(np.float32)
    return share, *((random.random(count) < p).astype(np.float32) for p in (small, large))


def test_the_promise_holds_on_new_rows_nearly_always() -> None:
    broken = 0
    fresh = world(40_000, 1000)
    for seed in range(60):
        limit = shares(*world(2_000, seed))[KEPT.index(0.95)]
        share, small, large = fresh
        lost = ((large - small) * (share >= limit)).sum() / large.sum()
        broken += lost > 0.05
    assert broken <= 6


def test_more_is_kept_by_asking_more_and_it_pays() -> None:
    share, small, large = world(5_000, 7)
    limits = shares(share, small, large)
    assert (np.diff(limits) >= 0).all()
    assert limits[KEPT.index(0.9)] < 0.9
    assert (share >= limits[KEPT.index(0.9)]).mean() > 1.5 * (share >= 0.9).mean()


def test_overconfident_predictions_need_more_than_they_say() -> None:
    honest, flattered = (shares(*world(4_000, 8, off)) for off in (0.0, 0.3))
    assert (flattered[2:] > honest[2:] + 0.2).all()


def test_a_model_that_is_never_right_gets_what_may_be_lost_and_no_more() -> None:
    random = np.random.default_rng(9)
    share, right = random.uniform(0.9, 1.1, 2_000).astype(np.float32), np.ones(2_000, np.float32)
    for keep, limit in zip(KEPT, shares(share, 1 - right, right), strict=True):
        assert (share >= limit).mean() <= 1 - keep
    assert shares(share[:200], 1 - right[:200], right[:200])[-1] == NEVER


def test_pairs_never_seen_together_are_judged_as_their_classes() -> None:
    models = ("acme-7b", "acme-70b", *CLASSES)
    random = np.random.default_rng(10)
    scores = (random.random((1_000, 5)) < 0.7).astype(np.float32)
    scores[:500, 0], scores[500:, 1] = np.nan, np.nan
    logits, error = np.full((1_000, 5), 0.85, np.float32), np.full((1_000, 5), 0.2, np.float32)
    found = enough(models, scores, logits, error, error)
    assert found.shape == (len(KEPT), 5, 5)
    assert found[:, 0, 1].tolist() == found[:, 2, 3].tolist()
    assert found[:, 0, 0].tolist() == pytest.approx(list(KEPT))
    few = scores.copy()
    few[FEWEST - 1 :] = np.nan
    assert enough(models, few, logits, error, error)[:, 2, 3].tolist() == pytest.approx(list(KEPT))


def test_mixtures_of_models_get_mixtures_of_what_is_enough() -> None:
    table = np.zeros((len(KEPT), 2, 2), np.float32)
    table[:, 0, 1], table[:, 1, 1], table[:, 1, 0] = 0.6, 0.9, 0.5
    weights = np.array([[1, 0], [0.5, 0.5], [0, 1]], np.float32)
    mapped = Mapped(
        ("small", "mid", "large"),
        weights,
        np.zeros(3, np.float32),
        np.zeros(3, np.float32),
        ("trained", "quality", "trained"),
    )
    small, mid, large = enough_beside(mapped, table, "large")
    assert (small, large) == ((0.6,) * len(KEPT), ())
    assert mid == pytest.approx((0.75,) * len(KEPT))
    assert enough_beside(mapped, table, "elsewhere") == [(), (), ()]


def test_bets_are_won_on_what_is_above_zero_and_seldom_otherwise() -> None:
    random = np.random.default_rng(11)
    draws = [np.where(random.random(400) < 0.5, 0.6, -0.6) for _ in range(300)]
    assert np.mean([exceeds_zero(values) for values in draws]) <= 0.06
    assert exceeds_zero(draws[0] + 0.25)
    assert not exceeds_zero(np.full(1_000, -0.01))
    assert not exceeds_zero(np.zeros(0))
