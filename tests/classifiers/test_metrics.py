"""Figures against values worked out by hand, and the properties that define them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers import metrics

SMALL = np.array([1.0, 0.0, 0.0, 1.0])
LARGE = np.array([1.0, 1.0, 1.0, 1.0])


def test_a_perfect_ranking_by_hand() -> None:
    score = np.array([0.0, 2.0, 1.0, 0.0])
    assert metrics.pgr(metrics.gain_curve(score, SMALL, LARGE)).tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert metrics.apgr(score, SMALL, LARGE) == pytest.approx((0.25 + 0.75 + 1.0 + 1.0) / 4)
    assert metrics.cpt(score, SMALL, LARGE, 0.5) == 0.25
    assert metrics.cpt(score, SMALL, LARGE, 0.8) == 0.5


def test_no_gap_is_not_a_number() -> None:
    assert np.isnan(metrics.apgr(np.arange(4), LARGE, LARGE))


def test_random_rankings_are_a_half() -> None:
    random = np.random.default_rng(0)
    small, large = (random.random(4000) < 0.5).astype(float), (random.random(4000) < 0.8).astype(float)
    found = [metrics.apgr(random.random(4000), small, large) for _ in range(20)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_the_hull_and_what_is_read_off_it() -> None:
    cost, quality = np.array([0.0, 1.0, 2.0, 3.0, 1.5]), np.array([0.2, 0.7, 0.8, 0.75, 0.5])
    x, y = metrics.hull(cost, quality)
    assert x.tolist() == [0.0, 1.0, 2.0]
    assert y.tolist() == [0.2, 0.7, 0.8]
    assert metrics.cost_at(cost, quality, 0.7) == pytest.approx(1.0)
    assert metrics.cost_at(cost, quality, 0.1) == 0.0
    assert np.isnan(metrics.cost_at(cost, quality, 0.9))
    assert metrics.aiq(cost, quality, 0.0, 2.0) == pytest.approx((0.45 + 0.75) / 2, abs=1e-3)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=30))
def test_no_point_stands_above_the_hull(points: list[tuple[float, float]]) -> None:
    cost, quality = np.array(points).T
    x, y = metrics.hull(cost, quality)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    assert (quality <= np.interp(cost, x, y) + 1e-6).all()


def test_calibration_error() -> None:
    p = np.repeat([0.2, 0.8], 50)
    assert metrics.ece(p, np.concatenate([np.arange(50) < 10, np.arange(50) < 40]).astype(float), bins=2) < 1e-12
    assert metrics.ece(p, np.ones(100), bins=2) == pytest.approx(0.5)
    assert metrics.brier(np.array([0.5, 1.0]), np.array([1.0, 1.0])) == 0.125


def test_clopper_pearson_covers_and_meets_its_ends() -> None:
    assert metrics.clopper_pearson(0, 10)[0] == 0.0
    assert metrics.clopper_pearson(10, 10)[1] == 1.0
    assert metrics.clopper_pearson(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    random = np.random.default_rng(0)
    hits = [metrics.clopper_pearson(int(random.binomial(40, 0.3)), 40) for _ in range(500)]
    assert np.mean([low <= 0.3 <= high for low, high in hits]) >= 0.95


def test_the_interval_covers() -> None:
    random = np.random.default_rng(1)
    covered = []
    for seed in range(60):
        sample = random.normal(1.0, 1.0, 80)
        low, high = metrics.interval(lambda i, s=sample: float(s[i].mean()), 80, seed, 200)
        covered.append(low <= 1.0 <= high)
    assert np.mean(covered) > 0.85


def test_the_threshold_keeps_quality_on_data_it_has_not_seen() -> None:
    random = np.random.default_rng(2)
    kept = []
    for _ in range(60):
        gain = random.random(3000) * 0.4
        small = (random.random(3000) < 0.6).astype(float)
        large = np.maximum(small, random.random(3000) < gain / 0.4)
        threshold, share = metrics.keep_quality_threshold(gain[:1500], small[:1500], large[:1500], 0.95)
        assert 0.0 <= share < 1.0
        sent = gain[1500:] <= threshold
        quality = np.where(sent, small[1500:], large[1500:]).mean()
        kept.append(quality >= 0.95 * large[1500:].mean())
    assert np.mean(kept) >= 0.95


def test_no_threshold_is_safe_when_small_is_hopeless() -> None:
    gain = np.linspace(0, 1, 100)
    assert metrics.keep_quality_threshold(gain, np.zeros(100), np.ones(100), 0.99) == (float("-inf"), 0.0)
