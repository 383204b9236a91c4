"""Two windows side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.reports.report import Report, Row

_COMPARED = ("requests", "errors", "output_tokens", "cost_nanos", "baseline_nanos", "saving_nanos")


@dataclass(frozen=True, slots=True)
class Pair:
    """One group in both windows; None where it does not occur."""

    group: tuple[str, ...]
    before: Row | None
    now: Row | None

    def numbers(self, name: str) -> tuple[int, int]:
        """A figure before and now, 0 where the group does not occur."""
        return (getattr(self.before, name) if self.before else 0, getattr(self.now, name) if self.now else 0)


def pairs(before: Report, now: Report) -> list[Pair]:
    """Every group of either report, in the order of the later one, and the totals last."""
    then = {row.group: row for row in before.rows}
    here = {row.group: row for row in now.rows}
    groups = [*here, *(group for group in then if group not in here)]
    return [*(Pair(g, then.get(g), here.get(g)) for g in groups), Pair(("total",), before.total, now.total)]


def change(before: int, now: int) -> str:
    """How much more or less, as people read it."""
    return "" if before == now else "new" if not before else f"{(now - before) / before:+.1%}"


def compared(before: Report, now: Report) -> dict[str, Any]:
    """The comparison as plain values."""
    return {
        "before": _ends(before),
        "now": _ends(now),
        "by": list(now.by),
        "rows": [_plain(now.by, pair) for pair in pairs(before, now)[:-1]],
        "total": _plain((), pairs(before, now)[-1]),
    }


def _ends(report: Report) -> Mapping[str, str]:
    return {"since": report.window.since.isoformat(), "until": report.window.until.isoformat()}


def _plain(by: Sequence[str], pair: Pair) -> dict[str, Any]:
    group = dict(zip(by, pair.group, strict=True)) if by else {}
    return group | {name: dict(zip(("before", "now"), pair.numbers(name), strict=True)) for name in _COMPARED}
