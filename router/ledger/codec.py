"""Entry ⇄ JSON. Whole entries, so that a decision can be replayed from one (invariant 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from policies.frozen import replacer
from policies.values import Entry, Features

_ENTRY = TypeAdapter(Entry)
_with_features = replacer(Entry, "features")
_with_content = replacer(Features, "text", "last_text", "system_text", "headers")
_T = TypeVar("_T")
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"})


def encode(entry: Entry) -> bytes:
    """An entry as one line of JSON. What is not Unicode in it (lone surrogates) becomes question marks.

    Fields that have their default are left out: that is nearly half of an entry, and writing it is most of its cost.
    """
    try:
        return _ENTRY.dump_json(entry, exclude_defaults=True)
    except PydanticSerializationError:
        return _ENTRY.dump_json(_as_unicode(entry), exclude_defaults=True)


def _as_unicode(value: _T) -> _T:
    clean: object = value
    if isinstance(value, str):
        clean = value.encode(errors="replace").decode()
    elif is_dataclass(value) and not isinstance(value, type):
        clean = replace(value, **{field.name: _as_unicode(getattr(value, field.name)) for field in fields(value)})
    elif isinstance(value, Mapping):
        clean = {_as_unicode(name): _as_unicode(item) for name, item in value.items()}
    elif isinstance(value, (tuple, frozenset)):
        clean = type(value)(map(_as_unicode, value))
    return clean  # type: ignore[return-value]


def decode(line: bytes | str) -> Entry:
    """The entry that `encode` wrote; fields that are not there take their defaults. Raises `ValueError`."""
    return _ENTRY.validate_json(line)


def with_content(entries: Iterable[Entry]) -> list[int]:
    """The places of entries that have something that users wrote, or headers."""
    kept = enumerate([entry.features for entry in entries])
    return [place for place, some in kept if some.text or some.last_text or some.system_text or some.headers]


def without_content(entry: Entry) -> Entry:
    """The entry without anything that users wrote and without headers that hold secrets (invariant 9)."""
    features = entry.features
    headers = {name: text for name, text in features.headers.items() if name.lower() not in _SECRET_HEADERS}
    return _with_features(entry, _with_content(features, "", "", "", headers))
