"""One timer for many deadlines: requests come by the thousand, and hardly one of their deadlines ever passes."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

TICK: Final = 0.01
"""Seconds by which a deadline may be late."""


class Due(Protocol):
    """Something with a deadline."""

    def look(self, now: float) -> None:
        """See whether the time is up, at ``now`` on the event loop's clock."""


class Wheel:
    """Deadlines on one event loop's clock, in slots of one `TICK` each, turned by a timer while there are any.

    A deadline costs two entries in a set; a timer of its own would cost the loop some ten times that.
    """

    __slots__ = ("_slots", "_turned", "_turning", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._slots: dict[int, set[Due]] = {}
        self._turned = 0
        self._turning = False

    def add(self, due: Due, at: float) -> int:
        """Have ``due`` look once at a moment, never before it; returns the slot that it is in."""
        if not self._turning:
            self._turning = True
            self._turned = int(self.loop.time() / TICK)
            self.loop.call_later(TICK, self._turn)
        place = int(at / TICK) + 1
        if place <= self._turned:
            place = self._turned + 1
        slot = self._slots.get(place)
        if slot is None:
            self._slots[place] = {due}
        else:
            slot.add(due)
        return place

    def remove(self, due: Due, place: int) -> None:
        """Forget it."""
        slot = self._slots.get(place)
        if slot is not None:
            slot.discard(due)
            if not slot:
                del self._slots[place]

    def _turn(self) -> None:
        time = self.loop.time()
        while self._turned < int(time / TICK):
            self._turned += 1
            for due in self._slots.pop(self._turned, ()):
                due.look(time)
        self._turning = bool(self._slots)
        if self._turning:
            self.loop.call_later(TICK, self._turn)
