"""The decision: which backends to try for a request, in which order, and why. Pure, total, deterministic.

In this order: what the model name asks for, who could serve it at all, budgets, the rules, the objective, the session,
exploration, and last the steps with their fallbacks. What needs a clock, a store or a random draw is in the `View`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from itertools import groupby

from policies import placement, variants
from policies.addressing import Target
from policies.conditions import Facts, Verdict
from policies.document import Loaded
from policies.eligibility import Standing, refusal, standings
from policies.money import Price, expected_cost
from policies.objective import Option, choose, cost_order, doubt, expected_output_tokens, floor, steady, uncertainty
from policies.problems import listing
from policies.schema import Backend, Budget, Objective, Policy, Rule
from policies.session import hold, next_session
from policies.values import Decision, Estimate, Features, Plan, Refusal, Signals, Step, Success, View

__all__ = ["budgets_for", "could_flip", "decide", "judge_rules", "needs_signals", "next_session"]

DOUBT = 0.15
"""Standard errors by which `could_flip` moves predictions, beside the baseline's, to either end.

Two looks at a request err together, so they differ by less than either is uncertain. Of 600 prompts of benchmarks and
users under the demo's policy, this much takes 22% to the second look and leaves 5.5% where another tier would have come
of it, half of them on the baseline without need: by the second look's own predictions, 0.2 points of success in all.
0.25 takes 36% and leaves 2.7%, at no loss; 0.05 takes 8% and leaves 11%.
"""

DOUBTFUL_DOMAIN = 0.2
"""Probability from which `could_flip` takes another domain than the likeliest for possible."""

DOUBTFUL_COMPLEXITY = 0.1
"""How far `could_flip` moves complexity."""


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """A tier of which only some backends serve, by their names, and the sentence that says why."""

    serving: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class _Case:
    """One request with everything known of it."""

    policy: Policy
    prices: Mapping[str, Price | None]
    features: Features
    signals: Signals | None
    view: View
    rules: tuple[tuple[Rule, Verdict], ...]
    standings: tuple[Standing, ...]
    by_tier: Mapping[str, Sequence[Standing]]
    baseline: Option
    options: Mapping[str, Option]
    narrowed: Mapping[str, _Narrowed]
    over: tuple[Budget, ...]

    def matched(self, action: str) -> list[Rule]:
        """Give the matching rules with this action, in order."""
        return [rule for rule, verdict in self.rules if verdict.holds and getattr(rule, action) is not None]

    def eligible(self) -> list[str]:
        """Give the tiers that can serve now, lowest first; where all of them rest, those that could otherwise."""
        return list(dict.fromkeys(standing.tier for standing in _awake(self.standings)))


@dataclass(frozen=True, slots=True)
class _Pick:
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
    target = loaded.target(features.model, features.allowed)
    if isinstance(target, Refusal):
        return Decision((), (target.message,), loaded.hash, refusal=target)
    case = _case(loaded, target, features, signals, view)
    refused, pick = _settle(case, target)
    steps, placed = ([], "") if refused is not None else _steps(case, target, pick)
    left_out = case.narrowed[steps[0].tier].why if steps and steps[0].tier in case.narrowed else ""
    return Decision(
        steps=tuple(steps),
        reasons=(*_about(case), *filter(None, (placed, left_out)), *pick.reasons),
        policy_hash=loaded.hash,
        propensity=pick.propensity,
        estimates=tuple(_estimates(case, pick.utilities)),
        rules=tuple(rule.name for rule, verdict in case.rules if verdict.holds),
        wanted=pick.wanted,
        refusal=refused,
    )


def _as_planned(loaded: Loaded, features: Features, signals: Signals | None, view: View) -> Decision | None:
    """Decide by what holds for every request that names the same tier or backend and finds nothing in its way.

    Only its cost is its own then, and the rules that match it. None where something else could matter.
    """
    name = features.model
    if signals is not None or view.exceeded or not loaded.open.to(features, view):
        return None
    plan = loaded.plans[name] if name in loaded.plans else _plan_for(loaded, name)
    if plan is None:
        return None
    matched: list[Rule] = []
    if loaded.policy.rules:
        judged = judge_rules(loaded.policy, Facts(features, None, view.now))
        matched = [rule for rule, verdict in judged if verdict.holds]
        if any(rule.exclude is not None for rule in matched):
            return None
    estimates = []
    for tier, priced in loaded.priced.items():
        option = _option(loaded.prices, tier, 0, priced, features, None)
        estimates.append(Estimate(tier, None, option.cost))
    return Decision(
        plan.steps, plan.reasons, loaded.hash, estimates=tuple(estimates), rules=tuple([rule.name for rule in matched])
    )


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


def judge_rules(policy: Policy, facts: Facts) -> tuple[tuple[Rule, Verdict], ...]:
    """Judge every rule of the policy, in its order."""
    return tuple([(rule, rule.when.match(facts)) for rule in policy.rules])


def budgets_for(loaded: Loaded, features: Features, signals: Signals | None, view: View) -> tuple[Budget, ...]:
    """Give the budgets that this request counts against; one whose condition is not known counts."""
    facts = Facts(features, signals, view.now)
    return tuple(budget for budget in loaded.policy.budgets if budget.when.match(facts).holds is not False)


def needs_signals(loaded: Loaded, features: Features) -> bool:
    """Say whether classification could matter to the decision.

    A rule that sends the request to a tier settles it; should nothing of that tier be able to serve in the end, the
    decision leans to the baseline without signals.
    """
    policy, target = loaded.policy, loaded.target(features.model)
    if isinstance(target, Refusal):
        return False
    facts = Facts(features)
    if target.kind == "auto":
        if _left_open(loaded, facts):
            return True
    elif target.kind == "tier" and target.name in loaded.told_apart:
        return True
    excluding = [rule.when for rule in policy.rules if rule.exclude is not None and rule.when.asks_signals()]
    return any(when.match(facts).holds is None for when in excluding) or any(
        budget.when.asks_signals() for budget in policy.budgets
    )


def _left_open(loaded: Loaded, facts: Facts) -> bool:
    """Say whether the rules leave open which backends answer, unless signals tell."""
    policy = loaded.policy
    for rule in policy.rules:
        if rule.tier is not None and (holds := rule.when.match(facts).holds) is not False:
            return holds is None or rule.tier in loaded.told_apart
    return len(policy.tiers) > 1 or policy.baseline in loaded.told_apart


def could_flip(loaded: Loaded, features: Features, signals: Signals, view: View) -> bool:
    """Say whether a better look at the request could change the steps: whether any of `doubts` would."""
    target = loaded.target(features.model, features.allowed)
    if isinstance(target, Refusal):
        return False
    case = _case(loaded, target, features, signals, view)
    refused, pick = _settle(case, target)
    far = _moves(loaded.policy, signals)
    matters = case.narrowed or case.matched("prefer")
    if matters or not steady(target.objective or loaded.policy.objective, pick.utilities, far):
        others = doubts(loaded.policy, signals)
    else:
        others = _doubts_of_kind(signals)
    for other in others:
        doubted = _under(loaded, target, case, other)
        if doubted is case:
            continue
        other_refused, other_pick = _settle(doubted, target)
        if (other_refused is None) != (refused is None):
            return True
        alike = other_pick.tier == pick.tier and doubted.standings is case.standings and not case.narrowed
        if refused is None and not alike and _steps(doubted, target, other_pick)[0] != _steps(case, target, pick)[0]:
            return True
    return False


def doubts(policy: Policy, signals: Signals) -> Iterator[Signals]:
    """Give what a better look might say: each prediction at either end of its interval beside the baseline's, every
    other domain that is still likely, and complexity moved both ways."""
    far = _moves(policy, signals)
    for sign in (1, -1):
        yield replace(
            signals, success={tier: _moved(success, sign * far[tier]) for tier, success in signals.success.items()}
        )
    yield from _doubts_of_kind(signals)


def _moves(policy: Policy, signals: Signals) -> Mapping[str, float]:
    """Give how far each prediction may be off beside the baseline's."""
    baseline = signals.success.get(policy.baseline)
    return {
        tier: 0.0 if tier == policy.baseline else DOUBT * uncertainty(success, baseline, signals)
        for tier, success in signals.success.items()
    }


def _doubts_of_kind(signals: Signals) -> Iterator[Signals]:
    for domain, probability in signals.domain_probs.items():
        if domain != signals.domain and probability >= DOUBTFUL_DOMAIN:
            yield replace(signals, domain=domain)
    if signals.complexity is not None:
        for shift in (DOUBTFUL_COMPLEXITY, -DOUBTFUL_COMPLEXITY):
            yield replace(signals, complexity=min(1.0, max(0.0, signals.complexity + shift)))


def _moved(success: Success, by: float) -> Success:
    moved = min(1.0, max(0.0, success.probability + by))
    return Success(moved, success.standard_error, success.source, success.shared, success.enough)


def _under(loaded: Loaded, target: Target, case: _Case, signals: Signals) -> _Case:
    """Give the case as it is under other signals, with everything of it that they leave alone."""
    policy, known = case.policy, case.signals
    if known is None or signals.domain != known.domain or case.view.exceeded:
        return _case(loaded, target, case.features, signals, case.view)
    if signals.complexity != known.complexity:
        rules = judge_rules(policy, Facts(case.features, signals, case.view.now))
        if any(now.holds is not before.holds for (_, now), (_, before) in zip(rules, case.rules, strict=True)):
            return _case(loaded, target, case.features, signals, case.view)
    if signals.success is known.success:
        return case
    options = {
        tier: Option(tier, option.order, signals.success.get(tier), option.cost)
        for tier, option in case.options.items()
    }
    moved = replace(case, signals=signals, baseline=options[policy.baseline], options=options, narrowed={})
    return _narrow(moved, target.objective or policy.objective, loaded.told_apart)


def _case(loaded: Loaded, target: Target, features: Features, signals: Signals | None, view: View) -> _Case:
    policy = loaded.policy
    rules = judge_rules(policy, Facts(features, signals, view.now))
    over, spent = [], {}
    for budget in budgets_for(loaded, features, signals, view) if view.exceeded else ():
        for name in view.exceeded:
            if name == budget.name:
                over.append(budget)
            elif name.startswith(f"{budget.name}/"):
                spent[name.removeprefix(f"{budget.name}/")] = budget.name
    excluding = [rule for rule, verdict in rules if verdict.holds and rule.exclude is not None]
    standing = standings(loaded.open, features, view, excluding, spent)
    by_tier = {tier: tuple(within) for tier, within in groupby(standing, key=lambda one: one.tier)}
    options = {
        tier: _option(loaded.prices, tier, order, _able(by_tier.get(tier, ())), features, signals)
        for order, tier in enumerate(policy.tiers)
    }
    case = _Case(
        policy, loaded.prices, features, signals, view, rules, standing, by_tier, options[policy.baseline], options, {},
        tuple(over),
    )  # fmt: skip
    return _narrow(case, target.objective or policy.objective, loaded.told_apart)


def _able(standing: Sequence[Standing]) -> list[Backend]:
    """Give the backends of a tier that its estimate is about: those able to serve, else all."""
    return [s.backend for s in standing if s.able] or [s.backend for s in standing]


def _narrow(case: _Case, objective: Objective, apart: frozenset[str]) -> _Case:
    """Let the objective choose within tiers whose backends are told apart, of those that at most a rest keeps away."""
    if not apart or case.signals is None or not case.signals.success:
        return case
    narrowed, options = {}, dict(case.options)
    for tier in sorted(apart, key=lambda tier: case.options[tier].order):
        standing, order = _within(case, tier), case.options[tier].order
        found = variants.variants(tier, [s.backend for s in _awake(standing)] or _able(standing), case.signals)
        each = [_option(case.prices, name, order, some, case.features, case.signals) for name, some in found.items()]
        chosen = choose(objective, each, case.baseline, case.signals, case.view).tier
        serving = variants.serving(found, case.signals, chosen)
        option = _option(case.prices, chosen, order, serving, case.features, case.signals)
        options[tier] = replace(option, tier=tier)
        why = variants.why(tier, found, case.signals, chosen)
        narrowed[tier] = _Narrowed(frozenset(backend.name for backend in serving), why)
    return replace(case, options=options, narrowed=narrowed)


def _option(
    prices: Mapping[str, Price | None],
    tier: str,
    order: int,
    backends: Sequence[Backend],
    features: Features,
    signals: Signals | None,
) -> Option:
    """Estimate one tier or variant by its dearest backend; its cost is unknown if one is unpriced."""
    success = signals.success.get(tier) if signals is not None else None
    costs = []
    for backend in backends:
        output = expected_output_tokens(features, signals, backend.max_output_tokens)
        cost = expected_cost(prices[backend.name], features.input_tokens, output)
        if not isinstance(cost, Decimal):
            return Option(tier, order, success, None)
        costs.append(cost)
    return Option(tier, order, success, max(costs))


def _refusal(case: _Case, target: Target) -> Refusal | None:
    """Say why nothing can be planned, if so."""
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


def _settle(case: _Case, target: Target) -> tuple[Refusal | None, _Pick]:
    """Refuse the request, or choose where it goes."""
    refused = _refusal(case, target)
    if refused is not None:
        return refused, _Pick("", (refused.message,))
    if target.kind == "backend":
        return None, _Pick("", (f"the request names the backend {target.name}",))
    return None, _pick(case, target)


def _pick(case: _Case, target: Target) -> _Pick:
    """Choose a tier of which, or of whose fallbacks, something can serve."""
    eligible = case.eligible()
    resting: tuple[str, ...] = ()
    if not any(standing.ready for standing in case.standings):
        resting = ("everything that could serve rests after failures: trying the least bad",)
    if case.over:
        cheapest = min((case.options[tier] for tier in eligible), key=cost_order).tier
        return _Pick(
            cheapest, (*resting, f"the budget {case.over[0].name!r} is spent: {cheapest} is the cheapest left")
        )
    if target.kind == "tier":
        return _Pick(target.name, (*resting, f"the request names the tier {target.name}"))
    for rule in case.matched("tier"):
        tier = str(rule.tier)
        if any(s.able for t in (tier, *case.policy.fallback.get(tier, ())) for s in _within(case, t)):
            return _Pick(tier, (*resting, f"rule {rule.name!r} sends it to {tier}"), wanted=tier)
        resting = (*resting, f"rule {rule.name!r} would send it to {tier}, which cannot serve it")
    wanted = _wanted(case, target.objective or case.policy.objective, eligible)
    return _explored(case, _held(case, replace(wanted, reasons=(*resting, *wanted.reasons)), eligible), eligible)


def _wanted(case: _Case, objective: Objective, eligible: Sequence[str]) -> _Pick:
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
            return _Pick(tier, (*passed, f"rule {rule.name!r} prefers {tier}"), choice.utilities, tier)
    return _Pick(choice.tier, (*passed, choice.why), choice.utilities, choice.tier)


def _at_best(case: _Case, success: Success) -> float:
    return success.probability + doubt(success, case.baseline.success, case.signals)


def _held(case: _Case, pick: _Pick, eligible: Sequence[str]) -> _Pick:
    session = case.view.session
    if session is None or not case.policy.session.sticky:
        return pick
    held = hold(case.policy.session, session, pick.wanted, case.features, eligible)
    return (
        pick if held is None else replace(pick, tier=held.tier, wanted=held.wanted, reasons=(*pick.reasons, held.why))
    )


def _explored(case: _Case, pick: _Pick, eligible: Sequence[str]) -> _Pick:
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


def _steps(case: _Case, target: Target, pick: _Pick) -> tuple[list[Step], str]:
    """Plan the calls of a request that is not refused, and say why the first is first."""
    if target.kind == "backend":
        return [Step(s.tier, s.backend.name) for s in case.standings if s.backend.name == target.name], ""
    return _plan(case, [pick.tier, *case.policy.fallback.get(pick.tier, ())])


def _plan(case: _Case, tiers: Sequence[str]) -> tuple[list[Step], str]:
    """Plan the calls, each tier's backends in turn, and say why the first is first where there is more to it."""
    awake = _awake([s for tier in dict.fromkeys(tiers) for s in _within(case, tier)])
    session = case.view.session if case.policy.session.sticky else None
    steps: list[Step] = []
    reason = ""
    for tier, backends in _in_turn(case, awake):
        found = placement.standpoints(backends, case.prices, case.features, case.view, session)
        ordered = placement.order(found, session)
        reason = reason if steps else placement.why(ordered, session)
        steps += [Step(tier, standpoint.backend) for standpoint in ordered]
    return steps, reason


def _in_turn(case: _Case, awake: Sequence[Standing]) -> Iterator[tuple[str, list[Backend]]]:
    """Give the tiers with their backends; those that a tier leaves out come when all else has failed."""
    first: dict[str, list[Backend]] = {}
    last: dict[str, list[Backend]] = {}
    for standing in awake:
        narrowed = case.narrowed.get(standing.tier)
        turn = first if narrowed is None or standing.backend.name in narrowed.serving else last
        turn.setdefault(standing.tier, []).append(standing.backend)
    yield from first.items()
    yield from last.items()


def _within(case: _Case, tier: str) -> Sequence[Standing]:
    return case.by_tier.get(tier, ())


def _awake(standing: Sequence[Standing]) -> list[Standing]:
    """Keep those with nothing in the way; where there is none, those that only rest."""
    return [s for s in standing if s.ready] or [s for s in standing if s.able]


def _about(case: _Case) -> Iterator[str]:
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


def _estimates(case: _Case, utilities: Mapping[str, float]) -> Iterator[Estimate]:
    for tier, option in case.options.items():
        within = _within(case, tier)
        obstacles = [] if any(s.ready for s in within) else [(s.backend.name, o) for s in within for o in s.obstacles]
        excluded = tuple(f"{name} {obstacle.why}" for name, obstacle in obstacles)
        yield Estimate(tier, option.success, option.cost, utilities.get(tier), excluded)
