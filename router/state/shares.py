"""What one proxy may spend of a budget while the store is away: an equal share of what was left when last asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from router.ledger.budgets import Claim

_Limits = tuple[int | None, int | None, int | None]


@dataclass(slots=True)
class _Account:
    until: float
    left: _Limits
    taken: list[int] = field(default_factory=lambda: [0, 0, 0])


class LocalShares:
    """Shares of accounts, by account. Together, proxies that are apart do not spend more than was left."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def know(self, claim: Claim, left: _Limits) -> None:
        """Take note of what the store says is left of an account: nano-dollars, tokens, requests; None has no limit."""
        self._accounts[claim.account.lasting] = _Account(claim.account.ends.timestamp(), left)

    def take(self, claims: Sequence[Claim], proxies: int, now: float) -> tuple[tuple[str, float | None], ...]:
        """Take a request's worst case from all its accounts, or from none and name those whose share is too small.

        With each comes the seconds until a new share is due that is large enough; None where none ever will be.
        """
        accounts = [self._account(claim, now) for claim in claims]
        over = tuple(
            (claim.account.name, account.until - now if _fits(claim, claim.limits, proxies) else None)
            for claim, account in zip(claims, accounts, strict=True)
            if not _fits(claim, account.left, proxies, account.taken)
        )
        if not over:
            for claim, account in zip(claims, accounts, strict=True):
                account.taken = [taken + amount for taken, amount in zip(account.taken, _amounts(claim), strict=True)]
        return over

    def _account(self, claim: Claim, now: float) -> _Account:
        name = claim.account.lasting
        known = self._accounts.get(name)
        if known is None or known.until <= now:
            known = self._accounts[name] = _Account(claim.account.ends.timestamp(), claim.limits)
        return known

    def forget(self, now: float) -> None:
        """Let go of accounts whose window has ended."""
        self._accounts = {name: account for name, account in self._accounts.items() if account.until > now}


def _amounts(claim: Claim) -> tuple[int, int, int]:
    return claim.amount.nanos, claim.amount.tokens, claim.amount.requests


def _fits(claim: Claim, limits: _Limits, proxies: int, taken: Sequence[int] = (0, 0, 0)) -> bool:
    return all(
        limit is None or spent + amount <= limit // max(1, proxies)
        for limit, spent, amount in zip(limits, taken, _amounts(claim), strict=True)
    )
