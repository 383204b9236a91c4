"""The decision: which backends to try for a request, in which order, and why. Pure, total, deterministic.

In this order: what the model name asks for, who could serve it at all, budgets, the rules, the objective, the session,
exploration, and last the steps with their fallbacks. What needs a clock, a store or a random draw is in the `View`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from policies import placement
from policies.addressing import Target
from policies.case import Case, awake, case_of, judge_rules
from policies.conditions import Facts
from policies.document import Loaded
from policies.eligibility import Standing, refusal
from policies.frozen import maker, quick
from policies.objective import choose, cost_order, doubt, expected_output_tokens, floor
from policies.problems import listing
from policies.schema import Backend, Objective, Policy
from policies.session import hold
from policies.values import Decision, Estimate, Features, Plan, Refusal, Signals, Step, Success, View

_decision, _estimate, _step = maker(Decision), maker(Estimate), maker(Step)


@quick
@dataclass(frozen=True, slots=True)
class Pick:
    """A chosen tier, the sentences for it, and what the request wanted by itself."""

    tier: str
    reasons: tuple[str, ...]
    utilities: Mapping[str, float] = field(default_factory=dict)
    wanted: str = ""
    propensity: float = 1.0


def decide(loaded: Loaded, features: Features, signals: Signals | None, view: View) -> Decision:
    """Choose the steps for a request. Never raises: a request that nothing can serve gets a refusal."""
    return _as_planned(loaded, features, signals, view) or decide_afresh(loaded, features, signals, view)


def decide_afresh(loaded: Loaded, features: Features, signals: Signals | None, view: View) -> Decision:
    """Decide without taking anything for granted; `decide` gives the same, most often from a `Plan`."""
    return conclude(weigh(loaded, features, signals, view))


@quick
@dataclass(frozen=True, slots=True)
class Weighed:
    """A request weighed: who could serve it, whether it is refused, and the tier that is chosen."""

    loaded: Loaded
    target: Target
    case: Case
    refused: Refusal | None
    pick: Pick


_picked, _weighed = maker(Pick), maker(Weighed)


def weigh(loaded: Loaded, features: Features, signals: Signals | None, view: View) -> Weighed | Decision:
    """Weigh a request; where its model name asks for nothing that there is, that is the decision."""
    target = loaded.target(features.model, features.allowed)
    if isinstance(target, Refusal):
        return Decision((), (target.message,), loaded.hash, refusal=target)
    case = case_of(loaded, target, features, signals, view)
    return _weighed(loaded, target, case, *settle(case, target))


def conclude(weighed: Weighed | Decision) -> Decision:
    """Give the decision that a request's weighing comes to."""
    if isinstance(weighed, Decision):
        return weighed
    loaded, case, pick = weighed.loaded, weighed.case, weighed.pick
    plan = None
    if case.clear and case.signals is not None and pick.tier and not case.narrowed:
        plan = _plan_of(loaded, f"tier/{pick.tier}")
    steps, placed, left_out = () if plan is None else plan.steps, "", ""
    if plan is None and weighed.refused is None:
        steps, placed = steps_for(case, weighed.target, pick)
        left_out = case.narrowed[steps[0].tier].why if steps and steps[0].tier in case.narrowed else ""
    return _decision(
        steps,
        (*_about(case), *filter(None, (placed, left_out)), *pick.reasons),
        loaded.hash,
        pick.propensity,
        _estimates(case, pick.utilities),
        tuple([rule.name for rule, verdict in case.rules if verdict.holds]),
        pick.wanted,
        weighed.refused,
    )


def _as_planned(loaded: Loaded, features: Features, signals: Signals | None, view: View) -> Decision | None:
    """Decide by what holds for every request that names the same tier or backend and finds nothing in its way.

    Only its cost is its own then, and the rules that match it. None where something else could matter.
    """
    name = features.model
    if signals is not None or view.exceeded or not loaded.open.to(features, view):
        return None
    plan = _plan_of(loaded, name)
    if plan is None:
        return None
    matched: tuple[str, ...] = ()
    if loaded.policy.rules:
        judged = judge_rules(loaded.policy, Facts(features, None, view.now))
        holding = [rule for rule, verdict in judged if verdict.holds]
        if any(rule.exclude is not None for rule in holding):
            return None
        matched = tuple([rule.name for rule in holding])
    estimates = loaded.estimates(features.input_tokens, expected_output_tokens(features, None), features.choices)
    return _decision(plan.steps, plan.reasons, loaded.hash, 1.0, estimates, matched)


def _plan_of(loaded: Loaded, model: str) -> Plan | None:
    return loaded.plans[model] if model in loaded.plans else _plan_for(loaded, model)


def _plan_for(loaded: Loaded, model: str) -> Plan | None:
    """Find the plan for a model name, once; there is none where the decision looks at signals, sessions or load."""
    target, policy = loaded.target(model), loaded.policy
    if isinstance(target, Refusal):
        return None
    plan = None
    if target.kind == "backend" or (target.kind == "tier" and _alone(policy, target.name)):
        bare = replace(loaded, policy=policy.model_copy(update={"rules": ()}))
        found = decide_afresh(bare, Features(model=model), None, View(now=datetime.min))
        plan = Plan(found.steps, found.reasons) if found.refusal is None else None
    loaded.plans[model] = plan
    return plan


def _alone(policy: Policy, tier: str) -> bool:
    """Say whether a tier and each of its fallbacks have one backend, so that there is nothing to weigh."""
    return all(len(policy.tiers[name].backends) == 1 for name in (tier, *policy.fallback.get(tier, ())))


def _refusal(case: Case, target: Target) -> Refusal | None:
    """Say why nothing can be planned, if so."""
    if case.clear and not case.over:
        return None
    asked = case.standings
    if target.kind != "auto":
        named = [s for s in asked if target.name == (s.tier if target.kind == "tier" else s.backend.name)]
        if all(standing.forbidden for standing in named):
            allowed = listing(case.features.allowed or ())
            message = f"This key may not use {case.features.model!r}; it may use {allowed}."
            return Refusal(403, "model_not_allowed", message, "model")
    for budget in case.over:
        if budget.on_exceeded == "reject" or target.kind == "backend":
            span = f"any {budget.per}" if budget.rolling else f"this {budget.per}"
            message = f"The budget {budget.name!r} for {span} would be exceeded."
            return Refusal(429, "budget_exceeded", message)
    if target.kind == "backend":
        asked = tuple(s for s in case.standings if s.backend.name == target.name)
    elif target.kind == "tier" and not case.over:
        tiers = (target.name, *case.policy.fallback.get(target.name, ()))
        asked = tuple(s for s in case.standings if s.tier in tiers)
    return None if any(standing.able for standing in asked) else refusal(asked)


def settle(case: Case, target: Target) -> tuple[Refusal | None, Pick]:
    """Refuse the request, or choose where it goes."""
    refused = _refusal(case, target)
    if refused is not None:
        return refused, Pick("", (refused.message,))
    if target.kind == "backend":
        return None, Pick("", (f"the request names the backend {target.name}",))
    return None, _pick(case, target)


def _pick(case: Case, target: Target) -> Pick:
    """Choose a tier of which, or of whose fallbacks, something can serve."""
    eligible = case.eligible()
    resting: tuple[str, ...] = ()
    if not case.clear and not any(standing.ready for standing in case.standings):
        resting = ("everything that could serve rests after failures: trying the least bad",)
    if case.over:
        cheapest = min((case.options[tier] for tier in eligible), key=cost_order).tier
        return Pick(cheapest, (*resting, f"the budget {case.over[0].name!r} is spent: {cheapest} is the cheapest left"))
    if target.kind == "tier":
        return Pick(target.name, (*resting, f"the request names the tier {target.name}"))
    for rule in case.matched("tier"):
        tier = str(rule.tier)
        if any(s.able for t in (tier, *case.policy.fallback.get(tier, ())) for s in case.within(t)):
            return Pick(tier, (*resting, f"rule {rule.name!r} sends it to {tier}"), wanted=tier)
        resting = (*resting, f"rule {rule.name!r} would send it to {tier}, which cannot serve it")
    wanted = _wanted(case, target.objective or case.policy.objective, eligible)
    if resting:
        wanted = replace(wanted, reasons=(*resting, *wanted.reasons))
    return _explored(case, _held(case, wanted, eligible), eligible)


def _wanted(case: Case, objective: Objective, eligible: Sequence[str]) -> Pick:
    """Choose what the request wants by itself: a preferred tier that keeps the floor, else the objective's choice."""
    choice = choose(objective, [case.options[tier] for tier in eligible], case.baseline, case.signals, case.view)
    passed: list[str] = []
    for rule in case.matched("prefer"):
        tier, success = str(rule.prefer), case.options[str(rule.prefer)].success
        least = floor(objective, success, case.baseline, case.signals)
        if tier not in eligible:
            passed.append(f"rule {rule.name!r} prefers {tier}, which cannot serve it")
        elif success is not None and _at_best(case, success) < least:
            falls = f"{success.probability:.2f} is below the floor of {least:.2f}"
            passed.append(f"rule {rule.name!r} prefers {tier}, but its predicted {falls}")
        else:
            return Pick(tier, (*passed, f"rule {rule.name!r} prefers {tier}"), choice.utilities, tier)
    return _picked(choice.tier, (*passed, choice.why), choice.utilities, choice.tier)


def _at_best(case: Case, success: Success) -> float:
    return success.probability + doubt(success, case.baseline.success, case.signals)


def _held(case: Case, pick: Pick, eligible: Sequence[str]) -> Pick:
    session = case.view.session
    if session is None or not case.policy.session.sticky:
        return pick
    held = hold(case.policy.session, session, pick.wanted, case.features, eligible)
    return (
        pick if held is None else replace(pick, tier=held.tier, wanted=held.wanted, reasons=(*pick.reasons, held.why))
    )


def _explored(case: Case, pick: Pick, eligible: Sequence[str]) -> Pick:
    """Now and then take any eligible tier at random, never within a session, and state the odds of what was taken."""
    rate, draw = case.policy.exploration, case.view.draw
    if rate <= 0 or len(eligible) < 2 or (case.view.session is not None and case.policy.session.sticky):
        return pick
    by_chance = rate / len(eligible)
    if draw >= rate:
        return replace(pick, propensity=1 - rate + by_chance)
    tier = eligible[min(int(draw / by_chance), len(eligible) - 1)]
    odds = 1 - rate + by_chance if tier == pick.tier else by_chance
    return replace(pick, tier=tier, propensity=odds, reasons=(*pick.reasons, f"exploring: {tier} by chance"))


def steps_for(case: Case, target: Target, pick: Pick) -> tuple[tuple[Step, ...], str]:
    """Plan the calls of a request that is not refused, and say why the first is first."""
    if target.kind == "backend":
        return tuple(Step(s.tier, s.backend.name) for s in case.standings if s.backend.name == target.name), ""
    return _plan(case, [pick.tier, *case.policy.fallback.get(pick.tier, ())])


def _plan(case: Case, tiers: Sequence[str]) -> tuple[tuple[Step, ...], str]:
    """Plan the calls, each tier's backends in turn, and say why the first is first where there is more to it."""
    serving = awake([s for tier in dict.fromkeys(tiers) for s in case.within(tier)])
    session = case.view.session if case.policy.session.sticky else None
    steps: list[Step] = []
    reason = ""
    for tier, backends in _in_turn(case, serving):
        if len(backends) == 1:
            steps.append(_step(tier, backends[0].name))
            continue
        found = placement.standpoints(backends, case.prices, case.features, case.view, session)
        ordered = placement.order(found, session)
        reason = reason if steps else placement.why(ordered, session)
        steps += [_step(tier, standpoint.backend) for standpoint in ordered]
    return tuple(steps), reason


def _in_turn(case: Case, serving: Sequence[Standing]) -> Iterator[tuple[str, list[Backend]]]:
    """Give the tiers with their backends; those that a tier leaves out come when all else has failed."""
    first: dict[str, list[Backend]] = {}
    last: dict[str, list[Backend]] = {}
    for standing in serving:
        narrowed = case.narrowed.get(standing.tier)
        turn = first if narrowed is None or standing.backend.name in narrowed.serving else last
        turn.setdefault(standing.tier, []).append(standing.backend)
    yield from first.items()
    yield from last.items()


def _about(case: Case) -> Iterator[str]:
    """Say what the signals are, and how far they can be trusted."""
    if case.features.allowed is not None:
        yield f"the key may use {listing(case.features.allowed)}"
    signals = case.signals
    if signals is None:
        return
    if signals.knows_domain:
        graded = "" if signals.complexity is None else f", complexity {signals.complexity:.2f} ({signals.band})"
        yield f"domain {signals.domain}{graded}"
    if signals.aside:
        yield f"{signals.aside} characters set aside: they share no word with the rest, which is easier without them"
    if signals.missing:
        yield f"signals are incomplete ({'; '.join(signals.missing)}): leaning to {case.policy.baseline}"
    if signals.ood:
        yield f"unlike anything trained on: leaning to {case.policy.baseline}"


def _estimates(case: Case, utilities: Mapping[str, float]) -> tuple[Estimate, ...]:
    found = []
    for tier, option in case.options.items():
        excluded = () if case.clear else _excluded(case, tier)
        found.append(_estimate(tier, option.success, option.cost, utilities.get(tier), excluded))
    return tuple(found)


def _excluded(case: Case, tier: str) -> tuple[str, ...]:
    """Say what keeps each backend of a tier from serving, where none is free."""
    within = case.within(tier)
    if any(not one.obstacles for one in within):
        return ()
    return tuple(f"{one.backend.name} {obstacle.why}" for one in within for obstacle in one.obstacles)
