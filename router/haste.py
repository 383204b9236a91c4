"""Who goes first where the event loop is behind: whoever has nothing yet, before streams that have begun.

The loop reads in each of its turns what has come for everybody, and would then work on all of it: who asks or is
answered meanwhile would wait for that, three times before a stream's first event. So what begins an answer is worked on
as it is read (`Waiter`), and turns are kept short (`Haste`): one begins with one request for a stream, so that answers
are seen before the next one begins, or sends on what has come of one stream, whose reader hardly notices.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

PATIENCE: Final = 4
"""Streams that have begun let so many go first, each time, who have nothing yet."""


class Waiter(asyncio.Future[None]):
    """A future that one task awaits, and with which it can go on at once, not only when the loop comes round."""

    _resume: Callable[[Waiter], object] | None = None
    _context: Context | None = None

    def add_done_callback(self, resume: Callable[[Waiter], object], /, *, context: Context | None = None) -> None:
        """asyncio: a task waits."""
        self._resume, self._context = resume, context

    def go(self) -> None:
        """Have the task go on: now, or soon where that would be within another task."""
        if self.done():
            return
        self.set_result(None)
        resume, self._resume = self._resume, None
        if resume is None or self._context is None:
            return
        loop = self.get_loop()
        if asyncio.current_task(loop) is None:
            self._context.run(resume, self)
        else:
            loop.call_soon(resume, self, context=self._context)

    def cancel(self, msg: Any = None) -> bool:
        """asyncio: the task is cancelled, and hears of it soon."""
        cancelled = super().cancel(msg)
        if cancelled and self._resume is not None:
            self.get_loop().call_soon(self._resume, self, context=self._context)
        return cancelled


class Haste:
    """Those who wait for a turn of the loop, in order: requests for a stream, and streams that have begun.

    ``pressing``: how many others, who have nothing yet either, the loop goes on with before it comes round; beside many
    of them a turn is long, and more than one who waits for it goes on in it.
    """

    __slots__ = ("_begun", "_coming", "_let_go", "_loop", "_new", "pressing")

    def __init__(self) -> None:
        self.pressing = 0
        self._new: deque[Waiter] = deque()
        self._begun: deque[Waiter] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._coming = False
        self._let_go = 0

    def begin(self, waiter: Waiter) -> None:
        """Have a request for a stream go on in a turn of its own."""
        self._come(waiter.get_loop())
        self._new.append(waiter)

    def turn(self, loop: asyncio.AbstractEventLoop) -> Waiter | None:
        """What a stream that has begun awaits before it goes on; None where nobody else has the turn."""
        if self._come(loop):
            return None
        waiter = Waiter(loop=loop)
        self._begun.append(waiter)
        return waiter

    def _come(self, loop: asyncio.AbstractEventLoop) -> bool:
        """See to it that there are turns, and say whether there were none. Who waited on another loop went with it."""
        if loop is not self._loop:
            self._loop, self._coming = loop, False
            self._new.clear()
            self._begun.clear()
        if self._coming:
            return False
        self._coming = True
        loop.call_soon(self._turn, loop)
        return True

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        new, begun, turns = self._new, self._begun, 1 + self.pressing // PATIENCE
        if new:
            for _ in range(min(turns, len(new))):
                new.popleft().go()
            self._let_go = (self._let_go + 1) % PATIENCE
            turns -= self._let_go > 0
        while begun and turns:
            begun.popleft().go()
            turns -= 1
        self._coming = bool(new or begun)
        if self._coming:
            loop.call_soon(self._turn, loop)


HASTE: Final = Haste()
"""That of this process, which has one event loop."""
