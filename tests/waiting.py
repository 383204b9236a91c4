"""Waiting for what nobody tells a test of: never longer than it takes, nor for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic, sleep
from typing import Any, TypeVar

T = TypeVar("T")

LONG = 60.0
"""Seconds after which, on a busy machine too, it will not come any more."""


def eventually(holds: Callable[[], T], seconds: float = LONG) -> T:
    """Look until a condition holds, and return what it gave."""
    deadline = monotonic() + seconds
    while not (found := holds()):
        assert monotonic() < deadline, f"it did not come true within {seconds:g} s"
        sleep(0.02)
    return found


async def until(holds: Callable[[], T]) -> T:
    """Look until a condition holds, while the event loop runs, and return what it gave."""
    deadline = monotonic() + LONG
    while not (found := holds()):
        assert monotonic() < deadline, f"it did not come true within {LONG:g} s"
        await asyncio.sleep(0.01)
    return found


def at_once(asked: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that waits for nothing. Raises `AssertionError` where it would wait."""
    try:
        asked.send(None)
    except StopIteration as given:
        return given.value  # type: ignore[no-any-return]
    asked.close()
    raise AssertionError(f"{asked.__qualname__} waits")
