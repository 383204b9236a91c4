"""The attempts of one request, as they end, and what those said whose backends did not tell how much it was."""

from __future__ import annotations

from typing import NamedTuple

from policies.money import Price
from policies.values import Attempt, Usage
from router.usage import Said


class Uncounted(NamedTuple):
    """An attempt whose backend reported no usage: it has ``usage``, this very object, as a first estimate.

    ``said`` is what it answered, None where that is nothing, and ``price`` its backend's.
    """

    usage: Usage
    said: Said | None
    price: Price | None


class Trail(list[Attempt]):
    """Attempts in the order in which they ended; ``uncounted`` are to be counted by `router.ledger.counting`."""

    def __init__(self) -> None:
        self.uncounted: list[Uncounted] = []

    def last_used(self) -> Attempt | None:
        """The last attempt that used anything, or may have."""
        for attempt in reversed(self):
            if attempt.usage is not None:
                return attempt
        return None
