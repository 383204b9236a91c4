"""How many calls one backend takes at once, and who waits when it takes no more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from router.errors import UpstreamError

_FEWEST_PLACES = 16
"""How many may wait at least, however few slots there are."""

_MEMORY = 0.2
"""The weight of the newest call in the running mean of how long a call holds its slot."""


class Slots:
    """``limit`` slots, and places to wait for one, first come first served.

    Nobody joins the queue who would, going by how long calls have lately held a slot, wait longer than they can.
    ``clock`` gives seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.places = max(_FEWEST_PLACES, limit)
        self.in_flight = 0
        self._clock = clock
        self._held_for: float | None = None
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> bool:
        """Whether a call would be let in at once."""
        return self.in_flight < self.limit and not self._queue

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    def expected_wait(self) -> float:
        """Seconds until a call that came now would have a slot."""
        if self.free:
            return 0.0
        return (len(self._queue) + 1) * (self._held_for or 0.0) / self.limit

    async def take(self, patience: float) -> None:
        """Take a slot, waiting at most ``patience`` seconds. Raises `UpstreamError` of kind ``full``."""
        if self.in_flight < self.limit and not self._queue:
            self.in_flight += 1
            return
        wait = self.expected_wait()
        if wait > patience or len(self._queue) >= self.places:
            raise self._full(wait)
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._queue.append(turn)
        timer = loop.call_later(patience, _give_up, turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._forget(turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()
            raise
        except TimeoutError:
            self._forget(turn)
            raise self._full(self.expected_wait()) from None
        finally:
            timer.cancel()

    def give_back(self, held_for: float) -> None:
        """Return a slot that was held for this many seconds; the first in the queue has it."""
        mean = self._held_for
        self._held_for = held_for if mean is None else mean + _MEMORY * (held_for - mean)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1

    def _forget(self, turn: asyncio.Future[None]) -> None:
        if turn in self._queue:
            self._queue.remove(turn)

    def _full(self, wait: float) -> UpstreamError:
        message = "The backend is full and its queue is too long."
        return UpstreamError("full", message, phase="connect", retry_after=wait)


def _give_up(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())
