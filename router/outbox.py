"""What one turn of the event loop has to send, sent together.

Whoever is sent something wakes, and sleeps again before the next request has been worked on: waking a core that sleeps
costs the sender as much as the sending does. So what is ready while others have not had their turn waits for the last
of them, as servers that answer at the end of a turn do. Streams do not wait: their first token is what is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Final

from router.haste import HASTE, Haste

MOST: Final = 32
"""So many are sent together."""

LONGEST: Final = 0.002
"""Seconds after which what waits is sent as soon as something else is ready: a request may take long to be read."""


class Outbox:
    """What waits to be sent, in order: calls that send it. ``clock`` gives seconds."""

    __slots__ = ("_clock", "_haste", "_held", "_since")

    def __init__(self, haste: Haste, clock: Callable[[], float] = perf_counter) -> None:
        self._haste, self._clock = haste, clock
        self._held: list[Callable[[], None]] = []
        self._since = 0.0

    def post(self, send: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Have something sent: now where nobody presses, else with what they send, or when the loop comes round."""
        held = self._held
        if self._haste.pressing and len(held) < MOST - 1:
            now = self._clock()
            if not held:
                self._since = now
                loop.call_soon(self._empty)
            if now - self._since < LONGEST:
                held.append(send)
                return
        if held:
            self._empty()
        send()

    def _empty(self) -> None:
        held, self._held = self._held, []
        for send in held:
            send()


OUTBOX: Final = Outbox(HASTE)
"""That of this process, which has one event loop."""
