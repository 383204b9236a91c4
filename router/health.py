"""Active health: ask backends whether they are well, so that a request need not fail to find out.

Passive health is always there (`breaker`). This only hastens it: a backend that is not well rests before anyone asks it
anything, and one that rests but says that it is well again is probed by the next request.
"""

from __future__ import annotations

import asyncio

from router.dispatch import Dispatcher
from router.lane import Lane


async def keep_asking(dispatcher: Dispatcher, every: float) -> None:
    """Ask every backend, ``every`` so many seconds, until cancelled."""
    while True:
        await asyncio.sleep(every)
        await ask(dispatcher, 2 * every)


async def ask(dispatcher: Dispatcher, rest: float) -> None:
    """Ask every backend once. One that is not well rests for ``rest`` seconds, unless it rests for longer already."""
    await asyncio.gather(*(_ask(dispatcher, lane, rest) for lane in dispatcher.lanes.values()))


async def _ask(dispatcher: Dispatcher, lane: Lane, rest: float) -> None:
    if await lane.backend.healthy():
        lane.wake()
    elif lane.rests_until < lane.clock() + rest:
        dispatcher.rest(lane.name, rest)
