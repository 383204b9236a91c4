"""Durations as people write them: ``250ms``, ``2s``, ``10m``, ``1h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SHAPE = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse(text: object) -> timedelta:
    """Read a duration such as ``2s``. Raises `ValueError` that names the units when it cannot."""
    if isinstance(text, timedelta):
        return text
    match = _SHAPE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a duration: a number with a unit, one of ms, s, m, h, d (for example 30s)")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def show(duration: timedelta) -> str:
    """Write a duration the way `parse` reads it, in the largest unit that leaves no fraction."""
    milliseconds = round(duration / timedelta(milliseconds=1))
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


Duration: TypeAlias = Annotated[
    timedelta,
    BeforeValidator(parse),
    PlainSerializer(show, return_type=str),
    Field(ge=timedelta(0), json_schema_extra={"type": "string", "format": "", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$"}),
]
