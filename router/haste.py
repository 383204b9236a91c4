"""Who goes first where the event loop is behind: whoever has nothing yet, before streams that have begun.

Each turn of a busy loop reads and sends on what has come of every stream. A new request, and one that its backend
begins to answer, would each wait for all of that; those who read a stream hardly notice a fraction of a millisecond.
"""

from __future__ import annotations

import asyncio
from typing import Final

LONGEST: Final = 8
"""Turns of the loop for which a stream gives way at most, each time that more of it has come."""


class Haste:
    """``pressing``: for how many requests there is something to do, now, before anything of them is answered."""

    __slots__ = ("pressing",)

    def __init__(self) -> None:
        self.pressing = 0

    async def give_way(self) -> None:
        """Let what presses be done first."""
        for _ in range(LONGEST):
            if not self.pressing:
                return
            await asyncio.sleep(0)


HASTE: Final = Haste()
"""That of this process, which has one event loop."""
