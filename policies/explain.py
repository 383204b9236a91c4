"""Why a request goes where it goes, and what change of price or threshold would send it elsewhere. Pure.

What would flip a decision is found by deciding again: one setting is moved away from its value in small steps until the
chosen tier changes, and the place of the change is then narrowed down by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from policies.addressing import Target, resolve
from policies.case import judge_rules
from policies.conditions import Facts, Range
from policies.decide import decide
from policies.document import Loaded
from policies.objective import gain_error
from policies.schema import Objective, Policy, Rule, Section
from policies.values import Decision, Estimate, Features, Signals, View

FACTORS = tuple(2 ** (step / 2) for step in range(1, 21))
"""How far prices and budgets are moved: up to about a thousandfold, either way."""

STEPS = 100
"""Into how many steps a setting between 0 and 1 is divided."""

HALVINGS = 20

NUDGES: Mapping[str, float] = {"complexity": 0.001, "input_tokens": 1, "turns": 1}
"""How far past a request's own value a rule's bound is moved."""


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """One rule: what it would do, whether it matched (None: what it asks about is not known), and why."""

    name: str
    action: str
    holds: bool | None
    why: str


@dataclass(frozen=True, slots=True)
class Flip:
    """A change of one setting that would send the request to another tier."""

    setting: str
    change: str
    tier: str

    def __str__(self) -> str:
        return f"{self.setting} {self.change}: {self.tier}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with everything that it was made from."""

    features: Features
    signals: Signals | None
    rules: tuple[RuleTrace, ...]
    decision: Decision
    flips: tuple[Flip, ...]
    baseline: str = ""


def explain(loaded: Loaded, features: Features, signals: Signals | None, view: View) -> Explanation:
    """Explain a decision. Total, like `decide`."""
    facts = Facts(features, signals, view.now)
    rules = tuple(
        RuleTrace(rule.name, _action(rule), verdict.holds, verdict.why)
        for rule, verdict in judge_rules(loaded.policy, facts)
    )
    decision = decide(loaded, features, signals, view)
    flips = tuple(_flips(loaded, facts, view, decision))
    return Explanation(features, signals, rules, decision, flips, loaded.policy.baseline)


def sections(explanation: Explanation) -> Mapping[str, tuple[str, ...]]:
    """Lay an explanation out as titled lines of text, in reading order."""
    decision = explanation.decision
    steps = ", then ".join(f"{step.backend} ({step.tier})" for step in decision.steps)
    odds = () if decision.propensity == 1 else (f"chosen with probability {decision.propensity:.3f}",)
    return {
        "request": tuple(_request(explanation.features)),
        "signals": tuple(_signals(explanation.signals)),
        "tiers": tuple(_tiers(decision.estimates, explanation.baseline)) or ("none was looked at",),
        "rules": tuple(_rule(rule) for rule in explanation.rules) or ("none",),
        "choice": (steps or "refused", *decision.reasons, *odds),
        "what would change it": tuple(map(str, explanation.flips)) or ("no single change of price or threshold",),
    }


def lines(explanation: Explanation) -> list[str]:
    """Give an explanation as lines of text: a title, then its lines indented."""
    return [
        line for title, inner in sections(explanation).items() for line in (title, *(f"  {text}" for text in inner))
    ]


def _request(features: Features) -> Iterator[str]:
    asked = "" if features.max_output_tokens is None else f", at most {features.max_output_tokens:,} out"
    yield f"model {features.model}, about {features.input_tokens:,} tokens in{asked}, turn {features.turns}"
    has = [name for name in ("code", "tools", "images") if getattr(features, f"has_{name}")]
    needs = f", requires {', '.join(sorted(features.requires))}" if features.requires else ""
    yield f"language {features.language}, {' and '.join(has) or 'no code, tools or images'}{needs}"


def _signals(signals: Signals | None) -> Iterator[str]:
    if signals is None:
        yield "none were needed or none came"
        return
    if signals.knows_domain:
        likeliest = sorted(signals.domain_probs.items(), key=lambda item: -item[1])[:3]
        yield f"domain {signals.domain}" + "".join(f", {name} {odds:.0%}" for name, odds in likeliest)
    if signals.complexity is not None:
        yield f"complexity {signals.complexity:.2f} ({signals.band})"
    yield f"{signals.look} look{', unlike anything trained on' if signals.ood else ''}"
    yield from (f"missing: {what}" for what in signals.missing)


def _tiers(estimates: Sequence[Estimate], baseline: str) -> Iterator[str]:
    beside = next((estimate for estimate in estimates if estimate.tier == baseline), None)
    for estimate in estimates:
        yield _tier(estimate, None if estimate is beside else beside)


def _tier(estimate: Estimate, baseline: Estimate | None) -> str:
    success, cost = "success unknown", "unpriced"
    if estimate.success is not None:
        guess = estimate.success
        success = f"success {guess.probability:.2f} ± {guess.standard_error:.2f} ({guess.source})"
        if baseline is not None and baseline.success is not None:
            success += f", ± {gain_error(guess, baseline.success):.2f} beside {baseline.tier}"
    if estimate.cost_usd is not None:
        cost = f"${estimate.cost_usd:.6f}"
    utility = "" if estimate.utility is None else f", utility {estimate.utility:+.3f}"
    out = f"; {'; '.join(estimate.excluded)}" if estimate.excluded else ""
    return f"{estimate.tier}: {success}, {cost}{utility}{out}"


def _rule(rule: RuleTrace) -> str:
    matched = {True: "matched", False: "did not match", None: "cannot tell"}[rule.holds]
    return f"{rule.name} → {rule.action}: {matched}, {rule.why}"


def _action(rule: Rule) -> str:
    if rule.exclude is None:
        return f"tier {rule.tier}" if rule.tier is not None else f"prefer {rule.prefer}"
    out = {what: getattr(rule.exclude, what) for what in type(rule.exclude).model_fields}
    return "exclude " + ", ".join(f"{what} {'/'.join(names)}" for what, names in out.items() if names)


def _flips(loaded: Loaded, facts: Facts, view: View, decision: Decision) -> Iterator[Flip]:
    """Find every single change that flips the decision; only the policy's own choice can be flipped."""
    target = resolve(loaded.policy, facts.features.model)
    if not isinstance(target, Target) or target.objective is None or not decision.steps:
        return

    def tier_under(policy: Policy) -> str:
        return decide(replace(loaded, policy=policy), facts.features, facts.signals, view).tier

    yield from _price_flips(loaded.policy, tier_under, decision)
    yield from _objective_flips(loaded.policy, target.objective, tier_under)
    yield from _rule_flips(loaded.policy, facts, tier_under, decision.tier)


def _price_flips(policy: Policy, tier_under: Callable[[Policy], str], decision: Decision) -> Iterator[Flip]:
    for estimate in decision.estimates:
        if not estimate.cost_usd:
            continue

        def tier_at(factor: float, tier: str = estimate.tier) -> str:
            return tier_under(_repriced(policy, tier, Decimal(repr(factor))))

        for factors, word in ((FACTORS, "above"), ([1 / factor for factor in FACTORS], "below")):
            found = _first_change(tier_at, 1.0, factors)
            if found is not None:
                factor, tier = found
                at = f"${float(estimate.cost_usd) * factor:.6f} a request ({factor:.2g} times its price)"
                yield Flip(f"{estimate.tier} {word}", at, tier)


def _objective_flips(policy: Policy, objective: Objective, tier_under: Callable[[Policy], str]) -> Iterator[Flip]:
    (name,) = (name for name in Objective.model_fields if getattr(objective, name) is not None)
    now = float(getattr(objective, name))

    def tier_at(value: float) -> str:
        changed = Objective.model_validate({name: Decimal(repr(value))})
        return tier_under(
            policy.model_copy(update={"objective": changed, "objectives": dict.fromkeys(policy.objectives, changed)})
        )

    if name == "usd_per_day":
        up, down = [now * factor for factor in FACTORS], [now / factor for factor in FACTORS]
    else:
        grid = [step / STEPS for step in range(1 if name == "keep_quality" else 0, STEPS + 1)]
        up, down = [value for value in grid if value > now], [value for value in reversed(grid) if value < now]
    for values, word in ((up, "above"), (down, "below")):
        found = _first_change(tier_at, now, values)
        if found is not None:
            yield Flip(f"{name} {word}", f"{found[0]:.4g}", found[1])


def _rule_flips(policy: Policy, facts: Facts, tier_under: Callable[[Policy], str], chosen: str) -> Iterator[Flip]:
    """Move each bound of each rule just past what the request has."""
    actual = {
        "complexity": facts.signals.complexity if facts.signals else None,
        "input_tokens": facts.features.input_tokens,
        "turns": facts.features.turns,
    }
    for index, rule in enumerate(policy.rules):
        for name, value in actual.items():
            bounds = getattr(rule.when, name)
            if value is None or not isinstance(bounds, Range):
                continue
            for bound, moved in _moved(bounds, value, NUDGES[name]):
                when = rule.when.model_copy(update={name: bounds.model_copy(update={bound: moved})})
                changed = (*policy.rules[:index], rule.model_copy(update={"when": when}), *policy.rules[index + 1 :])
                tier = tier_under(policy.model_copy(update={"rules": changed}))
                if tier != chosen:
                    yield Flip(f"rule {rule.name!r} with {name}", f"{bound} {moved:.6g}", tier)


def _moved(bounds: Range, value: float, nudge: float) -> Iterator[tuple[str, float]]:
    """Give each bound that is set with the value nearest to its own at which it judges ``value`` the other way."""
    for bound, just_false, just_true in (
        ("at_least", value + nudge, value),
        ("more_than", value, value - nudge),
        ("at_most", value - nudge, value),
        ("less_than", value, value + nudge),
    ):
        limit = getattr(bounds, bound)
        if limit is not None:
            yield bound, just_false if Range.model_validate({bound: limit}).holds(value) else just_true


def _first_change(tier_at: Callable[[float], str], now: float, values: Iterable[float]) -> tuple[float, str] | None:
    """Find where, going from ``now`` through ``values``, the tier first changes, and to which."""
    before, chosen = now, tier_at(now)
    for value in values:
        if tier_at(value) != chosen:
            return _bisected(tier_at, chosen, before, value)
        before = value
    return None


def _bisected(tier_at: Callable[[float], str], chosen: str, same: float, changed: float) -> tuple[float, str]:
    for _ in range(HALVINGS):
        middle = (same + changed) / 2
        if tier_at(middle) == chosen:
            same = middle
        else:
            changed = middle
    return changed, tier_at(changed)


def _repriced(policy: Policy, tier: str, factor: Decimal) -> Policy:
    settings = policy.tiers[tier]
    backends = tuple(
        backend if backend.cost is None else backend.model_copy(update={"cost": _scaled(backend.cost, factor)})
        for backend in settings.backends
    )
    return policy.model_copy(
        update={"tiers": {**policy.tiers, tier: settings.model_copy(update={"backends": backends})}}
    )


def _scaled(price: Section, factor: Decimal) -> Section:
    """Multiply every rate of a price, also of those that stand in for it."""
    scaled: dict[str, object] = {}
    for name, value in price:
        if isinstance(value, Decimal):
            scaled[name] = value * factor
        elif isinstance(value, tuple):
            scaled[name] = tuple(_scaled(part, factor) for part in value)
        elif isinstance(value, Mapping):
            scaled[name] = {key: _scaled(part, factor) for key, part in value.items()}
    return price.model_copy(update=scaled)
