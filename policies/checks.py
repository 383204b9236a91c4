"""Whether an answer will do: cheap checks that need no model, for tiers that ``escalate``. Pure.

A check errs on the side of the answer: what it cannot tell, it lets pass.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policies.schema import Escalate

_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am) (?:very |really |so )?sorry\b|sorry,|i apologi[sz]e\b|as an ai\b|unfortunately, i\b"
    r"|i(?:['’]m| am) (?:unable|not able) to\b|i (?:can['’]t|cannot|won['’]t|will not) (?:help|assist|provide|answer"
    r"|do|comply|fulfil|access)\b|i do(?:n['’]t| not) (?:know|have (?:access|information|the ability|enough))\b"
    r"|es tut mir leid|tut mir leid|lo siento|je suis désolé|désolé|mi dispiace|desculpe|извините|很抱歉|抱歉|申し訳)",
    re.IGNORECASE,
)
_TAIL = 2_000
_LONG_ENOUGH = 500
_REPETITIVE = 0.1
"""Share of its size that the end of a text packs to when it says one thing over and over; English is near 0.5."""

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "number": (int, float),
    "integer": int,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What the request laid down: JSON (with a ``schema``, or any), ``tools`` by name with their parameters' schema,
    whether it ``limited`` the answer's length, and its language (``und`` where unknown)."""

    json: bool = False
    schema: Mapping[str, Any] | None = None
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limited: bool = False
    language: str = "und"


@dataclass(frozen=True, slots=True)
class Answered:
    """One choice of an answer: its text, the calls it makes (name and arguments as text), and how it ended.

    ``mean_logprob`` is over its tokens, in nats, None where they were not given. ``language`` is that of the text.
    """

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish_reason: str = ""
    refused: bool = False
    mean_logprob: float | None = None
    language: str = "und"


def shortcoming(answers: Sequence[Answered], asked: Asked, settings: Escalate) -> str | None:
    """Name the first check that an answer's choices fail, in the order of the settings; None where they will do."""
    for check in settings.checks:
        if any(_FAILS[check](answered, asked) for answered in answers):
            return check
    least = settings.min_mean_logprob
    unsure = least is not None and any(
        answered.mean_logprob is not None and answered.mean_logprob < least for answered in answers
    )
    return "logprob" if unsure else None


def fits(value: object, schema: object) -> bool:
    """Whether a JSON value fits a schema, as far as its plain keywords tell.

    Looks at types, enum, const, properties, required, additionalProperties, items, and inline anyOf, oneOf and allOf;
    takes no more steps than the schema's parts times the value's: references and patterns, with which a client could
    make it take forever, are let pass.
    """
    if not isinstance(schema, Mapping):
        return schema is not False
    kinds = schema.get("type")
    wanted = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if wanted and not any(_is(value, kind) for kind in wanted):
        return False
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if not all(fits(value, part) for part in _list(schema.get("allOf"))):
        return False
    for either in ("anyOf", "oneOf"):
        if _list(schema.get(either)) and not any(fits(value, part) for part in schema[either]):
            return False
    if isinstance(value, dict):
        return _object_fits(value, schema)
    items = schema.get("items")
    return not isinstance(value, list) or items is None or all(fits(item, items) for item in value)


def _object_fits(value: Mapping[str, object], schema: Mapping[str, Any]) -> bool:
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    if any(isinstance(name, str) and name not in value for name in _list(schema.get("required"))):
        return False
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if closed and value.keys() - known.keys():
        return False
    return all(fits(part, known[name]) for name, part in value.items() if name in known)


def _is(value: object, kind: object) -> bool:
    expected = _TYPES.get(kind) if isinstance(kind, str) else None
    if expected is None:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, expected) or (kind == "integer" and isinstance(value, float) and value.is_integer())


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _refuses(answered: Answered, asked: Asked) -> bool:
    return answered.refused or answered.finish_reason == "content_filter" or bool(_REFUSAL.match(answered.text[:300]))


def _is_truncated(answered: Answered, asked: Asked) -> bool:
    return answered.finish_reason == "length" and not asked.limited


def _breaks_json(answered: Answered, asked: Asked) -> bool:
    return asked.json and not answered.calls and not _parses(answered.text, asked.schema)


def _breaks_tools(answered: Answered, asked: Asked) -> bool:
    return any(
        name not in asked.tools or not _parses(arguments or "{}", asked.tools[name])
        for name, arguments in answered.calls
    )


def _repeats_itself(answered: Answered, asked: Asked) -> bool:
    tail = answered.text[-_TAIL:].encode("utf-8", "replace")
    return len(tail) >= _LONG_ENOUGH and len(zlib.compress(tail)) < _REPETITIVE * len(tail)


def _speaks_otherwise(answered: Answered, asked: Asked) -> bool:
    told = answered.language != "und" and asked.language != "und" and len(answered.text) > 80
    return told and answered.language != asked.language


def _parses(text: str, schema: Mapping[str, Any] | None) -> bool:
    try:
        return fits(json.loads(text), schema if schema is not None else True)
    except (ValueError, RecursionError):
        return False


_FAILS = {
    "refusal": _refuses,
    "truncated": _is_truncated,
    "json": _breaks_json,
    "tool_arguments": _breaks_tools,
    "repetition": _repeats_itself,
    "language": _speaks_otherwise,
}
