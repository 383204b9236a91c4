"""Whether a look at a request matters: any at all to its decision, a better one, or one without gadgets, to what the
first said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from policies.case import under
from policies.conditions import Facts
from policies.decide import Weighed, settle, steps_for
from policies.document import Loaded
from policies.objective import cost_order, steady, uncertainty
from policies.schema import Policy
from policies.values import Decision, Features, Refusal, Signals, Success

DOUBT = 0.15
"""Standard errors by which `could_flip` moves predictions, beside the baseline's, to either end.

Two looks at a request err together, so they differ by less than either is uncertain. Of 600 prompts of benchmarks and
users under the demo's policy, this much takes 19% to the second look and leaves 8% where another tier would have come
of it, nearly half of them on the baseline without need: by the second look's own predictions, 0.1 points of success in
all. 0.25 takes 26% and leaves 6%, 0.05 takes 9% and leaves 12%, each at 0.1 to 0.2 points.
"""

DOUBTFUL_DOMAIN = 0.2
"""Probability from which `could_flip` takes another domain than the likeliest for possible."""

DOUBTFUL_COMPLEXITY = 0.1
"""How far `could_flip` moves complexity."""


def needs_signals(loaded: Loaded, features: Features) -> bool:
    """Say whether classification could matter to the decision.

    A rule that sends the request to a tier settles it; should nothing of that tier be able to serve in the end, the
    decision leans to the baseline without signals.
    """
    if features.model not in loaded.weighs and not loaded.asking and not loaded.budgets_ask:
        return False
    target = loaded.target(features.model)
    if isinstance(target, Refusal):
        return False
    facts = Facts(features)
    if features.model in loaded.weighs and (target.kind == "tier" or _left_open(loaded, facts)):
        return True
    return loaded.budgets_ask or any(when.match(facts).holds is None for when in loaded.asking)


def _left_open(loaded: Loaded, facts: Facts) -> bool:
    """Say whether the rules leave open which backends answer, unless signals tell."""
    policy = loaded.policy
    for rule in policy.rules:
        if rule.tier is not None and (holds := rule.when.match(facts).holds) is not False:
            return holds is None or rule.tier in loaded.told_apart
    return len(policy.tiers) > 1 or policy.baseline in loaded.told_apart


def could_flip(weighed: Weighed | Decision) -> bool:
    """Say whether a better look at a request that was weighed could change the steps: whether any of `doubts` would."""
    if isinstance(weighed, Decision) or weighed.case.signals is None:
        return False
    loaded, target, case, pick = weighed.loaded, weighed.target, weighed.case, weighed.pick
    signals = weighed.case.signals
    matters = case.narrowed or case.matched("prefer")
    far = _moves(loaded.policy, signals)
    if matters or not steady(target.objective or loaded.policy.objective, pick.utilities, far):
        others = doubts(loaded, signals)
    else:
        others = _doubts_of_kind(loaded, signals)
    return any(_flips(weighed, other) for other in others)


def could_sink(weighed: Weighed | Decision) -> bool:
    """Say whether a request that was weighed could go to something cheaper if it asked for less than it seems to.

    That is what gadgets hide: what the cheapest tier gets as it stands, it gets without them.
    """
    if isinstance(weighed, Decision) or weighed.case.signals is None:
        return False
    case, pick = weighed.case, weighed.pick
    if weighed.loaded.asks_complexity or case.narrowed:
        return True
    cheapest = min((case.options[tier] for tier in case.eligible()), key=cost_order, default=None)
    return cheapest is not None and (pick.wanted or pick.tier) != cheapest.tier


def _flips(weighed: Weighed, other: Signals) -> bool:
    """Say whether under other signals other steps are planned; planned only where it takes that to tell."""
    target, case = weighed.target, weighed.case
    doubted = under(weighed.loaded, target, case, other)
    if doubted is case:
        return False
    refused, pick = settle(doubted, target)
    if refused is not None or weighed.refused is not None:
        return (refused is None) != (weighed.refused is None)
    if pick.tier == weighed.pick.tier and doubted.standings is case.standings and not case.narrowed:
        return False
    return steps_for(doubted, target, pick)[0] != steps_for(case, target, weighed.pick)[0]


def doubts(loaded: Loaded, signals: Signals) -> Iterator[Signals]:
    """Give what a better look might say: each prediction at either end of its interval beside the baseline's, every
    other domain that is still likely, and complexity moved both ways where the policy asks for it."""
    far = _moves(loaded.policy, signals)
    for sign in (1, -1):
        yield replace(
            signals, success={tier: _moved(success, sign * far[tier]) for tier, success in signals.success.items()}
        )
    yield from _doubts_of_kind(loaded, signals)


def _moves(policy: Policy, signals: Signals) -> Mapping[str, float]:
    """Give how far each prediction may be off beside the baseline's."""
    baseline = signals.success.get(policy.baseline)
    return {
        tier: 0.0 if tier == policy.baseline else DOUBT * uncertainty(success, baseline, signals)
        for tier, success in signals.success.items()
    }


def _doubts_of_kind(loaded: Loaded, signals: Signals) -> Iterator[Signals]:
    for domain, probability in signals.domain_probs.items():
        if domain != signals.domain and probability >= DOUBTFUL_DOMAIN:
            yield replace(signals, domain=domain)
    if loaded.asks_complexity and signals.complexity is not None:
        for shift in (DOUBTFUL_COMPLEXITY, -DOUBTFUL_COMPLEXITY):
            yield replace(signals, complexity=min(1.0, max(0.0, signals.complexity + shift)))


def _moved(success: Success, by: float) -> Success:
    moved = min(1.0, max(0.0, success.probability + by))
    return Success(moved, success.standard_error, success.source, success.shared, success.enough)
