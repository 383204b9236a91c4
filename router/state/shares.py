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

    def take(self, claims: Sequence[Claim], proxies: int) -> tuple[str, ...]:
        """Take a request's worst case from all its accounts, or from none and name those whose share is too small."""
        accounts = [self._account(claim) for claim in claims]
        wanted = [(claim.amount.nanos, claim.amount.tokens, claim.amount.requests) for claim in claims]
        over = tuple(
            claim.account.name
            for claim, account, amounts in zip(claims, accounts, wanted, strict=True)
            if not all(
                left is None or taken + amount <= left // max(1, proxies)
                for left, taken, amount in zip(account.left, account.taken, amounts, strict=True)
            )
        )
        if not over:
            for account, amounts in zip(accounts, wanted, strict=True):
                account.taken = [taken + amount for taken, amount in zip(account.taken, amounts, strict=True)]
        return over

    def forget(self, now: float) -> None:
        """Let go of accounts whose window has ended."""
        self._accounts = {name: account for name, account in self._accounts.items() if account.until > now}

    def _account(self, claim: Claim) -> _Account:
        known = _Account(claim.account.ends.timestamp(), claim.limits)
        return self._accounts.setdefault(claim.account.lasting, known)
