"""From readings of an engine's metrics to what it says of itself: an `EngineView`. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from policies.values import EngineView
from router.engines.engine import COUNTERS, GAUGES

WINDOW = 60.0
"""Seconds over which counters are compared."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An engine's quantities as they were at one moment, in seconds of any steady clock."""

    at: float
    values: Mapping[str, float]


class History:
    """An engine's latest readings. A counter that fell means that the engine started again: what was before is over."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> bool:
        """Take the newest reading; whether the engine has started again. What is older than the window goes."""
        readings = self._readings
        counted = COUNTERS & reading.values.keys()
        restarted = any(reading.values[name] < older.values.get(name, 0.0) for older in readings for name in counted)
        if restarted:
            readings.clear()
        readings.append(reading)
        while len(readings) > 2 and readings[1].at <= reading.at - WINDOW:
            readings.popleft()
        return restarted

    def view(self, ours: int) -> EngineView:
        """What the readings say; ``ours`` is how many requests this proxy had there when the newest was taken."""
        if not self._readings:
            return EngineView()
        now = self._readings[-1].values
        gauges = {name: now.get(name) for name in GAUGES}
        requests = [count for count in (gauges["waiting"], gauges["running"]) if count is not None]
        if (told := gauges["tokens_per_pass"]) is not None and told < 1:
            # Every pass yields the target's own token: less is what an engine says that drafts nothing.
            gauges |= {"tokens_per_pass": None, "draft_acceptance": None}
        hits, missed, queries = (self._grown(f"prefix_{name}") for name in ("hits", "misses", "queries"))
        if queries is None and missed is not None:
            queries = missed + (hits or 0.0)
        elif missed is None and queries is not None and hits is not None:
            missed = max(0.0, queries - hits)
        accepted, drafts = self._grown("accepted"), self._grown("drafts")
        per_pass = _ratio(accepted, drafts)
        derived = {
            "elsewhere": max(0.0, sum(requests) - ours) if requests else None,
            "prefix_hit_rate": _share(hits, queries),
            "draft_acceptance": _share(accepted, self._grown("drafted")),
            "draft_length": _ratio(self._grown("drafted"), drafts),
            "first_acceptance": _share(self._grown("accepted_first"), drafts),
            "tokens_per_pass": None if per_pass is None else 1 + per_pass,
            "ttft_ms": _thousand(_ratio(self._grown("ttft_seconds"), self._grown("ttft_count"))),
            "tokens_per_second": _ratio(self._grown("generated", since_start=False), self._seconds()),
            "requests_per_second": _ratio(self._grown("ttft_count", since_start=False), self._seconds()),
            "prefill_tokens_per_second": _ratio(missed, self._grown("prefill_seconds")),
        }
        return EngineView(**{**gauges, **{name: value for name, value in derived.items() if value is not None}})

    def _grown(self, counter: str, *, since_start: bool = True) -> float | None:
        """How far a counter has come within the window; of a single reading, since the engine started."""
        first, last = self._readings[0].values.get(counter), self._readings[-1].values.get(counter)
        if last is None:
            return None
        if len(self._readings) == 1 or first is None:
            return last if since_start and len(self._readings) == 1 else None
        return last - first

    def _seconds(self) -> float:
        return self._readings[-1].at - self._readings[0].at


def _ratio(part: float | None, whole: float | None) -> float | None:
    """Unknown where either is, and where nothing has happened."""
    return None if part is None or not whole else part / whole


def _share(part: float | None, whole: float | None) -> float | None:
    ratio = _ratio(part, whole)
    return None if ratio is None else min(1.0, ratio)


def _thousand(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
