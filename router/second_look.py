"""The second look: one thread that encodes, and no queue before it that would outlast the patience of who waits.

What could not be read in time is turned away at once, and what is nobody's any more when its turn comes is not read:
so an encoder that is asked for more than it can do spends all its time on answers that are still wanted. Texts are read
one at a time, for heads and encoder alike: what a batch is computed with changes the last bits, and decisions must
replay.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from time import monotonic
from typing import TypeAlias

from classifiers.encoder import MAX_CHARACTERS
from policies.values import Features, Signals

Read: TypeAlias = Callable[[Features], Signals]

_NICE = 5
"""By how much the encoder's thread stands back behind the event loop's where they share a core: a third of its part."""

_FIXED = 40
"""Characters that a look costs whatever it reads: its heads."""

_LEARNED = 0.1
"""Weight of the newest look in what is known of the encoder's pace."""

_FORGET_SECONDS = 5.0
"""After so long without a look, its pace is unknown again: what once was slow gets another chance."""


class Busy(Exception):
    """The encoder would not come to it in time."""


@dataclass(slots=True)
class _Asked:
    """A look that somebody waits for until ``until``, on `time.monotonic`; ``told`` when there is a ``result``."""

    read: Read
    features: Features
    size: int
    until: float
    told: asyncio.Future[None]
    result: Signals | Exception | None = None


class SecondLooks:
    """The encoder's thread, and who waits for it. All but the thread itself belongs to one event loop."""

    def __init__(self) -> None:
        """The thread starts with the first look."""
        self._queue: SimpleQueue[_Asked | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ahead = 0
        self._pace = self._learned_at = 0.0

    async def look(self, read: Read, features: Features, patience: float) -> Signals:
        """What ``read`` says of ``features``, within ``patience`` seconds.

        Raises `Busy` at once where that cannot be, `TimeoutError` where it was not, and what ``read`` raises.
        """
        loop, now = asyncio.get_running_loop(), monotonic()
        size = _FIXED + min(len(features.text), 2 * MAX_CHARACTERS)
        if now - self._learned_at < _FORGET_SECONDS and (self._ahead + size) * self._pace > patience:
            raise Busy
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(loop,), name="encoder", daemon=True)
            self._thread.start()
        asked = _Asked(read, features, size, now + patience, loop.create_future())
        self._ahead += size
        self._queue.put(asked)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asked.told
        if asked.result is None:  # else it is there in time, even if the event loop was too busy to be told
            raise TimeoutError
        if isinstance(asked.result, Exception):
            raise asked.result
        return asked.result

    def close(self) -> None:
        """End the thread after what it reads now."""
        self._queue.put(None)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        _stand_back()
        while (asked := self._queue.get()) is not None:
            began = monotonic()
            if began < asked.until and not asked.told.cancelled():
                try:
                    asked.result = asked.read(asked.features)
                except Exception as error:
                    asked.result = error
            try:
                loop.call_soon_threadsafe(self._end, asked, monotonic() - began)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _end(self, asked: _Asked, took: float) -> None:
        self._ahead -= asked.size
        if asked.result is None:
            return
        now, pace = monotonic(), took / asked.size
        known = now - self._learned_at < _FORGET_SECONDS
        self._pace += (_LEARNED if known else 1.0) * (pace - self._pace)
        self._learned_at = now
        if not asked.told.done():
            asked.told.set_result(None)


def _stand_back() -> None:
    """Let the event loop go first on a core that both want. Only Linux gives threads priorities of their own."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
