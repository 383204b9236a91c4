"""Quality against cost: which of the eligible tiers to choose.

A tier's utility is its predicted success minus λ times its expected cost in dollars; 1/λ is what a right answer is
worth. Every tier but the baseline is taken at a lower bound, its prediction minus some standard errors, so that the
baseline is left only for an advantage beyond the prediction's own uncertainty. Everything here is pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType

from policies.schema import Objective
from policies.values import Features, Signals, Success, View

TRUSTED = 0.2
"""Standard errors that a tier must stand clear of when the signals are complete and within what was trained on.

Predictions for two tiers err together, so the error of their difference is far below the sum of theirs. On held-out
rows of the training data this much keeps 98.6% of a 50B model's quality beside a 7B one at ``keep_quality: 0.97``.
"""

WARY = 2.0
"""The same when signals are missing or late, or the request is far from all training data."""

WORTH_AT_EVEN = 0.01
"""Dollars that a right answer is worth at ``tradeoff: 0.5``."""

PACE = 4.0
"""How sharply pacing reacts: λ grows with this power of how far spend is ahead of the clock."""

TYPICAL_GAINS = (-0.25, -0.024, -0.002, 0.013, 0.030, 0.050, 0.071, 0.105, 0.154, 0.324, 0.75)
"""How much likelier a 50B model is predicted to be right than a 7B one: least, deciles and greatest on held-out rows.

They turn the share of requests that may go to the baseline into the gain from which one does.
"""

TYPICAL_OUTPUT: Mapping[str, int] = MappingProxyType(
    {
        "chat": 120,
        "other": 200,
        "history": 250,
        "psychology": 250,
        "math": 350,
        "physics": 350,
        "code": 450,
        "writing": 600,
    }
)
"""Tokens in a typical answer by domain: round figures, used until a request has been answered."""

TYPICAL_OUTPUT_OTHERWISE = 300


@dataclass(frozen=True, slots=True)
class Option:
    """One tier as the objective sees it: its place in the policy's order, predicted success, and expected cost."""

    tier: str
    order: int
    success: Success | None
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The tier that the objective chooses, the sentence for it, and each tier's utility where there is one."""

    tier: str
    why: str
    utilities: Mapping[str, float]


def expected_output_tokens(features: Features, signals: Signals | None, cap: int | None = None) -> int:
    """Guess the answer's length in tokens: typical of its domain, within the request's and the backend's caps."""
    typical = TYPICAL_OUTPUT.get(signals.domain if signals else "", TYPICAL_OUTPUT_OTHERWISE)
    limits = [limit for limit in (typical, features.max_output_tokens, cap) if limit is not None]
    return max(1, min(limits)) * max(1, features.choices)


def caution(signals: Signals | None) -> float:
    """How many standard errors a tier must stand clear of, given how far the signals can be trusted."""
    return WARY if signals is None or signals.missing or signals.ood else TRUSTED


def assured(success: Success, standard_errors: float) -> float:
    """A prediction's lower bound."""
    return max(0.0, success.probability - standard_errors * success.standard_error)


def choose(
    objective: Objective, options: Sequence[Option], baseline: Option, signals: Signals | None, view: View
) -> Choice:
    """Choose among eligible tiers, at least one; ``baseline`` is the reference even if it is not among them."""
    if objective.keep_quality is not None:
        return _keeping(objective.keep_quality, options, baseline, caution(signals))
    if objective.large_share is not None:
        return _sharing(objective.large_share, options, baseline)
    rate = price_of_success(objective, view)
    return _trading(rate, options, baseline, caution(signals))


def floor(objective: Objective, baseline: Option) -> float:
    """The least predicted success that keeps the quality floor; 0 where the objective has none or nothing is known."""
    if objective.keep_quality is None or baseline.success is None:
        return 0.0
    return objective.keep_quality * baseline.success.probability


def price_of_success(objective: Objective, view: View) -> float:
    """Give λ: success that must be gained for each dollar. 0 is quality alone, infinity is cost alone."""
    if objective.usd_per_day is not None:
        return _pace(float(objective.usd_per_day), float(view.spent_today), view.now)
    return _rate(objective.tradeoff or 0.0)


def _rate(tradeoff: float) -> float:
    """λ for a ``tradeoff`` t: a right answer is worth $0.01 × (1 − t)/t."""
    return math.inf if tradeoff >= 1 else tradeoff / (1 - tradeoff) / WORTH_AT_EVEN


def _pace(budget: float, spent: float, now: datetime) -> float:
    """λ that brings spend to the budget at midnight.

    The rate of spend still affordable (what is left of the money over what is left of the day, 1 when on pace) moves λ
    away from its value at ``tradeoff: 0.5``; it is continuous in time and spend, so there is no cliff.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    passed = (now - midnight).total_seconds() / 86_400
    affordable = (1 - spent / budget) / max(1 - passed, 1 / 1440)
    return math.inf if affordable < 1e-6 else float(_rate(0.5) * affordable**-PACE)


def cost_order(option: Option) -> tuple[bool, Decimal, int]:
    """Order tiers by cost, ties as the policy does; one whose price is unknown counts as dearer than all others."""
    return (option.cost is None, option.cost or Decimal(0), option.order)


def _leaning(options: Sequence[Option], baseline: Option, why: str) -> Choice:
    """Choose without predictions: the baseline where it is eligible, else the highest tier that is."""
    if any(option.tier == baseline.tier for option in options):
        return Choice(baseline.tier, f"{why}: staying on the baseline, {baseline.tier}", {})
    highest = max(options, key=lambda option: option.order)
    return Choice(highest.tier, f"{why}, and {baseline.tier} is not eligible: up to {highest.tier}", {})


def _bounds(options: Sequence[Option], baseline: Option, standard_errors: float) -> dict[str, float]:
    """Give the success that counts, where known: the baseline's as predicted, the others' lower bound."""
    return {
        option.tier: assured(option.success, 0.0 if option.tier == baseline.tier else standard_errors)
        for option in options
        if option.success is not None
    }


def _keeping(keep: float, options: Sequence[Option], baseline: Option, standard_errors: float) -> Choice:
    counted = _bounds(options, baseline, standard_errors)
    if baseline.success is None or not counted:
        return _leaning(options, baseline, "success is not predicted")
    least, floored = keep * baseline.success.probability, f"{100 * keep:g}% of {baseline.tier}"
    margins = {tier: bound - least for tier, bound in counted.items()}
    keeping = [option for option in options if margins.get(option.tier, -1.0) >= 0]
    if not keeping:
        best = min((o for o in options if o.tier in counted), key=lambda o: (-counted[o.tier], cost_order(o)))
        return Choice(best.tier, f"no eligible tier keeps {floored}: {best.tier} is nearest", margins)
    chosen = min(keeping, key=cost_order)
    if chosen.tier == baseline.tier:
        why = f"nothing cheaper keeps {floored}'s predicted {baseline.success.probability:.2f}"
    else:
        why = f"{chosen.tier} is the cheapest that keeps {floored}: {_compared(chosen, baseline)}"
    return Choice(chosen.tier, why, margins)


def _trading(rate: float, options: Sequence[Option], baseline: Option, standard_errors: float) -> Choice:
    if math.isinf(rate):
        chosen = min(options, key=cost_order)
        return Choice(chosen.tier, f"only cost counts: {chosen.tier} is the cheapest", {})
    counted = _bounds(options, baseline, standard_errors)
    if baseline.success is None or not counted:
        return _leaning(options, baseline, "success is not predicted")
    dearest = max((option.cost for option in options if option.cost is not None), default=Decimal(0))
    utilities = {
        option.tier: counted[option.tier] - rate * float(dearest if option.cost is None else option.cost)
        for option in options
        if option.tier in counted
    }
    chosen = min((o for o in options if o.tier in counted), key=lambda o: (-utilities[o.tier], cost_order(o)))
    worth = "beyond price" if rate == 0 else f"${1 / rate:.4f}"
    why = f"{chosen.tier} is best where a right answer is worth {worth}"
    return Choice(
        chosen.tier, why if chosen.tier == baseline.tier else f"{why}: {_compared(chosen, baseline)}", utilities
    )


def _sharing(share: float, options: Sequence[Option], baseline: Option) -> Choice:
    cheapest = min(options, key=cost_order)
    if baseline.success is None or cheapest.success is None:
        return _leaning(options, baseline, "success is not predicted")
    if cheapest.tier == baseline.tier or all(option.tier != baseline.tier for option in options):
        return Choice(cheapest.tier, f"{cheapest.tier} is the cheapest that is eligible", {})
    gain = baseline.success.probability - cheapest.success.probability
    threshold = gain_threshold(share)
    utilities = {cheapest.tier: threshold - gain, baseline.tier: gain - threshold}
    chosen, side = (baseline, "at least") if gain >= threshold else (cheapest, "less than")
    return Choice(
        chosen.tier, f"{baseline.tier} would gain {gain:.2f}, {side} the {threshold:.2f} of {share:.0%}", utilities
    )


def gain_threshold(share: float) -> float:
    """The gain in success that the given share of requests exceeds (all at 1, none at 0)."""
    if share in (0, 1):
        return math.inf if share == 0 else -math.inf
    below, part = divmod((1 - share) * (len(TYPICAL_GAINS) - 1), 1)
    low, high = TYPICAL_GAINS[int(below)], TYPICAL_GAINS[min(int(below) + 1, len(TYPICAL_GAINS) - 1)]
    return low + part * (high - low)


def _compared(chosen: Option, baseline: Option) -> str:
    """Compare a tier's predicted success and cost with the baseline's."""
    predicted = (option.success for option in (chosen, baseline))
    text = "predicted " + " against ".join(f"{success.probability:.2f}" for success in predicted if success)
    return (
        f"{text} at {chosen.cost / baseline.cost:.0%} of its cost"
        if chosen.cost is not None and baseline.cost
        else text
    )
