"""A policy document: YAML text in, a `Policy` out, or every error at once with file, line and column."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from policies.addressing import Target, resolve, targets
from policies.catalogue import ModelFacts, fill
from policies.check import warnings
from policies.conditions import When
from policies.eligibility import Open
from policies.frozen import maker
from policies.money import Price, dearest, price_of, tariffs
from policies.problems import PolicyErrors, Problem, hint
from policies.references import reference_problems
from policies.schema import Policy
from policies.source import Path, Source, read
from policies.values import Estimate, Plan, Refusal

__all__ = ["Loaded", "PolicyErrors", "Problem", "complete", "json_schema", "load", "resolved", "show"]

_SECRET_KEYS = frozenset({"api_key", "encoder_key", "headers", "redis"})
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_MASK = "**********"
_estimate = maker(Estimate)
_SIZES = 4096
"""Sizes of requests whose estimates are remembered: some 500 bytes each, with two tiers."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy ready for use. ``hash`` names its content without its secrets; ``warnings`` are legal but suspicious."""

    policy: Policy
    hash: str
    warnings: tuple[Problem, ...]
    source: Source = field(repr=False)
    prices: Mapping[str, Price | None] = field(init=False, repr=False, compare=False)
    """Each backend's price by its name, worked out once."""
    estimates: Callable[[int, int, int], tuple[Estimate, ...]] = field(init=False, repr=False, compare=False)
    """What each tier would cost that nothing stands in the way of, by a request's input tokens, those of its choices
    together, and how many choices these are; remembered, as sizes come again."""
    told_apart: frozenset[str] = field(init=False, repr=False, compare=False)
    """The tiers some of whose backends answer differently well from others."""
    weighs: frozenset[str] = field(init=False, repr=False, compare=False)
    """The model names under which signals may choose: those that leave it to the policy, and tiers told apart."""
    asks_complexity: bool = field(init=False, repr=False, compare=False)
    """Whether a rule or a budget asks how complex a request is."""
    asking: tuple[When, ...] = field(init=False, repr=False, compare=False)
    """The conditions under which a backend is excluded, of those that ask about signals."""
    budgets_ask: bool = field(init=False, repr=False, compare=False)
    """Whether a budget asks about signals."""
    open: Open = field(init=False, repr=False, compare=False)
    plans: dict[str, Plan | None] = field(init=False, repr=False, compare=False)
    """What `policies.decide` has found to hold for every request of a model name that nothing stands in the way of."""
    _targets: Mapping[str, Target | Refusal] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "open", Open.of(self.policy))
        object.__setattr__(self, "plans", {})
        tiers = self.policy.tiers.values()
        prices = {backend.name: price_of(backend) for tier in tiers for backend in tier.backends}
        object.__setattr__(self, "prices", prices)
        object.__setattr__(self, "estimates", _estimates(self.policy, prices))
        apart = frozenset(name for name, tier in self.policy.tiers.items() if tier.told_apart)
        object.__setattr__(self, "told_apart", apart)
        whens = [*(rule.when for rule in self.policy.rules), *(budget.when for budget in self.policy.budgets)]
        object.__setattr__(self, "asks_complexity", any("complexity" in when.signals for when in whens))
        excluding = (rule.when for rule in self.policy.rules if rule.exclude is not None)
        object.__setattr__(self, "asking", tuple(when for when in excluding if when.signals))
        object.__setattr__(self, "budgets_ask", any(budget.when.signals for budget in self.policy.budgets))
        object.__setattr__(self, "_targets", targets(self.policy))
        weighs = (name for name, target in self._targets.items() if isinstance(target, Target) and self._weighs(target))
        object.__setattr__(self, "weighs", frozenset(weighs))

    def _weighs(self, target: Target) -> bool:
        return target.kind == "auto" or (target.kind == "tier" and target.name in self.told_apart)

    def target(self, model: str, allowed: tuple[str, ...] | None = None) -> Target | Refusal:
        """What a request's ``model`` asks for (see `policies.addressing.resolve`), worked out once for each name."""
        return self._targets.get(model) or resolve(self.policy, model, allowed)


def _estimates(policy: Policy, prices: Mapping[str, Price | None]) -> Callable[[int, int, int], tuple[Estimate, ...]]:
    by_tier = {name: tariffs(tier.backends, prices) for name, tier in policy.tiers.items()}

    @lru_cache(_SIZES)
    def estimates(input_tokens: int, output_tokens: int, choices: int) -> tuple[Estimate, ...]:
        costs = [(tier, dearest(found, input_tokens, output_tokens, choices)) for tier, found in by_tier.items()]
        return tuple([_estimate(tier, None, cost) for tier, cost in costs])

    return estimates


def load(
    text: str, *, file: str, environ: Mapping[str, str], is_timezone: Callable[[str], bool] = lambda _: True
) -> Loaded:
    """Read a policy document. ``file`` is its name for messages; ``is_timezone`` says which timezones exist.

    Raises `PolicyErrors` with every error found, in the order of the document.
    """
    source, problems = read(text, file=file, environ=environ)
    if source.tree is None and not problems:
        problems = [source.problem((), "the document is empty", "expected version, tiers and what else you need")]
    policy: Policy | None = None
    if source.tree is not None:
        problems += reference_problems(source)
        try:
            policy = Policy.model_validate(source.tree)
        except ValidationError as error:
            problems += _shape_problems(source, error)
    if policy is not None and not is_timezone(policy.timezone):
        message, known = f"there is no timezone {policy.timezone!r}", "expected an IANA name such as Europe/Berlin"
        problems.append(source.problem(("timezone",), message, known, at_value=True))
    if problems or policy is None:
        raise PolicyErrors(sorted(_first_at_each_key(problems), key=lambda problem: (problem.line, problem.column)))
    return _loaded(policy.model_copy(update={"baseline": policy.baseline or list(policy.tiers)[-1]}), source)


def complete(loaded: Loaded, catalogue: Mapping[str, ModelFacts]) -> Loaded:
    """Fill in what the catalogue knows of each backend's model; the policy is then self-contained."""
    return _loaded(fill(loaded.policy, catalogue), loaded.source)


def _loaded(policy: Policy, source: Source) -> Loaded:
    content = json.dumps(resolved(policy), default=lambda number: f"{number.normalize():f}")
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Loaded(policy, digest, tuple(warnings(policy, source)), source)


def resolved(policy: Policy) -> dict[str, Any]:
    """Give a policy as it resolved, as plain data: defaults filled in, secrets masked."""
    plain: dict[str, Any] = _plain(policy.model_dump(by_alias=True, exclude_none=True))
    return plain


def show(policy: Policy) -> str:
    """Write a policy as it resolved, as YAML that loads again."""
    return yaml.dump(resolved(policy), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def json_schema() -> dict[str, Any]:
    """Give the document's JSON schema for editors (draft 2020-12), from the same models that read it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **deepcopy(_schema())}


@cache
def _schema() -> dict[str, Any]:
    return Policy.model_json_schema(mode="validation")


class _Dumper(yaml.SafeDumper):
    """Writes Decimals as plain numbers."""


def _write_number(dumper: yaml.SafeDumper, number: Decimal) -> yaml.Node:
    text = f"{number:f}"
    return dumper.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in text else 'int'}", text)


_Dumper.add_representer(Decimal, _write_number)


def _plain(value: Any) -> Any:
    """Turn a dumped model into mappings, lists and scalars, with every secret masked."""
    match value:
        case SecretStr():
            return _MASK if value.get_secret_value() else ""
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case str():
            return _USERINFO.sub(_MASK, value)
    return value


def _first_at_each_key(problems: list[Problem]) -> Iterator[Problem]:
    seen: set[str] = set()
    for problem in problems:
        if problem.key not in seen or not problem.key:
            seen.add(problem.key)
            yield problem


def _shape_problems(source: Source, error: ValidationError) -> Iterator[Problem]:
    for found in error.errors(include_url=False, include_input=False):
        path, kind, context = _path(source.tree, found["loc"]), found["type"], found.get("ctx", {})
        if kind == "too_short" and _value(source.tree, path):
            continue  # it has items, each with an error of its own
        if kind == "extra_forbidden":
            known = list(_properties(_schema_at(_schema(), path[:-1])))
            yield source.problem(path, "unknown key", hint(str(path[-1]), known))
        elif kind == "missing":
            yield source.problem(path, f"{found['loc'][-1]} is missing")
        elif kind == "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
            expected = hint(source.written.get(path, ""), choices)
            yield source.problem(path, f"{_found(source, path)} is not known here", expected, at_value=True)
        elif kind == "value_error":
            yield source.problem(path, str(context["error"]), at_value=True)
        else:
            is_key = found["loc"][-1:] == ("[key]",)
            what = repr(path[-1]) if is_key else _found(source, path)
            yield source.problem(path, f"{_expected(found['msg'])}, found {what}", at_value=not is_key)


def _path(tree: Any, location: tuple[str | int, ...]) -> Path:
    """Follow pydantic's location into the document, past the names of union members that it holds."""
    path: Path = ()
    for part in location:
        inside = part in tree if isinstance(tree, dict) else isinstance(tree, list) and part in range(len(tree))
        if inside:
            path, tree = (*path, part), tree[part]
    return path


def _value(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _expected(message: str) -> str:
    for pydantics, ours in (
        ("Input should be ", "expected "),
        ("String should match pattern ", "expected text that matches "),
        (" should have at least ", ": expected at least "),
        ("a valid dictionary or instance of ", "a mapping: "),
        ("a valid dictionary", "a mapping"),
        ("a valid mapping", "a mapping"),
        ("a valid tuple", "a list"),
        ("a valid integer", "a whole number"),
        ("a valid ", "a "),
        (" after validation, not 0", ""),
    ):
        message = message.replace(pydantics, ours)
    return message


def _found(source: Source, path: Path) -> str:
    """Describe a value as it was written, before the environment, and never where a secret may stand."""
    if path not in source.written:
        return "a list" if isinstance(_value(source.tree, path), list) else "a mapping"
    return "a value not shown" if _SECRET_KEYS.intersection(path) else repr(source.written[path])


def _schema_at(schema: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    """Give every part of the JSON schema that a path may stand for."""
    nodes = list(_alternatives(schema, schema))
    for part in path:
        inner = []
        for node in nodes:
            inner.append(node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part))
            if inner[-1] is None:
                inner += [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
        nodes = [option for node in inner if isinstance(node, dict) for option in _alternatives(schema, node)]
    return nodes


def _alternatives(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    options = node.get("anyOf", node.get("oneOf"))
    if options is None:
        yield node
    for option in options or ():
        yield from _alternatives(schema, option)


def _properties(nodes: list[Mapping[str, Any]]) -> dict[str, None]:
    return {name: None for node in nodes for name in node.get("properties", {})}
