"""Spare reservations: what the store has put aside for requests of one proxy that have not come yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

LASTS: Final = 5
"""Seconds for which spare reservations are taken, before what is left of them is given back."""

_MOST = 256
_SHORTEST = 0.01
Amounts: TypeAlias = tuple[tuple[int, int, int], ...]
"""Nano-dollars, tokens and requests, from each account."""


@dataclass(slots=True)
class Spares:
    """``left`` reservations of the same ``amounts``, the members ``id.1`` to ``id.left`` of each account's holds.

    Until ``until``, on `time.monotonic`, each is held for at least ``patience`` from then on.
    """

    id: str
    amounts: Amounts
    left: int
    patience: timedelta
    until: float

    @property
    def held(self) -> list[str]:
        """What one of them holds of each account, as members of the store's sets end."""
        return [":".join(map(str, amounts)) for amounts in self.amounts]

    def fit(self, amounts: Amounts, patience: timedelta, now: float) -> bool:
        """Whether one of them does for a request."""
        return (
            self.left > 0
            and now <= self.until
            and patience <= self.patience
            and all(a[0] >= b[0] and a[1] >= b[1] and a[2] >= b[2] for a, b in zip(self.amounts, amounts, strict=True))
        )

    def take(self) -> list[str]:
        """The members of one reservation, which then is not spare any more."""
        name = f"{self.id}.{self.left}"
        self.left -= 1
        return [f"{name}:{held}" for held in self.held]


class Stock:
    """The spare reservations from one group of accounts, and how fast they are used."""

    __slots__ = ("_at", "_left_over", "_seen", "_since", "_spares", "accounts", "most")

    def __init__(self, accounts: Sequence[str], now: float) -> None:
        self.accounts = accounts
        self.most: Amounts = ()
        self._spares: Spares | None = None
        self._left_over: list[Spares] = []
        self._seen, self._since, self._at = 0, now, now

    def take(self, amounts: Amounts, patience: timedelta, now: float) -> Sequence[str] | None:
        """The members of a spare reservation that does for a request, for each account; None where there is none.

        ``most`` becomes the largest amounts that were asked for lately, which spare ones are to have.
        """
        self._seen += 1
        self._at = now
        both = zip(self.most or amounts, amounts, strict=True)
        self.most = tuple((max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])) for a, b in both)
        spares = self._spares
        return spares.take() if spares is not None and spares.fit(amounts, patience, now) else None

    def wanted(self, now: float) -> int:
        """How many to ask for: as many as are used while they last, at the pace since this was last asked.

        None where some are left, or have just been asked for.
        """
        spares, passed = self._spares, now - self._since
        if (spares is not None and spares.left and now <= spares.until) or passed < _SHORTEST:
            return 0
        seen, self._seen, self._since = self._seen, 0, now
        return min(_MOST, int(seen / passed * LASTS))

    def put(self, spares: Spares) -> None:
        """Have these from now on; those from before are left over."""
        self.most = ()
        if self._spares is not None:
            self._left_over.append(self._spares)
        self._spares = spares

    def left_over(self, now: float) -> list[Spares]:
        """What is to be given back, once: all that is not taken any more by this time."""
        if self._spares is not None and self._spares.until < now:
            self._left_over.append(self._spares)
            self._spares = None
        left_over, self._left_over = self._left_over, []
        return [spares for spares in left_over if spares.left]

    @property
    def empty(self) -> bool:
        """Whether all that was spare has been given back."""
        return self._spares is None

    def stale(self, now: float) -> bool:
        """Whether there is something to give back, or to forget."""
        spares = self._spares
        return now - self._at > 2 * LASTS if spares is None else spares.until < now or bool(self._left_over)

    def idle(self, now: float) -> bool:
        """Whether nobody has asked for a while and nothing is left."""
        return self._spares is None and now - self._at > 2 * LASTS
