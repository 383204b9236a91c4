"""One timer for all phases of an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from policies.values import Phase
from router.errors import UpstreamError

T = TypeVar("T")

_SLACK = 0.001
"""Timers may fire this many seconds early."""

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
    """Bounds every wait for a backend, with one `loop.call_at` per phase rather than a task or a timeout per wait.

    A phase has an ``end`` that nothing moves, and a ``gap``: the longest silence, counted only while somebody waits for
    the backend, not while a slow client is written to. Times are those of the event loop. ``on_end`` is called when the
    end passes while nobody waits.
    """

    __slots__ = ("_cancelling", "_end", "_fired", "_gap", "_handle", "_loop", "_on_end", "_since", "_task", "phase")

    def __init__(self, loop: asyncio.AbstractEventLoop, end: float, on_end: Callable[[], None]) -> None:
        self.phase: Phase = "connect"
        self._loop = loop
        self._end, self._gap = end, float("inf")
        self._on_end = on_end
        self._since = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._fired = False
        self._handle: asyncio.TimerHandle | None = loop.call_at(end, self._fire)

    def enter(self, phase: Phase, end: float, gap: float = float("inf")) -> None:
        """Go on to another phase. Does nothing once the watch is over."""
        if self._handle is None:
            return
        self._handle.cancel()
        self.phase, self._end, self._gap = phase, end, gap
        self._since = now = self._loop.time()
        self._handle = self._loop.call_at(min(end, now + gap), self._fire)

    def touch(self) -> None:
        """Begin to count silence anew."""
        self._since = self._loop.time()

    def close(self) -> None:
        """Stop the timer, and let go of whoever watches: it holds us too, and circles wait for the collector."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._on_end = _nobody_watches

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait for the backend. Raises `UpstreamError` of kind ``timeout`` when the phase's time is up."""
        task = asyncio.current_task()
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

    def _fire(self) -> None:
        now = self._loop.time() + _SLACK
        waiting = self._task is not None
        due = min(self._end, self._since + self._gap) if waiting else self._end
        if now < due:
            later = due if waiting else min(due, now + self._gap)
            self._handle = self._loop.call_at(later, self._fire)
            return
        self._handle = None
        if self._task is None:
            self._on_end()
        elif self._task.cancelling() <= self._cancelling:
            self._fired = True
            self._task.cancel()
