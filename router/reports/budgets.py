"""Where budgets stand: what each subject has spent of each window, and what the policy allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import reduce
from typing import Any

from policies import money
from policies.schema import Budget
from router.ledger.budgets import account
from router.ledger.sums import BUDGET_FIELD, merge, merge_all, unpack_vector


@dataclass(frozen=True, slots=True)
class Standing:
    """One budget of one subject in one window. ``limits`` is None where the policy at hand does not have the budget."""

    budget: str
    subject: str
    since: datetime
    nanos: int
    tokens: int
    requests: int
    limits: Budget | None = None

    @property
    def share(self) -> float | None:
        """The largest share that is spent of any of its limits."""
        if self.limits is None:
            return None
        spent = ((self.nanos, self.limits.usd and money.nanos(self.limits.usd)), (self.tokens, self.limits.tokens),
                 (self.requests, self.limits.requests))  # fmt: skip
        return max((used / limit for used, limit in spent if limit), default=None)


def standings(
    sums: Iterable[tuple[int, str, bytes]],
    zone: tzinfo | None,
    budgets: Sequence[Budget] = (),
    now: datetime | None = None,
) -> list[Standing]:
    """Where budgets stand, from packed sums; with ``now``, only windows of the given budgets that are open then.

    A window that rolls is then one line, from the oldest part of it that anything was spent in.
    """
    limits = {budget.name: budget for budget in budgets}
    found: list[Standing] = []
    rolling: dict[tuple[str, str], list[tuple[datetime, bytes]]] = {}
    for (_, name), packed in merge_all(sums).items():
        if not name.startswith(BUDGET_FIELD):
            continue
        _, budget, subject, start = name.split("\x1f")
        since = datetime.fromtimestamp(int(start), tz=zone)
        if now is not None and budget in limits:
            open_now = account(limits[budget], subject, now)
            if name not in (open_now.field, *open_now.earlier):
                continue
            if open_now.rolling is not None:
                rolling.setdefault((budget, subject), []).append((since, packed))
                continue
        found.append(_standing(budget, subject, since, packed, limits.get(budget)))
    for (budget, subject), parts in rolling.items():
        spent = reduce(merge, (packed for _, packed in parts))
        found.append(_standing(budget, subject, min(since for since, _ in parts), spent, limits[budget]))
    return sorted(found, key=lambda standing: (standing.budget, standing.since, standing.subject))


def _standing(budget: str, subject: str, since: datetime, packed: bytes, limits: Budget | None) -> Standing:
    dollars, rest, tokens, requests = unpack_vector(packed)
    return Standing(budget, subject, since, dollars * money.NANOS_PER_USD + rest, tokens, requests, limits)


def as_rows(found: Sequence[Standing]) -> list[Mapping[str, Any]]:
    """The standings as plain values."""
    return [
        {
            "budget": standing.budget,
            "subject": standing.subject,
            "since": standing.since.isoformat(),
            "spent_nanos": standing.nanos,
            "spent_usd": float(money.usd(standing.nanos)),
            "tokens": standing.tokens,
            "requests": standing.requests,
            "per": standing.limits.per if standing.limits else None,
            "limit_usd": float(standing.limits.usd) if standing.limits and standing.limits.usd is not None else None,
            "limit_tokens": standing.limits.tokens if standing.limits else None,
            "limit_requests": standing.limits.requests if standing.limits else None,
            "share": standing.share,
        }
        for standing in found
    ]
