"""Names that a policy document mentions: each must exist, and each that identifies something must be given once.

These look at plain data, not at a validated `Policy`, so that they are found together with errors of shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policies.problems import Problem, hint
from policies.source import Path, Source


@dataclass(frozen=True, slots=True)
class Names:
    """What a document declares: tiers, backends, named objectives and aliases, in its order."""

    tiers: Sequence[str]
    backends: Sequence[str]
    objectives: Sequence[str]
    aliases: Mapping[str, Any]

    def models(self) -> list[str]:
        """List everything that a request can ask for as its model."""
        objectives, tiers = (f"auto:{name}" for name in self.objectives), (f"tier/{name}" for name in self.tiers)
        return list(dict.fromkeys(("auto", *objectives, *tiers, *self.backends, *self.aliases)))


def reference_problems(source: Source) -> Iterator[Problem]:
    """Find every name that does not exist and every identifying name given twice."""
    tree = _mapping(source.tree)
    names = Names(
        tiers=list(_mapping(tree.get("tiers"))),
        backends=[name for _, name in _backends(tree)],
        objectives=list(_mapping(tree.get("objectives"))),
        aliases=_mapping(tree.get("aliases")),
    )
    yield from _given_twice(source, "backend", list(_backends(tree)))
    yield from _given_twice(source, "budget", list(_named(tree, "budgets")))
    for what, known, path, name in _mentions(tree, names):
        if isinstance(name, str) and name not in known:
            is_key = path in source.keys and name == path[-1]
            shown = name if is_key else source.written.get(path, name)
            yield source.problem(path, f"there is no {what} {shown!r}", hint(name, known), at_value=not is_key)
    yield from _alias_problems(source, names)


def _mentions(tree: Mapping[str, Any], names: Names) -> Iterator[tuple[str, Sequence[str], Path, Any]]:
    if "baseline" in tree:
        yield "tier", names.tiers, ("baseline",), tree["baseline"]
    for tier, others in _mapping(tree.get("fallback")).items():
        yield "tier", names.tiers, ("fallback", tier), tier
        for path, other in _one_or_more(others, ("fallback", tier)):
            yield "tier", names.tiers, path, other
    for index, rule in enumerate(_list(tree.get("rules"))):
        at: Path = ("rules", index)
        for action in ("tier", "prefer"):
            if action in _mapping(rule):
                yield "tier", names.tiers, (*at, action), rule[action]
        for what, known in (("tier", names.tiers), ("backend", names.backends)):
            excluded = _mapping(_mapping(rule).get("exclude")).get(what)
            for path, name in _one_or_more(excluded, (*at, "exclude", what)):
                yield what, known, path, name
    for alias, target in names.aliases.items():
        yield "model", names.models(), ("aliases", alias), target


def _alias_problems(source: Source, names: Names) -> Iterator[Problem]:
    taken, circling = {"auto", *names.backends}, set[str]()
    for alias, target in names.aliases.items():
        if alias in taken or alias.startswith(("auto:", "tier/")):
            yield source.problem(
                ("aliases", alias), "this name already means something", "choose another for the alias"
            )
        seen = [alias]
        while isinstance(target, str) and target in names.aliases and target not in seen:
            seen.append(target)
            target = names.aliases[target]
        if target in seen and target not in circling:
            circling.update(seen)
            yield source.problem(("aliases", alias), f"goes round in a circle: {' → '.join([*seen, str(target)])}")


def _given_twice(source: Source, what: str, named: Sequence[tuple[Path, str]]) -> Iterator[Problem]:
    first: dict[str, Path] = {}
    for path, name in named:
        if name in first:
            shown, line = source.written.get(path, name), source.place(first[name]).line
            message = f"there are two {what}s named {shown!r}: first on line {line}"
            yield source.problem(path, message, "rename one of them")
        first.setdefault(name, path)


def _backends(tree: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    for tier, settings in _mapping(tree.get("tiers")).items():
        for path, name in _named(_mapping(settings), "backends"):
            yield ("tiers", tier, *path), name


def _named(tree: Mapping[str, Any], section: str) -> Iterator[tuple[Path, str]]:
    for index, item in enumerate(_list(tree.get(section))):
        name = _mapping(item).get("name")
        if isinstance(name, str):
            yield (section, index, "name"), name


def _one_or_more(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, list):
        yield from (((*path, index), item) for index, item in enumerate(value))
    elif value is not None:
        yield path, value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
