"""Quality against cost: floors, prices of success, pacing, shares; and how doubt leans to the baseline."""

import math
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policies.objective import (
    TRUSTED,
    WARY,
    Option,
    assured,
    caution,
    choose,
    cost_order,
    expected_output_tokens,
    floor,
    gain_threshold,
    price_of_success,
)
from policies.schema import Objective
from policies.values import Features, Signals, Success, View
from tests.policies.examples import NOON, a_view, some_signals, successes

KNOWN = some_signals()
costs = st.decimals(Decimal("0.000001"), Decimal("0.1"), places=6)


def an_option(tier: str, order: int, probability: float | None, cost: str | None, error: float = 0.0) -> Option:
    success = None if probability is None else Success(probability, error)
    return Option(tier, order, success, None if cost is None else Decimal(cost))


options = st.lists(st.tuples(st.none() | successes, st.none() | costs), min_size=1, max_size=5).map(
    lambda drawn: [Option(f"t{n}", n, success, cost) for n, (success, cost) in enumerate(drawn)]
)
known_options = st.lists(st.tuples(successes, costs), min_size=1, max_size=5).map(
    lambda drawn: [Option(f"t{n}", n, success, cost) for n, (success, cost) in enumerate(drawn)]
)
tradeoffs = st.floats(0, 1)


def chosen(objective: Objective, among: list[Option], baseline: Option, view: View | None = None) -> Option:
    tier = choose(objective, among, baseline, KNOWN, view or a_view()).tier
    return next(option for option in among if option.tier == tier)


@settings(max_examples=300)
@given(known_options, st.integers(0, 4), tradeoffs, tradeoffs)
def test_a_higher_price_of_success_never_picks_a_dearer_tier(
    among: list[Option], base: int, one: float, other: float
) -> None:
    baseline = among[base % len(among)]
    low, high = (chosen(Objective(tradeoff=t), among, baseline).cost for t in sorted((one, other)))
    assert high <= low or float(high) == pytest.approx(float(low))


@settings(max_examples=300)
@given(known_options, st.integers(0, 4), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_lower_floor_never_picks_a_dearer_tier(among: list[Option], base: int, one: float, other: float) -> None:
    baseline = among[base % len(among)]
    low, high = (chosen(Objective(keep_quality=keep), among, baseline).cost for keep in sorted((one, other)))
    assert low <= high


@settings(max_examples=300)
@given(known_options, st.integers(0, 4), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_leaves_the_baseline(among: list[Option], base: int, one: float, other: float) -> None:
    baseline = among[base % len(among)]
    low, high = (chosen(Objective(large_share=share), among, baseline) for share in sorted((one, other)))
    assert low != baseline or high == baseline


@settings(max_examples=300)
@given(options, options, st.floats(0.01, 1))
def test_the_floor_is_kept_or_the_nearest_taken(among: list[Option], others: list[Option], keep: float) -> None:
    baseline = replace(others[0], tier="elsewhere")
    assume(baseline.success is not None)
    choice = choose(Objective(keep_quality=keep), among, baseline, KNOWN, a_view())
    bounds = {o.tier: assured(o.success, TRUSTED) for o in among if o.success is not None}
    if not bounds:
        assert choice.tier == among[-1].tier
    elif max(bounds.values()) >= keep * baseline.success.probability:
        assert bounds[choice.tier] >= keep * baseline.success.probability
    else:
        assert bounds[choice.tier] == max(bounds.values())


@given(known_options, st.integers(0, 4), tradeoffs)
def test_the_baseline_is_left_only_for_an_advantage_beyond_its_doubt(
    among: list[Option], base: int, tradeoff: float
) -> None:
    assume(tradeoff < 0.999)
    baseline = among[base % len(among)]
    taken = chosen(Objective(tradeoff=tradeoff), among, baseline)
    rate = price_of_success(Objective(tradeoff=tradeoff), a_view())
    if taken != baseline:
        advantage = taken.success.probability - baseline.success.probability - rate * float(taken.cost - baseline.cost)
        assert advantage >= TRUSTED * min(taken.success.standard_error, taken.success.probability / TRUSTED) - 1e-6 * (
            1 + rate
        )


@given(options, st.sampled_from(("keep_quality", "tradeoff", "large_share", "usd_per_day")))
def test_without_predictions_the_baseline_or_else_the_highest_tier_is_taken(among: list[Option], kind: str) -> None:
    blind = [replace(option, success=None) for option in among]
    objective = Objective.model_validate({kind: 0.5})
    assert choose(objective, blind, blind[0], None, a_view()).tier == blind[0].tier
    elsewhere = replace(blind[0], tier="elsewhere")
    assert choose(objective, blind, elsewhere, None, a_view()).tier == blind[-1].tier


def test_quality_alone_and_cost_alone() -> None:
    among = [an_option("a", 0, 0.5, "0.001"), an_option("b", 1, 0.9, "0.1"), an_option("c", 2, 0.9, "0.2")]
    assert chosen(Objective(tradeoff=0), among, among[0]).tier == "b"
    assert chosen(Objective(tradeoff=1), among, among[2]).tier == "a"
    assert chosen(Objective(tradeoff=1), [replace(o, success=None) for o in among], among[2]).tier == "a"


def test_a_right_answer_is_worth_a_cent_at_even() -> None:
    assert price_of_success(Objective(tradeoff=0.5), a_view()) == pytest.approx(100)
    assert price_of_success(Objective(tradeoff=0.1), a_view()) == pytest.approx(1 / 0.09)
    small, large = an_option("small", 0, 0.5, "0"), an_option("large", 1, 0.9, "0.0039")
    assert chosen(Objective(tradeoff=0.5), [small, large], large).tier == "large"
    assert chosen(Objective(tradeoff=0.5), [small, replace(large, cost=Decimal("0.0041"))], large).tier == "small"


def test_an_unknown_price_is_never_cheap() -> None:
    unpriced, priced = an_option("x", 0, 0.9, None), an_option("y", 1, 0.9, "0.5")
    free = an_option("z", 2, 0.9, "0")
    assert sorted([unpriced, priced, free], key=cost_order) == [free, priced, unpriced]
    for objective in (Objective(keep_quality=0.5), Objective(tradeoff=0.5), Objective(tradeoff=1)):
        assert chosen(objective, [unpriced, priced], priced).tier == "y"
    assert chosen(Objective(keep_quality=0.5), [unpriced, replace(priced, cost=None)], priced).tier == "x"
    assert chosen(Objective(tradeoff=0.5), [unpriced], unpriced).tier == "x"


def test_unpriced_tiers_are_compared_by_success_alone() -> None:
    choice = choose(
        Objective(keep_quality=0.5), [an_option("x", 0, 0.8, None)], an_option("b", 1, 0.9, "1"), KNOWN, a_view()
    )
    assert choice.why == "x is the cheapest that keeps 50% of b: predicted 0.80 against 0.90"
    free = choose(Objective(tradeoff=1), [an_option("x", 0, None, "1")], an_option("b", 1, None, "1"), None, a_view())
    assert free.why == "only cost counts: x is the cheapest"


def test_doubt_leans_to_the_baseline() -> None:
    small, large = an_option("small", 0, 0.92, "0.001", error=0.02), an_option("large", 1, 0.93, "0.01", error=0.02)
    for known, tier in (
        (KNOWN, "small"),
        (replace(KNOWN, ood=True), "large"),
        (replace(KNOWN, missing=("late",)), "large"),
        (None, "large"),
    ):
        assert choose(Objective(keep_quality=0.97), [small, large], large, known, a_view()).tier == tier
    assert (caution(KNOWN), caution(None)) == (TRUSTED, WARY)


def test_the_floor_is_zero_where_there_is_none() -> None:
    large = an_option("large", 1, 0.9, "0.01")
    assert floor(Objective(keep_quality=0.9), large) == pytest.approx(0.81)
    assert floor(Objective(tradeoff=0.5), large) == 0
    assert floor(Objective(keep_quality=0.9), replace(large, success=None)) == 0


def test_shares_become_thresholds_of_gain() -> None:
    thresholds = [gain_threshold(share / 20) for share in range(21)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert (thresholds[0], thresholds[-1]) == (math.inf, -math.inf)
    assert [gain_threshold(share) for share in (0.2, 0.5, 0.55)] == pytest.approx([0.154, 0.05, 0.04])
    small, large = an_option("small", 0, 0.6, "0.001"), an_option("large", 1, 0.9, "0.01")
    assert chosen(Objective(large_share=0.3), [small, large], large).tier == "large"
    assert chosen(Objective(large_share=0.01), [small, large], large).tier == "small"
    assert chosen(Objective(large_share=1), [small, large], small).tier == "small"
    assert chosen(Objective(large_share=1), [small], large).tier == "small"


PACED = Objective(usd_per_day=Decimal(10))


def paced(hour: float, spent: float) -> float:
    midnight = NOON.replace(hour=0)
    return price_of_success(PACED, View(now=midnight + timedelta(hours=hour), spent_today=Decimal(str(spent))))


def test_pacing_follows_money_and_time() -> None:
    assert paced(0, 0) == paced(12, 5) == pytest.approx(100)
    assert paced(6, 5) > 100 > paced(18, 5)
    assert paced(23.99, 10) == paced(3, 11) == paced(3, 9.9999999) == math.inf


@given(st.floats(0, 23.9), st.floats(0, 9), st.floats(0.001, 0.01))
def test_pacing_has_no_cliffs(hour: float, spent: float, step: float) -> None:
    here = paced(hour, spent)
    assert here <= paced(hour, spent + step) <= here * (1 + 6 * step)
    assert here >= paced(hour + step, spent) >= here * (1 - 50 * step)


@pytest.mark.parametrize("budget", [2, 6, 12])
def test_spend_arrives_at_the_budget_at_midnight(budget: int) -> None:
    """5,000 requests over a day, dear and cheap tiers, gains drawn at random: between $0.5 and $20 could be spent."""
    random, spent, midnight = Random(7), Decimal(0), NOON.replace(hour=0)
    objective = Objective(usd_per_day=Decimal(budget))
    for request in range(5_000):
        gain = random.random() * 0.8
        among = [an_option("small", 0, 0.9 - gain, "0.0001"), an_option("large", 1, 0.9, "0.004")]
        view = View(now=midnight + timedelta(days=request / 5_000), spent_today=spent)
        spent += chosen(objective, among, among[1], view).cost
    assert float(spent) == pytest.approx(budget, rel=0.03)


def test_the_answer_is_as_long_as_is_typical_within_its_caps() -> None:
    assert expected_output_tokens(Features(), Signals(domain="chat")) == 120
    assert expected_output_tokens(Features(), None) == 300
    assert expected_output_tokens(Features(), Signals(domain="a domain of one's own")) == 300
    assert expected_output_tokens(Features(max_output_tokens=50, choices=3), Signals(domain="code")) == 150
    assert expected_output_tokens(Features(), Signals(domain="code"), cap=100) == 100
    assert expected_output_tokens(Features(max_output_tokens=0), None) == 1
