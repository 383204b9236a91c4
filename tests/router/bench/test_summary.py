"""Figures and intervals of a benchmark, from rounds made by hand."""

import numpy as np
import pytest

from router.bench.measure import Round, Timing
from router.bench.plot import as_png
from router.bench.summary import Figure, _figure, compare, summarise, throughput


def a_round(target: str, ttft: float, *, concurrency: int = 1, tokens: int = 10, failures: int = 0) -> Round:
    good = [Timing(ttft, 5.0, ttft + 5 * (tokens - 1), tokens) for _ in range(4)]
    return Round(target, concurrency, 2.0, (*good, *[Timing(error="reset")] * failures))


def test_figures_are_of_answered_requests_and_failures_are_counted() -> None:
    [summary] = summarise([a_round("a", 10, failures=2), a_round("a", 20, failures=1)])
    assert (summary.requests, summary.errors) == (11, {"reset": 3})
    assert summary.ttft_p50.value == 15
    assert summary.tpot_p50.value == 5
    assert summary.tokens_per_second.value == 20
    assert summary.requests_per_second.value == 2


def test_intervals_hold_the_value_and_narrow_with_rounds() -> None:
    random = np.random.default_rng(3)

    def width(rounds: int) -> float:
        [summary] = summarise([a_round("a", float(random.normal(100, 10))) for _ in range(rounds)])
        figure = summary.ttft_p50
        assert figure.low is not None
        assert figure.high is not None
        assert figure.value is not None
        assert figure.low <= figure.value <= figure.high
        return figure.high - figure.low

    assert width(200) < width(8)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(5), 0
    for _ in range(60):
        figure = _figure([a_round("a", 10, tokens=int(random.poisson(100))) for _ in range(12)], throughput)
        assert figure.low is not None
        assert figure.high is not None
        covered += figure.low <= 200 <= figure.high
    assert 48 <= covered <= 60


def test_one_round_has_no_interval_and_no_answers_no_value() -> None:
    assert summarise([a_round("a", 10)])[0].ttft_p50 == Figure(10)
    silent = Round("a", 1, 1.0, (Timing(error="timeout"),))
    assert summarise([silent, silent])[0].ttft_p50 == Figure(None)


def test_a_difference_is_paired_by_round() -> None:
    """Both had slow rounds at the same time: the ratio is sharp though each figure is not."""
    moods = [10.0, 40.0, 20.0, 80.0, 30.0, 50.0]
    rounds = [a_round(name, mood * factor) for mood in moods for name, factor in (("a", 1.0), ("b", 2.0))]
    [difference] = compare(rounds, "a", "b")
    assert difference.ttft_p50.value == pytest.approx(2)
    assert difference.ttft_p50.low == pytest.approx(2)
    assert difference.ttft_p50.high == pytest.approx(2)
    assert difference.tokens_per_second.value == pytest.approx(1)


def test_a_difference_from_nothing_is_unknown() -> None:
    silent = Round("b", 1, 1.0, (Timing(error="timeout"),))
    [difference] = compare([a_round("a", 10), silent], "a", "b")
    assert difference.ttft_p50 == Figure(None)


def test_a_plot_is_a_picture() -> None:
    rounds = [a_round(name, 10.0 * n, concurrency=n) for n in (1, 2) for name in "ab" for _ in range(3)]
    assert as_png(summarise(rounds)).startswith(b"\x89PNG")
