"""The deadlines of all phases of an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from policies.values import Phase
from router.errors import UpstreamError
from router.wheel import Wheel

T = TypeVar("T")

_TOLD: dict[Phase, str] = {
    "connect": "The backend did not accept a connection in time.",
    "headers": "The backend did not begin to answer in time.",
    "first_token": "The backend sent no content in time.",
    "stream": "The backend stopped in the middle of its answer.",
    "done": "The backend did not end its answer in time.",
}


def _nobody_watches() -> None:
    """What a closed watch would call."""


class Watch:
    """Bounds every wait for a backend.

    A phase has an ``end`` that nothing moves, and a ``gap``: the longest silence, counted only while somebody waits for
    the backend, not while a slow client is written to. Times are those of the event loop. ``on_end`` is called when the
    end passes while nobody waits.
    """

    __slots__ = ("_cancelling", "_end", "_fired", "_gap", "_on_end", "_place", "_since", "_task", "_wheel", "phase")

    def __init__(self, wheel: Wheel, end: float, on_end: Callable[[], None]) -> None:
        self.phase: Phase = "connect"
        self._wheel = wheel
        self._end, self._gap = end, float("inf")
        self._on_end = on_end
        self._since = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._fired = False
        self._place: int | None = wheel.add(self, end)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it is on."""
        return self._wheel.loop

    def enter(self, phase: Phase, now: float, end: float, gap: float = float("inf")) -> None:
        """Go on to another phase. Does nothing once the watch is over."""
        if self._place is None:
            return
        self._wheel.remove(self, self._place)
        self.phase, self._end, self._gap, self._since = phase, end, gap, now
        self._place = self._wheel.add(self, min(end, now + gap))

    def touch(self, now: float) -> None:
        """Begin to count silence anew."""
        self._since = now

    def close(self) -> None:
        """Watch no longer, and let go of whoever watches: it holds us too, and circles wait for the collector."""
        if self._place is not None:
            self._wheel.remove(self, self._place)
            self._place = None
        self._on_end = _nobody_watches

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait for the backend. Raises `UpstreamError` of kind ``timeout`` when the phase's time is up."""
        task = asyncio.current_task(self._wheel.loop)
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        try:
            result = await awaitable
        except BaseException as error:
            if not self._fired:
                raise
            if task.uncancel() > self._cancelling and isinstance(error, asyncio.CancelledError):
                raise
            raise self.timed_out() from None
        finally:
            self._task = None
        if self._fired:
            task.uncancel()
            raise self.timed_out()
        return result

    def timed_out(self) -> UpstreamError:
        """The error of the present phase."""
        return UpstreamError("timeout", _TOLD[self.phase], phase=self.phase)

    def look(self, now: float) -> None:
        """See whether the time is up; the wheel calls this."""
        if self._place is None:
            return
        waiting = self._task is not None
        due = min(self._end, self._since + self._gap) if waiting else self._end
        if now < due:
            self._place = self._wheel.add(self, due if waiting else min(due, now + self._gap))
            return
        self._place = None
        if self._task is None:
            self._on_end()
        elif self._task.cancelling() <= self._cancelling:
            self._fired = True
            self._task.cancel()
