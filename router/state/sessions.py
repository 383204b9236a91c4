"""What is remembered of conversations in this process, for as long as it may be trusted.

In two generations: when the younger one is half as old as its sessions may get, or full, it takes the older one's
place. So no session needs a time of its own, and none that is out of date is sought and let go of by itself.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from policies.values import Session

NOT_KNOWN: Final = Session("", "")
"""Stands for what this process does not know; the store may."""
_YOUNG_KEPT: Final = 10_000


class Sessions:
    """Sessions by conversation; None is what the store said of a conversation that it knows nothing of."""

    def __init__(self) -> None:
        self._young: dict[str, Session | None] = {}
        self._old: dict[str, Session | None] = {}
        self._half = self._until = 0.0

    def find(self, conversation: str) -> Session | None:
        """What is known of a conversation; `NOT_KNOWN` where nothing is that may still be trusted."""
        if (now := monotonic()) >= self._until:
            self._grow(now)
        session = self._young.get(conversation, NOT_KNOWN)
        return self._old.get(conversation, NOT_KNOWN) if session is NOT_KNOWN else session

    def keep(self, conversation: str, session: Session | None, seconds: float) -> None:
        """Know a conversation, and those that are kept after it, for so many seconds at most and half of them at least.

        Not so long where 10,000 others are kept meanwhile.
        """
        now = monotonic()
        self._half = seconds / 2
        self._until = min(self._until, now + self._half)
        if now >= self._until or len(self._young) >= _YOUNG_KEPT:
            self._grow(now)
        self._young[conversation] = session

    def _grow(self, now: float) -> None:
        in_time = now < self._until + self._half
        self._old, self._young = self._young if in_time else {}, {}
        self._until = (min(now, self._until) if in_time else now) + self._half
