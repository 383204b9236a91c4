"""When a backend says to come back: ``Retry-After`` and its many dialects, as seconds from now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m(?!s)": 60.0, "s": 1.0, "ms": 0.001}
_SPAN = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _UNITS))
_EPOCH = 1_000_000_000
"""A bare number above this is a Unix time, below it a number of seconds."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, from lower-case response headers; None where they name no time. ``now`` is Unix time.

    ``retry-after-ms`` is the most precise, then ``retry-after`` (seconds or an HTTP date, RFC 9110 §10.2.3), then the
    reset time of whichever rate limit has nothing remaining (``x-ratelimit-reset-requests``, ``-tokens`` or plain).
    """
    exact = _number(headers.get("retry-after-ms"))
    if exact is not None:
        return max(0.0, exact / 1000)
    stated = headers.get("retry-after")
    if stated is not None:
        wait = _moment(stated, now)
        if wait is not None:
            return max(0.0, wait)
    resets = {
        name: wait
        for name, value in headers.items()
        if "ratelimit-" in name and "reset" in name and (wait := _moment(value, now)) is not None
    }
    spent = [wait for name, wait in resets.items() if _number(headers.get(name.replace("reset", "remaining"))) == 0]
    if spent or resets:
        return max(0.0, max(spent) if spent else min(resets.values()))
    return None


def _moment(value: str, now: float) -> float | None:
    """Seconds from now: a number, a Unix time, a span such as ``6m0s``, an ISO 8601 or an HTTP date."""
    value = value.strip()
    number = _number(value)
    if number is not None:
        return number - now if number > _EPOCH else number
    span = _SPAN.fullmatch(value)
    if span is not None and value:
        return sum(float(part) * unit for part, unit in zip(span.groups(), _UNITS.values(), strict=True) if part)
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return read(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            continue
    return None


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and number - number == 0 else None
