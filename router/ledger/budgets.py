"""Budgets: who a request is charged to, and in which window. Pure; the arithmetic under concurrency is the store's.

A request reserves its worst case from every budget that it counts against before it is dispatched. What it really cost
reaches the budget with its entry, in the same batch that gives back what it held, so that a budget is charged exactly
once, offline too, and never looks emptier than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import ceil
from typing import Final

from policies import money
from policies.schema import Backend, Budget
from policies.values import Attempt, Entry, Features
from router.ledger.sums import BUDGET_FIELD, pack_vector

_INPUT_MARGIN = Decimal("1.25")
_LONGEST_ANSWER = 16_384
PARTS = 24
"""Parts that a rolling window is kept in. A part counts until all of it has left, so up to a part more is counted."""

_PERIODS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1)}


@dataclass(frozen=True, slots=True)
class Amount:
    """What is spent or held of a budget."""

    nanos: int
    tokens: int
    requests: int = 1


@dataclass(frozen=True, slots=True)
class Account:
    """One budget for one subject in one window. ``name`` is what `policies.values.View.exceeded` calls it."""

    budget: str
    subject: str
    name: str
    since: datetime
    until: datetime
    rolling: timedelta | None = None

    @property
    def field(self) -> str:
        """Its name among packed sums, and in the store."""
        return self._field(0)

    @property
    def earlier(self) -> tuple[str, ...]:
        """The fields of the parts that count beside this one where the window rolls, the oldest first."""
        return tuple(map(self._field, range(self._parts, 0, -1)))

    @property
    def lasting(self) -> str:
        """What stays the same while the account lasts: without the part where the window rolls."""
        return self.field if self.rolling is None else "\x1f".join((self.budget, self.subject))

    @property
    def ends(self) -> datetime:
        """When nothing of this account counts any more."""
        return self.until + self._parts * (self.until - self.since)

    @property
    def _parts(self) -> int:
        return 0 if self.rolling is None else ceil(self.rolling / (self.until - self.since))

    def _field(self, ago: int) -> str:
        since = self.since - ago * (self.until - self.since)
        return "\x1f".join((BUDGET_FIELD, self.budget, self.subject, str(int(since.timestamp()))))

    @property
    def hour(self) -> int:
        """The hour that its sums are kept under: that of the window's beginning."""
        return int(self.since.timestamp()) // 3600


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request may take from a budget's account at most."""

    budget: Budget
    account: Account
    amount: Amount

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """The budget's limits in nano-dollars, tokens and requests; None where it has none."""
        usd = self.budget.usd
        return None if usd is None else money.nanos(usd), self.budget.tokens, self.budget.requests


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to a reservation. ``exceeded`` is empty when it was made, and then ``holds`` are to be given back.

    ``exceeded`` names accounts as `policies.values.View.exceeded` does. ``retry_after`` is the seconds after which the
    same claims would be granted if nobody else came in between: once so much of what was spent has left the window, and
    so many of what others hold has left it or expired. It is sooner where others use less than they hold; None where it
    is never, because the claims alone are more than a budget allows.
    """

    claims: tuple[Claim, ...] = ()
    holds: tuple[tuple[str, str], ...] = ()
    exceeded: tuple[str, ...] = ()
    retry_after: float | None = 0.0


NOTHING_HELD: Final = Grant()
"""The answer to no claims."""


def window(per: str, now: datetime) -> tuple[datetime, datetime]:
    """The minute, hour, day or month around a moment, in its time zone: when it begins and when the next one does."""
    if per in _PERIODS:
        start = now.replace(second=0, microsecond=0, minute=now.minute if per == "minute" else 0)
        return start, (start.astimezone(UTC) + _PERIODS[per]).astimezone(now.tzinfo)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if per == "day":
        return start, start + timedelta(days=1)
    start = start.replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def part(length: timedelta, now: datetime) -> tuple[datetime, datetime]:
    """The part of a rolling window around a moment: whole seconds, counted from 1970."""
    seconds = ceil(length.total_seconds() / PARTS)
    since = int(now.timestamp()) // seconds * seconds
    return datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(since + seconds, UTC)


def account(budget: Budget, subject: str, now: datetime) -> Account:
    """A budget's account for a subject at a moment."""
    rolling = budget.rolling
    since, until = window(budget.per, now) if rolling is None else part(rolling, now)
    limited = budget.scope in ("tier", "model")
    return Account(budget.name, subject, f"{budget.name}/{subject}" if limited else budget.name, since, until, rolling)


def claims(
    budgets: Sequence[Budget], features: Features, tier: str, backend: Backend, now: datetime
) -> tuple[Claim, ...]:
    """What a request that is about to go to a backend claims at worst from the budgets that it counts against."""
    subjects = {"policy": "", "key": features.key_id, "tier": tier, "model": backend.model}
    amount = worst_case(backend, features)
    return tuple(Claim(budget, account(budget, subjects[budget.scope], now), amount) for budget in budgets)


def worst_case(backend: Backend, features: Features) -> Amount:
    """The most that a request can come to: its input, with a margin for our estimate of it, and the longest answer.

    An answer is at most what was asked for, what the backend can say, or what its window has room for. A backend
    without a price holds no dollars: what it costs is unknown.
    """
    given = int(features.input_tokens * _INPUT_MARGIN) + 1
    room = backend.context_window - features.input_tokens if backend.context_window else None
    bounds = [bound for bound in (features.max_output_tokens, backend.max_output_tokens, room) if bound is not None]
    answer = max(1, min(bounds, default=_LONGEST_ANSWER)) * max(1, features.choices)
    price = money.price_of(backend)
    if isinstance(price, money.GpuRates):
        alone = price.hour * answer / price.tokens_per_second / 3600
        return Amount(money.nanos(alone), given + answer)
    cost = money.expected_cost(price, given, answer)
    return Amount(0 if cost is money.UNPRICED else money.nanos(cost), given + answer)


def charges(grant: Grant, entry: Entry) -> dict[tuple[int, str], bytes]:
    """What an entry adds to its budgets, as packed sums. A tier or a model pays for its own attempts."""
    packed: dict[tuple[int, str], bytes] = {}
    for claim in grant.claims:
        scope = claim.budget.scope
        subjects = {claim.account.subject}
        if scope in ("tier", "model"):
            subjects = {getattr(attempt, scope) for attempt in entry.attempts}
        for subject in subjects:
            charged = account(claim.budget, subject, claim.account.since)
            paying = [a for a in entry.attempts if scope in ("policy", "key") or getattr(a, scope) == subject]
            packed[charged.hour, charged.field] = _vector(paying)
    return packed


def _vector(attempts: Sequence[Attempt]) -> bytes:
    nanos = sum(attempt.cost_nanos or 0 for attempt in attempts)
    used = [attempt.usage for attempt in attempts if attempt.usage is not None]
    tokens = sum(usage.input_tokens + usage.output_tokens for usage in used)
    return pack_vector((*divmod(nanos, money.NANOS_PER_USD), tokens, int(bool(attempts))))
