"""A YAML text as plain data that remembers where each part stands.

Scalars follow YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema), so ``on``, ``no`` and ``22:00``
are text, and numbers with a fraction are Decimals, so that money is never a binary float. ``${NAME}`` and
``${NAME:-default}`` in values are replaced from an environment that the caller passes in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

import yaml

from policies.problems import Problem

Path: TypeAlias = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_VARIABLE = re.compile(r"\$\$(?=\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{[^}]*\}?")
_MOST_NODES = 250_000
_LONGEST_NUMBER = 30


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Source:
    """Plain data (``tree``), with the place of each key and value and each scalar as it was written.

    The tree has secrets in it, so it is left out of the repr.
    """

    file: str
    tree: Any = field(repr=False)
    keys: Mapping[Path, Place]
    values: Mapping[Path, Place]
    written: Mapping[Path, str]

    def place(self, path: Path) -> Place:
        """Give the place of a path's key, else of its value, else of the nearest part around it."""
        for end in range(len(path), -1, -1):
            place = self.keys.get(path[:end]) or self.values.get(path[:end])
            if place is not None:
                return place
        return Place(1, 1)

    def problem(self, path: Path, message: str, hint: str = "", *, at_value: bool = False) -> Problem:
        """Make an error at a path."""
        place = (self.values.get(path) if at_value else None) or self.place(path)
        return Problem(self.file, place.line, place.column, dotted(path), message, hint)

    def warning(self, path: Path, message: str, hint: str = "") -> Problem:
        """Make a warning at a path."""
        place = self.place(path)
        return Problem(self.file, place.line, place.column, dotted(path), message, hint, "warning")


def dotted(path: Path) -> str:
    """Write a path as ``tiers.small.backends[0].name``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read(text: str, *, file: str, environ: Mapping[str, str]) -> tuple[Source, list[Problem]]:
    """Read one YAML document. Never raises: what is wrong comes back as problems, the rest as data."""
    reader = _Reader(file, environ)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        reader.refuse((), place, f"not YAML: {' '.join(filter(None, (error.context, error.problem)))}")
        node = None
    except yaml.YAMLError as error:
        reader.refuse((), Place(1, 1), f"not YAML: {error}".splitlines()[0])
        node = None
    tree = reader.build(node, ()) if node is not None else None
    return Source(file, tree, reader.keys, reader.values, reader.written), reader.problems


@dataclass(slots=True)
class _Reader:
    file: str
    environ: Mapping[str, str]
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _open: list[int] = field(default_factory=list)
    _seen: int = 0

    def refuse(self, path: Path, place: Place, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, place.line, place.column, dotted(path), message, hint))

    def build(self, node: yaml.Node, path: Path) -> Any:
        """Turn a node into plain data and note where it stands."""
        place = self.values[path] = _start(node)
        self._seen += 1
        if id(node) in self._open or self._seen > _MOST_NODES:
            self.refuse(path, place, "this alias repeats itself without end" if id(node) in self._open else "too large")
            return None
        if not str(node.tag).startswith("tag:yaml.org,2002:"):
            self.refuse(path, place, f"the tag {node.tag} means nothing here", "write the value without it")
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for name, key, value in self._pairs(node, path):
            inner = (*path, name)
            if name in built:
                first = self.keys[inner]
                self.refuse(inner, _start(key), f"given twice: first on line {first.line}", "keep one of them")
                continue
            self.keys[inner] = _start(key)
            built[name] = self.build(value, inner)
        return built

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Give a mapping's own keys, then those merged in with ``<<`` that it does not have itself."""
        own: list[tuple[str, yaml.Node, yaml.Node]] = []
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(path, _start(key), "a key must be plain text")
            elif key.value == "<<" and key.style is None:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                own.append((key.value, key, value))
        yield from own
        taken = {name for name, _, _ in own}
        for source in merged:
            if not isinstance(source, yaml.MappingNode):
                self.refuse(path, _start(source), "<< merges mappings only")
                continue
            for name, key, value in self._pairs(source, path):
                if name not in taken:
                    taken.add(name)
                    yield name, key, value

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        self.written[path] = node.value
        text = self._substituted(node.value, path, self.values[path])
        return plain(text) if text is not None and node.style is None else text

    def _substituted(self, text: str, path: Path, place: Place) -> str | None:
        """Replace environment variables; None, with a problem noted, where one is not set."""
        missing = False

        def value(match: re.Match[str]) -> str:
            nonlocal missing
            name, default = match[1], match[2]
            if match[0] == "$$":
                return "$"
            if name is None:
                missing = True
                hint = "expected ${NAME} or ${NAME:-default}; $${ is a plain ${"
                self.refuse(path, place, f"cannot read {match[0]}", hint)
                return ""
            found = self.environ.get(name)
            if found or (found is not None and default is None):
                return found
            if default is None:
                missing = True
                hint = f"set it, or give a default: ${{{name}:-default}}"
                self.refuse(path, place, f"environment variable {name} is not set", hint)
            return default or ""

        replaced = _VARIABLE.sub(value, text)
        return None if missing else replaced


def plain(text: str) -> Any:
    """Resolve an unquoted scalar by YAML 1.2's core schema; a number with a fraction becomes a Decimal.

    Numbers beyond any use (more than 30 digits) stay text, so that writing one out never takes long.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) <= _LONGEST_NUMBER:
        return int(text)
    number = Decimal(text) if _DECIMAL.fullmatch(text) else None
    return text if number is None or abs(number.adjusted()) >= _LONGEST_NUMBER else number


def _start(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
