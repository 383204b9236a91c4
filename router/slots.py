"""How many calls a backend, or a tier of them, takes at once, and who waits when it takes no more."""

from __future__ import annotations

import asyncio
from collections import deque

from router.errors import UpstreamError

_FEWEST_PLACES = 16
"""How many may wait at least, however few slots there are."""

_MEMORY = 0.2
"""The weight of the newest call in the running mean of how long a call holds its slot."""


class Slots:
    """``limit`` slots, and places to wait for one, first come first served.

    Nobody joins the queue who would, going by how long calls have lately held a slot, wait longer than they can.
    ``within`` are slots of a larger whole: whoever takes one here has one there too. ``what`` names whose they are.
    """

    def __init__(self, limit: int, within: Slots | None = None, what: str = "backend") -> None:
        self.limit = limit
        self.places = max(_FEWEST_PLACES, limit)
        self.within = within
        self.in_flight = 0
        self._what = what
        self._held_for: float | None = None
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> bool:
        """Whether a call would be let in at once."""
        return self.in_flight < self.limit and not self._queue and (self.within is None or self.within.free)

    @property
    def load(self) -> int:
        """How many calls hold a slot or wait for one."""
        return self.in_flight + len(self._queue)

    def expected_wait(self) -> float:
        """Seconds until a call that came now would have a slot."""
        outside = self.within.expected_wait() if self.within is not None else 0.0
        return max(outside, self._wait())

    def _wait(self) -> float:
        if self.in_flight < self.limit and not self._queue:
            return 0.0
        return (len(self._queue) + 1) * (self._held_for or 0.0) / self.limit

    def grab(self) -> bool:
        """Take a slot if one is free at once, and say whether it was."""
        if self.in_flight >= self.limit or self._queue:
            return False
        if self.within is not None and not self.within.free:
            return False
        slots: Slots | None = self
        while slots is not None:
            slots.in_flight += 1
            slots = slots.within
        return True

    async def take(self, patience: float) -> None:
        """Take a slot, waiting at most ``patience`` seconds. Raises `UpstreamError` of kind ``full``."""
        if self.within is None:
            return await self._take(patience)
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        await self.within.take(patience)
        try:
            await self._take(end - loop.time())
        except BaseException:
            self.within.give_back(None)
            raise

    async def _take(self, patience: float) -> None:
        if self.in_flight < self.limit and not self._queue:
            self.in_flight += 1
            return
        wait = self._wait()
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
            raise self._full(self._wait()) from None
        finally:
            timer.cancel()

    def give_back(self, held_for: float | None) -> None:
        """Return a slot that was held for this many seconds, None where no call was made; the next in line has it."""
        if held_for is not None:
            mean = self._held_for
            self._held_for = held_for if mean is None else mean + _MEMORY * (held_for - mean)
        if self._queue:
            self._pass_on()
        else:
            self.in_flight -= 1
        if self.within is not None:
            self.within.give_back(held_for)

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
        message = f"The {self._what} is full and its queue is too long."
        return UpstreamError("full", message, phase="connect", retry_after=wait)


def _give_up(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())
