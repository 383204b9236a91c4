"""What the store is to the rest of the proxy, without the client library behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Protocol

from policies.values import Session


class StoreAway(Exception):
    """The store did not do what was asked: down, slow, read-only, full or failing over. The text says which."""


class Store(Protocol):
    """What the data path asks of the store; every answer is bounded in time and none raises."""

    @property
    def ready(self) -> bool:
        """Whether the store answered when last asked."""

    async def session(self, conversation: str, turns: int = 2) -> Session | None:
        """What is remembered of a conversation that has come to ``turns`` user turns; None when nothing is known."""

    def remember(self, conversation: str, session: Session, ttl: timedelta) -> None:
        """Remember a conversation's session."""

    async def spent_today(self, timezone: str = "UTC") -> Decimal:
        """Dollars spent since midnight in a time zone, as far as the store has been told."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Packed sums by (hour, field), and the number up to which each journal is in them, read at one moment."""

    sums: tuple[tuple[int, str, bytes], ...]
    applied: Mapping[str, int]
