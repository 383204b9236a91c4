"""A request's case: everything that its decision weighs, found once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from policies import variants
from policies.addressing import Target
from policies.conditions import Facts, Verdict
from policies.document import Loaded
from policies.eligibility import Standing, standings
from policies.frozen import maker, quick
from policies.money import Price, dearest
from policies.objective import Option, choose, expected_output_tokens
from policies.schema import Backend, Budget, Objective, Policy, Rule
from policies.values import Features, Signals, View


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A tier of which only some backends serve, by their names, and the sentence that says why."""

    serving: frozenset[str]
    why: str


@quick
@dataclass(frozen=True, slots=True)
class Case:
    """One request with everything known of it; it is ``clear`` if nothing stands in the way of any backend."""

    policy: Policy
    prices: Mapping[str, Price | None]
    features: Features
    signals: Signals | None
    view: View
    rules: tuple[tuple[Rule, Verdict], ...]
    standings: tuple[Standing, ...]
    by_tier: Mapping[str, Sequence[Standing]]
    clear: bool
    baseline: Option
    options: Mapping[str, Option]
    narrowed: Mapping[str, Narrowed]
    over: tuple[Budget, ...]

    def matched(self, action: str) -> list[Rule]:
        """Give the matching rules with this action, in order."""
        return [rule for rule, verdict in self.rules if verdict.holds and getattr(rule, action) is not None]

    def eligible(self) -> list[str]:
        """Give the tiers that can serve now, lowest first; where all of them rest, those that could otherwise."""
        return list(self.by_tier if self.clear else dict.fromkeys(standing.tier for standing in awake(self.standings)))

    def within(self, tier: str) -> Sequence[Standing]:
        """Give how a tier's backends stand."""
        return self.by_tier.get(tier, ())


_case, _option = maker(Case), maker(Option)


def case_of(loaded: Loaded, target: Target, features: Features, signals: Signals | None, view: View) -> Case:
    """Judge the rules, see who stands where, and estimate each tier."""
    policy = loaded.policy
    rules = judge_rules(policy, Facts(features, signals, view.now)) if policy.rules else ()
    over, spent = [], {}
    for budget in budgets_for(loaded, features, signals, view) if view.exceeded else ():
        for name in view.exceeded:
            if name == budget.name:
                over.append(budget)
            elif name.startswith(f"{budget.name}/"):
                spent[name.removeprefix(f"{budget.name}/")] = budget.name
    excluding = [rule for rule, verdict in rules if verdict.holds and rule.exclude is not None]
    standing = standings(loaded.open, features, view, excluding, spent)
    by_tier: Mapping[str, Sequence[Standing]] = loaded.open.by_tier
    if clear := standing is loaded.open.standings:
        options = _options(loaded, features, signals)
    else:
        by_tier = _by_tier(standing)
        options = {
            tier: estimate(loaded.prices, tier, order, _able(by_tier.get(tier, ())), features, signals)
            for order, tier in enumerate(policy.tiers)
        }
    case = _case(
        policy, loaded.prices, features, signals, view, rules, standing, by_tier, clear, options[policy.baseline],
        options, {}, tuple(over),
    )  # fmt: skip
    return _narrow(case, target.objective or policy.objective, loaded.told_apart)


def _by_tier(standing: Sequence[Standing]) -> dict[str, list[Standing]]:
    found: dict[str, list[Standing]] = {}
    for one in standing:
        found.setdefault(one.tier, []).append(one)
    return found


def _options(loaded: Loaded, features: Features, signals: Signals | None) -> dict[str, Option]:
    """Estimate every tier where nothing stands in the way of any backend, by what is remembered of the size."""
    predicted = signals.success if signals is not None else {}
    sized = loaded.estimates(features.input_tokens, expected_output_tokens(features, signals), features.choices)
    return {
        one.tier: _option(one.tier, order, predicted.get(one.tier), one.cost_usd) for order, one in enumerate(sized)
    }


def _able(standing: Sequence[Standing]) -> list[Backend]:
    """Give the backends of a tier that its estimate is about: those able to serve, else all."""
    return [s.backend for s in standing if s.able] or [s.backend for s in standing]


def _narrow(case: Case, objective: Objective, apart: frozenset[str]) -> Case:
    """Let the objective choose within tiers whose backends are told apart, of those that at most a rest keeps away."""
    if not apart or case.signals is None or not case.signals.success:
        return case
    narrowed, options = {}, dict(case.options)
    for tier in sorted(apart, key=lambda tier: case.options[tier].order):
        standing, order = case.within(tier), case.options[tier].order
        found = variants.variants(tier, [s.backend for s in awake(standing)] or _able(standing), case.signals)
        each = [estimate(case.prices, name, order, some, case.features, case.signals) for name, some in found.items()]
        chosen = choose(objective, each, case.baseline, case.signals, case.view).tier
        serving = variants.serving(found, case.signals, chosen)
        option = estimate(case.prices, chosen, order, serving, case.features, case.signals)
        options[tier] = replace(option, tier=tier)
        why = variants.why(tier, found, case.signals, chosen)
        narrowed[tier] = Narrowed(frozenset(backend.name for backend in serving), why)
    return replace(case, options=options, narrowed=narrowed)


def estimate(
    prices: Mapping[str, Price | None],
    tier: str,
    order: int,
    backends: Sequence[Backend],
    features: Features,
    signals: Signals | None,
) -> Option:
    """Estimate one tier or variant by its dearest backend; its cost is unknown if one is unpriced."""
    success = signals.success.get(tier) if signals is not None else None
    found = [(prices[backend.name], backend.max_output_tokens) for backend in backends]
    output_tokens = expected_output_tokens(features, signals)
    return _option(tier, order, success, dearest(found, features.input_tokens, output_tokens, features.choices))


def under(loaded: Loaded, target: Target, case: Case, signals: Signals) -> Case:
    """Give the case as it is under other signals, with everything of it that they leave alone."""
    policy, known = case.policy, case.signals
    if known is None or signals.domain != known.domain or case.view.exceeded:
        return case_of(loaded, target, case.features, signals, case.view)
    if signals.complexity != known.complexity:
        facts = Facts(case.features, signals, case.view.now)
        asking = [(rule.when, verdict) for rule, verdict in case.rules if "complexity" in rule.when.signals]
        if any(when.match(facts).holds is not verdict.holds for when, verdict in asking):
            return case_of(loaded, target, case.features, signals, case.view)
    if signals.success is known.success:
        return case
    options = {
        tier: _option(tier, option.order, signals.success.get(tier), option.cost)
        for tier, option in case.options.items()
    }
    moved = replace(case, signals=signals, baseline=options[policy.baseline], options=options, narrowed={})
    return _narrow(moved, target.objective or policy.objective, loaded.told_apart)


def awake(standing: Sequence[Standing]) -> list[Standing]:
    """Keep those with nothing in the way; where there is none, those that only rest."""
    return [s for s in standing if not s.obstacles] or [s for s in standing if s.able]


def judge_rules(policy: Policy, facts: Facts) -> tuple[tuple[Rule, Verdict], ...]:
    """Judge every rule of the policy, in its order."""
    return tuple([(rule, rule.when.match(facts)) for rule in policy.rules])


def budgets_for(loaded: Loaded, features: Features, signals: Signals | None, view: View) -> tuple[Budget, ...]:
    """Give the budgets that this request counts against; one whose condition is not known counts."""
    facts = Facts(features, signals, view.now)
    return tuple(budget for budget in loaded.policy.budgets if budget.when.match(facts).holds is not False)
