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
    TRADED,
    TRUSTED,
    WARY,
    Option,
    choose,
    cost_order,
    doubt,
    enough,
    expected_output_tokens,
    floor,
    gain_error,
    gain_threshold,
    price_of_success,
    trusted,
)
from policies.schema import Objective
from policies.values import KEPT, Features, Signals, Success, View
from tests.policies.examples import NOON, a_view, shares, some_signals, successes

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
calibrations = st.just(()) | st.tuples(*(shares for _ in KEPT)).map(lambda drawn: tuple(sorted(drawn)))


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
@given(known_options, st.integers(0, 4), st.floats(0.01, 1), st.floats(0.01, 1), calibrations)
def test_a_lower_floor_never_picks_a_dearer_tier(
    known: list[Option], base: int, one: float, other: float, calibrated: tuple[float, ...]
) -> None:
    among = [replace(o, success=replace(o.success, enough=calibrated)) for o in known]
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
@given(options, options, st.floats(0.01, 1), calibrations)
def test_the_floor_is_kept_or_the_nearest_taken(
    drawn: list[Option], others: list[Option], keep: float, calibrated: tuple[float, ...]
) -> None:
    among = [replace(o, success=o.success and replace(o.success, enough=calibrated)) for o in drawn]
    baseline = replace(others[0], tier="elsewhere")
    assume(baseline.success is not None)
    choice = choose(Objective(keep_quality=keep), among, baseline, KNOWN, a_view())
    known = {o.tier: o.success for o in among if o.success is not None}
    bounds = {tier: max(0.0, s.probability - gain_error(s, baseline.success)) for tier, s in known.items()}
    floors = {tier: enough(keep, s) * baseline.success.probability for tier, s in known.items()}
    if not bounds:
        assert choice.tier == among[-1].tier
    elif any(bounds[tier] >= floors[tier] for tier in known):
        assert bounds[choice.tier] >= floors[choice.tier]
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
        error = min(TRADED * gain_error(taken.success, baseline.success), taken.success.probability)
        assert advantage >= error - 1e-6 * (1 + rate)


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
    small, large = (replace(o, success=replace(o.success, shared=0.0199)) for o in (small, large))
    for known, tier in (
        (KNOWN, "small"),
        (replace(KNOWN, ood=True), "large"),
        (replace(KNOWN, missing=("late",)), "large"),
        (None, "large"),
    ):
        assert choose(Objective(keep_quality=0.97), [small, large], large, known, a_view()).tier == tier
    assert (trusted(KNOWN), trusted(None)) == (True, False)
    assert doubt(small.success, large.success, KNOWN) == TRUSTED * gain_error(small.success, large.success)
    assert doubt(small.success, large.success, None) == WARY * 0.02


def test_the_floor_is_zero_where_there_is_none() -> None:
    large = an_option("large", 1, 0.9, "0.01")
    assert floor(Objective(keep_quality=0.9), None, large, KNOWN) == pytest.approx(0.81)
    assert floor(Objective(tradeoff=0.5), None, large, KNOWN) == 0
    assert floor(Objective(keep_quality=0.9), None, replace(large, success=None), KNOWN) == 0


def test_tiers_that_err_together_are_told_apart_for_certain() -> None:
    one, other = Success(0.5, 0.2, shared=0.2), Success(0.9, 0.2, shared=0.2)
    assert gain_error(one, other) == 0
    assert gain_error(replace(one, shared=0), other) == pytest.approx(0.2 * math.sqrt(2))
    assert gain_error(replace(one, shared=-0.2), other) == pytest.approx(0.4)
    assert gain_error(replace(one, shared=0.12), other) == pytest.approx(math.hypot(0.08, 0.16))


@given(successes, successes)
def test_a_difference_is_never_less_certain_than_two_predictions_that_err_apart_or_against(
    one: Success, other: Success
) -> None:
    assert gain_error(one, other) == gain_error(other, one)
    assert gain_error(one, other) <= one.standard_error + other.standard_error + 1e-9


def test_what_is_enough_lies_between_what_was_calibrated() -> None:
    known = Success(0.8, 0.1, enough=(0.5, 0.7, 0.8, 0.84, 0.98))
    asked = (0.0001, 0.4, 0.8, 0.9, 0.925, 0.97, 0.98, 0.99, 1.0)
    assert [enough(keep, known) for keep in asked] == pytest.approx(
        [0.0000625, 0.25, 0.5, 0.7, 0.75, 0.84, 0.91, 0.98, 1.0]
    )
    assert enough(1.0, replace(known, enough=(0.5, 0.7, 0.8, 1.1, 2.0))) == 2
    assert enough(0.97, replace(known, enough=())) == enough(0.97, None) == 0.97


def test_what_held_out_prompts_say_is_enough_decides_where_signals_are_trusted() -> None:
    small, large = an_option("small", 0, 0.8, "0.001"), an_option("large", 1, 0.9, "0.01")
    calibrated = replace(small, success=replace(small.success, enough=(0.5, 0.7, 0.8, 0.84, 0.98)))
    objective = Objective(keep_quality=0.97)
    choice = choose(objective, [calibrated, large], large, KNOWN, a_view())
    assert choice.why == (
        "small is the cheapest that keeps 97% of large: predicted 0.80 against 0.90 at 10% of its cost; "
        "0.80 is assured, and held-out prompts say that 0.76 will do"
    )
    assert choose(objective, [small, large], large, KNOWN, a_view()).tier == "large"
    assert choose(objective, [calibrated, large], large, replace(KNOWN, ood=True), a_view()).tier == "large"
    strict = replace(small, success=Success(0.9, 0.0, enough=(2.0,) * len(KEPT)))
    assert choose(Objective(keep_quality=0.9), [strict, large], large, KNOWN, a_view()).tier == "large"


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
    assert expected_output_tokens(Features(max_output_tokens=0), None) == 1
