"""What the store is to the rest of the proxy, without the client library behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from policies.values import Session

if TYPE_CHECKING:
    from router.ledger.budgets import Claim, Grant


class StoreAway(Exception):
    """The store did not do what was asked: down, slow, read-only, full or failing over. The text says which."""


class Store(Protocol):
    """What the data path asks of the store; every answer is bounded in time and none raises."""

    @property
    def ready(self) -> bool:
        """Whether the store answered when last asked."""

    async def session(self, conversation: str, turns: int = 2) -> Session | None:
        """What is remembered of a conversation that has come to ``turns`` user turns; None when nothing is known."""

    def remember(self, conversation: str, session: Session, seconds: int) -> None:
        """Remember a conversation's session for so long."""

    async def reserve(self, request_id: str, claims: Sequence[Claim], patience: timedelta) -> Grant:
        """Take a request's worst case from all its budgets, or from none and say which stand in the way."""

    def rest(self, backend: str, seconds: float) -> None:
        """Tell the other proxies that a backend rests."""

    def rests(self) -> Mapping[str, float]:
        """Until when backends rest, as Unix times, as far as any proxy has told."""

    def spent_today(self, timezone: str = "UTC") -> Decimal:
        """Dollars spent since midnight in a time zone, as far as the store has been told."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Packed sums by (hour, field), and how far each chapter of a journal is in them, read at one moment."""

    sums: tuple[tuple[int, str, bytes], ...]
    applied: Mapping[str, int]
