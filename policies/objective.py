"""Quality against cost: which of the eligible tiers to choose.

A tier's utility is its predicted success minus λ times its expected cost in dollars; 1/λ is what a right answer is
worth. Every tier but the baseline is taken at a lower bound, its prediction minus some standard errors of its
difference from the baseline, so that the baseline is left only for an advantage beyond the prediction's own
uncertainty. How low that bound may be and still keep the quality wanted, held-out predictions say. Everything here is
pure arithmetic.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType

from policies.frozen import maker, quick
from policies.schema import Objective
from policies.values import KEPT, Features, Signals, Success, View

TRUSTED = 1.0
"""Standard errors of its difference from the baseline that a tier must stand clear of, when the signals are complete
and within what was trained on."""

TRADED = 0.5
"""The same where success is weighed against cost: there an error is as dear on either side."""

WARY = 2.0
"""Standard errors of its own prediction that a tier must stand clear of when signals are missing or late, or the
request is far from all training data: there, nothing says that tiers err together."""

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


@quick
@dataclass(frozen=True, slots=True)
class Option:
    """One tier as the objective sees it: its place in the policy's order, predicted success, and expected cost."""

    tier: str
    order: int
    success: Success | None
    cost: Decimal | None


@quick
@dataclass(frozen=True, slots=True)
class Choice:
    """The tier that the objective chooses, the sentence for it, and each tier's utility where there is one."""

    tier: str
    why: str
    utilities: Mapping[str, float]


_choice = maker(Choice)


def expected_output_tokens(features: Features, signals: Signals | None) -> int:
    """Guess an answer's length in tokens: typical of its domain, within the request's cap, for each of its choices."""
    output = TYPICAL_OUTPUT.get(signals.domain, TYPICAL_OUTPUT_OTHERWISE) if signals else TYPICAL_OUTPUT_OTHERWISE
    asked, choices = features.max_output_tokens, features.choices
    if asked is not None and asked < output:
        output = asked
    return (output if output > 1 else 1) * (choices if choices > 1 else 1)


def trusted(signals: Signals | None) -> bool:
    """Whether the signals are complete and within what was trained on."""
    return signals is not None and not signals.missing and not signals.ood


def gain_error(one: Success, other: Success) -> float:
    """The standard error of the difference of two predictions: what they share of their errors falls out of it."""
    return math.sqrt((one.shared - other.shared) ** 2 + (_alone(one) + _alone(other)))


def _alone(success: Success) -> float:
    """The variance of a prediction that no other shares."""
    return max(0.0, success.standard_error**2 - success.shared**2)


def uncertainty(success: Success, baseline: Success | None, signals: Signals | None) -> float:
    """The standard error of a prediction beside the baseline's; of the prediction itself where they are not trusted."""
    return success.standard_error if baseline is None or not trusted(signals) else gain_error(success, baseline)


def doubt(success: Success, baseline: Success | None, signals: Signals | None, guard: float = TRUSTED) -> float:
    """What a prediction may be off by, beside the baseline's, as far as the objective cares."""
    return (guard if trusted(signals) else WARY) * uncertainty(success, baseline, signals)


def choose(
    objective: Objective, options: Sequence[Option], baseline: Option, signals: Signals | None, view: View
) -> Choice:
    """Choose among eligible tiers, at least one; ``baseline`` is the reference even if it is not among them."""
    if objective.keep_quality is not None:
        return _keeping(objective, options, baseline, signals)
    if objective.large_share is not None:
        return _sharing(objective.large_share, options, baseline)
    rate = price_of_success(objective, view)
    return _trading(rate, options, baseline, signals)


def floor(objective: Objective, success: Success | None, baseline: Option, signals: Signals | None) -> float:
    """The least that a tier must be assured of to keep the quality wanted; 0 where none is wanted or all is unknown."""
    keep = objective.keep_quality
    if keep is None or baseline.success is None:
        return 0.0
    return (enough(keep, success) if trusted(signals) else keep) * baseline.success.probability


def enough(keep: float, success: Success | None) -> float:
    """The share of the baseline's predicted success that keeps ``keep`` of its quality.

    Interpolated between the calibrated shares; where there are none, ``keep`` itself.
    """
    return keep if success is None or not success.enough else _interpolated(keep, success.enough)


@lru_cache(256)
def _interpolated(keep: float, shares: tuple[float, ...]) -> float:
    known = (0.0, *shares, max(1.0, shares[-1]))
    at = max(1, bisect_left(_KEPT, keep))
    (start, end), (low, high) = _KEPT[at - 1 : at + 1], known[at - 1 : at + 1]
    return low + (high - low) * (keep - start) / (end - start)


_KEPT = (0.0, *KEPT, 1.0)


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


def steady(objective: Objective, utilities: Mapping[str, float], moves: Mapping[str, float]) -> bool:
    """Say whether a choice surely stands wherever each prediction lies within its move from where it is.

    ``utilities`` are the choice's. Sufficient, not necessary: no tier comes across the line that decides about it.
    """
    if not utilities:
        return True
    if objective.keep_quality is not None or objective.large_share is not None:
        apart = all(abs(utility) > moves[tier] + _NOISE for tier, utility in utilities.items() if moves[tier])
        return apart and max(utilities.values()) >= 0
    best = max(utilities, key=utilities.__getitem__)
    least = utilities[best] - moves[best] - _NOISE
    return all(least > utility + moves[tier] for tier, utility in utilities.items() if tier != best)


_NOISE = 1e-9
"""What rounding may move a utility by."""


def _leaning(options: Sequence[Option], baseline: Option, why: str) -> Choice:
    """Choose without predictions: the baseline where it is eligible, else the highest tier that is."""
    if any(option.tier == baseline.tier for option in options):
        return Choice(baseline.tier, f"{why}: staying on the baseline, {baseline.tier}", {})
    highest = max(options, key=lambda option: option.order)
    return Choice(highest.tier, f"{why}, and {baseline.tier} is not eligible: up to {highest.tier}", {})


def _bounds(options: Sequence[Option], baseline: Option, signals: Signals | None, guard: float) -> dict[str, float]:
    """Give the success that counts, where known: the baseline's as predicted, the others' lower bound."""
    counted = {}
    for option in options:
        if (success := option.success) is not None:
            counted[option.tier] = success.probability
            if option.tier != baseline.tier:
                counted[option.tier] = max(0.0, success.probability - doubt(success, baseline.success, signals, guard))
    return counted


def _keeping(objective: Objective, options: Sequence[Option], baseline: Option, signals: Signals | None) -> Choice:
    counted = _bounds(options, baseline, signals, TRUSTED)
    if baseline.success is None or not counted:
        return _leaning(options, baseline, "success is not predicted")
    floors, margins, keeping = {}, {}, []
    for option in options:
        if (tier := option.tier) in counted:
            floors[tier] = floor(objective, option.success, baseline, signals)
            margins[tier] = counted[tier] - floors[tier]
            if margins[tier] >= 0:
                keeping.append(option)
    floored = f"{_percent(objective.keep_quality or 0)} of {baseline.tier}"
    if not keeping:
        best = min((o for o in options if o.tier in counted), key=lambda o: (-counted[o.tier], cost_order(o)))
        return Choice(best.tier, f"no eligible tier keeps {floored}: {best.tier} is nearest", margins)
    chosen = keeping[0] if len(keeping) == 1 else min(keeping, key=cost_order)
    if chosen.tier == baseline.tier:
        why = f"nothing cheaper keeps {floored}'s predicted {baseline.success.probability:.2f}"
    else:
        why = f"{chosen.tier} is the cheapest that keeps {floored}: {_compared(chosen, baseline)}"
        if chosen.success is not None and chosen.success.enough and trusted(signals):
            assured_of, will_do = counted[chosen.tier], floors[chosen.tier]
            why += f"; {assured_of:.2f} is assured, and held-out prompts say that {will_do:.2f} will do"
    return _choice(chosen.tier, why, margins)


@lru_cache(64)
def _percent(share: float) -> str:
    return f"{100 * float(share):g}%"


def _trading(rate: float, options: Sequence[Option], baseline: Option, signals: Signals | None) -> Choice:
    if math.isinf(rate):
        chosen = min(options, key=cost_order)
        return Choice(chosen.tier, f"only cost counts: {chosen.tier} is the cheapest", {})
    counted = _bounds(options, baseline, signals, TRADED)
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
