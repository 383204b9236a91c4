"""What is legal in a policy but probably not meant. Pure: it finds warnings only, never errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from policies.addressing import Target, backends, resolve
from policies.conditions import Range, When
from policies.durations import show
from policies.eligibility import ROOM_FOR_ANSWER, excluded_by
from policies.money import Unpriced, expected_cost, price_of
from policies.objective import Option, cost_order
from policies.problems import Problem, nearest
from policies.schema import Backend, Budget, Policy, Rule
from policies.source import Path, Source
from policies.values import DOMAINS

TYPICAL_INPUT, TYPICAL_OUTPUT = 1_000, 300
"""Tokens of the request by which tiers' costs are compared."""


def warnings(policy: Policy, source: Source) -> list[Problem]:
    """Find everything suspicious, in the order of the document."""
    found = [problem for look in LOOKS for problem in look(policy, source)]
    return sorted(found, key=lambda problem: (problem.line, problem.column))


def _unpriced(policy: Policy, source: Source) -> Iterator[Problem]:
    for path, backend in _backend_paths(policy):
        if backend.cost is None:
            hint = "state its cost: {input_usd_per_mtok, output_usd_per_mtok} or {gpu_hour_usd}"
            yield source.warning(path, f"{backend.name} is unpriced: its cost and every saving will be unknown", hint)


def _windowless(policy: Policy, source: Source) -> Iterator[Problem]:
    for path, backend in _backend_paths(policy):
        if backend.context_window is None and backend.kind != "hosted":
            message = (
                f"the context window of {backend.name} is not known: long requests will be sent and may be refused"
            )
            yield source.warning(path, message, "state context_window, in tokens")


def _incomparable(policy: Policy, source: Source) -> Iterator[Problem]:
    """Find backends that state what they are where it cannot be compared with the rest of their tier."""
    for path, backend in _backend_paths(policy):
        tier = policy.tiers[str(path[1])]
        if len(tier.backends) == 1 and (backend.trained_as or backend.quality):
            stated = "trained_as" if backend.trained_as else "quality"
            yield source.warning((*path, stated), "has no effect on the only backend of a tier", "state it on the tier")
        elif backend.quality and not backend.trained_as and not tier.quality:
            message = f"the tier states no quality that {backend.name}'s own could be compared with"
            yield source.warning((*path, "quality"), message, "state the tier's, from the same benchmark runs")


def _rule_names(policy: Policy, source: Source) -> Iterator[Problem]:
    for (_, earlier), (index, later) in combinations(enumerate(policy.rules), 2):
        if earlier.name == later.name:
            message = f"another rule is named {later.name!r} too: reasons cannot tell them apart"
            yield source.warning(("rules", index, "name"), message, "rename one of them")


def _impossible(policy: Policy, source: Source) -> Iterator[Problem]:
    known = {*DOMAINS, *policy.classifier.domains}
    for path, when in _whens(policy):
        for name, value, low, high in (
            ("complexity", when.complexity, 0.0, 1.0),
            ("input_tokens", when.input_tokens, 0.0, math.inf),
            ("turns", when.turns, 1.0, math.inf),
        ):
            if isinstance(value, Range) and value.interval(low, high, whole=name != "complexity") is None:
                message = f"no request can match: nothing is {value}"
                yield source.warning((*path, name), message, f"from {low:g} to {high:g} is possible")
        for domain in when.domain or ():
            if domain not in known:
                hint = nearest(domain, known) or "add it under classifier.domains"
                yield source.warning((*path, "domain"), f"no request can match: there is no domain {domain!r}", hint)
        if _is_empty(when) and path[-1] != "when":
            yield source.warning(path, "no condition is given here, so it always holds", "state one, or remove it")


def _is_empty(when: When) -> bool:
    return not when.given()


def _shadowed(policy: Policy, source: Source) -> Iterator[Problem]:
    """Find rules that an earlier one always settles or always precedes with the same action."""
    for (_, earlier), (index, later) in combinations(enumerate(policy.rules), 2):
        overrules = earlier.tier is not None and (later.tier is not None or later.prefer is not None)
        precedes = earlier.prefer is not None and later.prefer is not None
        if (overrules or precedes) and _covers(earlier.when, later.when):
            message = f"never decides: rule {earlier.name!r} above matches whenever this one does"
            yield source.warning(("rules", index), message, "move it up, or narrow the one above")


def _covers(wide: When, narrow: When) -> bool:
    """Say whether all that matches ``narrow`` surely matches ``wide``: it has each condition, no wider."""
    inner = dict(narrow.given())
    return all(name in inner and _includes(value, inner[name]) for name, value in wide.given())


def _includes(wide: object, narrow: object) -> bool:
    if isinstance(wide, Range) and isinstance(narrow, Range):
        return wide.includes(narrow)
    if isinstance(wide, tuple) and isinstance(narrow, tuple) and all(isinstance(item, str) for item in wide):
        return set(narrow) <= set(wide)
    return wide == narrow


def _windows(policy: Policy, source: Source) -> Iterator[Problem]:
    """Find rules whose requests cannot fit where they are sent."""
    for index, rule in enumerate(policy.rules):
        tier, wanted = rule.tier or rule.prefer, rule.when.input_tokens
        bounds = wanted.interval(0, whole=True) if wanted is not None else None
        if tier is None or bounds is None:
            continue
        sizes = [backend.context_window or math.inf for backend in policy.tiers[tier].backends]
        if bounds[0] + ROOM_FOR_ANSWER > max(sizes):
            message = f"sends at least {bounds[0]:,.0f} tokens to {tier}, whose largest window is {max(sizes):,.0f}"
            yield source.warning(("rules", index), message, "choose a tier with a larger window")
        elif math.isfinite(bounds[1]) and bounds[1] + ROOM_FOR_ANSWER > max(sizes):
            message = f"sends up to {bounds[1]:,.0f} tokens to {tier}, whose largest window is {max(sizes):,.0f}"
            yield source.warning(("rules", index), message, f"{ROOM_FOR_ANSWER} tokens are kept for the answer")


def _loops(policy: Policy, source: Source) -> Iterator[Problem]:
    for tier, others in policy.fallback.items():
        if tier in others:
            yield source.warning(
                ("fallback", tier), f"a fallback loop: {tier} falls back on itself", "name other tiers"
            )
        if len(set(others)) < len(others):
            yield source.warning(("fallback", tier), "names a tier twice; each is tried once", "keep one of them")


def _unreached(policy: Policy, source: Source) -> Iterator[Problem]:
    """Find tiers that neither the objective nor a rule nor a fallback nor an alias can choose."""
    if policy.exploration > 0:
        return
    settling = next((rule for rule in policy.rules if rule.tier is not None and _is_empty(rule.when)), None)
    chosen = {tier for rule in _before(policy.rules, settling) for tier in (rule.tier, rule.prefer) if tier is not None}
    if settling is None:
        chosen |= _by_objective(policy)
    named = {target.name for alias in policy.aliases if isinstance(target := resolve(policy, alias), Target)}
    chosen |= {tier for tier, backend in backends(policy) if named & {tier, backend.name}}
    reached = chosen.union(*(policy.fallback.get(tier, ()) for tier in chosen))
    for tier in policy.tiers:
        if tier not in reached:
            message = "nobody reaches this tier except by asking for it by name"
            yield source.warning(("tiers", tier), message, "name it in a rule, a fallback or an alias, or remove it")


def _before(rules: Sequence[Rule], settling: Rule | None) -> Sequence[Rule]:
    """Give the rules that can choose a tier: none after one that always settles, and no preference beside it."""
    if settling is None:
        return rules
    return [rule for rule in rules[: rules.index(settling) + 1] if rule.tier is not None]


def _by_objective(policy: Policy) -> set[str]:
    """Give the tiers that some objective of the policy could choose by itself."""
    options = _options(policy)
    baseline = next(option for option in options if option.tier == policy.baseline)
    reached = {policy.baseline}
    for objective in (policy.objective, *policy.objectives.values()):
        if objective.large_share is not None:
            reached.add(min(options, key=cost_order).tier)
        elif objective.keep_quality is not None:
            reached |= {option.tier for option in options if cost_order(option) <= cost_order(baseline)}
        else:
            reached |= set(policy.tiers)
    return reached


def _baseline(policy: Policy, source: Source) -> Iterator[Problem]:
    """Find a baseline taken by default that is not the dearest tier: keep_quality would never look above it."""
    dearest = max(_options(policy), key=cost_order)
    if isinstance(source.tree, dict) and not source.tree.get("baseline") and dearest.tier != policy.baseline:
        message = f"the baseline is {policy.baseline}, the last tier, but {dearest.tier} is dearer"
        yield source.warning(("tiers",), message, "state baseline, or put the dearest tier last")


def _options(policy: Policy) -> list[Option]:
    options = []
    for order, (tier, settings) in enumerate(policy.tiers.items()):
        costs = [expected_cost(price_of(backend), TYPICAL_INPUT, TYPICAL_OUTPUT) for backend in settings.backends]
        known = [cost for cost in costs if not isinstance(cost, Unpriced)]
        options.append(Option(tier, order, None, max(known) if len(known) == len(costs) else None))
    return options


def _untrusted(policy: Policy, source: Source) -> Iterator[Problem]:
    """Find conditions on headers that are read from nobody."""
    if policy.auth.trust or not policy.auth.required:
        return
    for path, when in _whens(policy):
        if when.header is not None:
            message = "no request can match: headers are read from trusted keys only, and none is trusted"
            yield source.warning((*path, "header"), message, "name keys under auth.trust")


def _pointless(policy: Policy, source: Source) -> Iterator[Problem]:
    """Find settings that have no effect."""
    if policy.timeouts.deadline < policy.timeouts.total:
        message = f"the deadline over all attempts, {show(policy.timeouts.deadline)}, is shorter than total"
        yield source.warning(("timeouts",), message, "no attempt can take its total: lower it or raise deadline")
    for path, backend in _backend_paths(policy):
        if backend.simulate is not None and backend.kind != "simulated":
            yield source.warning((*path, "simulate"), f"has no effect on a backend of kind {backend.kind}", "remove it")
    for index, rule in enumerate(policy.rules):
        if rule.exclude is None:
            continue
        out = [excluded_by(rule.exclude, tier, backend) is not None for tier, backend in backends(policy)]
        path, name = ("rules", index, "exclude"), "name a tier, backend, precision or kind of the policy"
        if not any(out):
            yield source.warning(path, "excludes nothing: no backend is of that description", name)
        if all(out):
            yield source.warning(path, "excludes every backend: whatever matches will be refused", "exclude less")


def _backend_paths(policy: Policy) -> Iterator[tuple[Path, Backend]]:
    for tier, settings in policy.tiers.items():
        yield from ((("tiers", tier, "backends", index), backend) for index, backend in enumerate(settings.backends))


def _whens(policy: Policy) -> Iterator[tuple[Path, When]]:
    """Give every set of conditions, nested ones too, with its path."""
    holders: dict[str, Sequence[Rule | Budget]] = {"rules": policy.rules, "budgets": policy.budgets}
    for section, held in holders.items():
        for index, holder in enumerate(held):
            yield from _nested((section, index, "when"), holder.when)


def _nested(path: Path, when: When) -> Iterator[tuple[Path, When]]:
    yield path, when
    for name, inner in (("and", when.and_), ("or", when.or_)):
        for index, each in enumerate(inner or ()):
            yield from _nested((*path, name, index), each)
    if when.not_ is not None:
        yield from _nested((*path, "not"), when.not_)


LOOKS: Sequence[Callable[[Policy, Source], Iterator[Problem]]] = (
    _unpriced, _windowless, _incomparable, _rule_names, _impossible, _shadowed, _windows, _loops, _unreached, _baseline,
    _untrusted, _pointless,
)  # fmt: skip
"""Every look that is taken at a policy."""
