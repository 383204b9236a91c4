"""The one task of a client's connection: a task for each request takes four times as long to make and to let go of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from router.haste import HASTE, Waiter

if TYPE_CHECKING:
    from router.express import Express


class Runner:
    """Answers the chats of a connection, one after the other. Who has asked for a stream is taken to ask for another.

    ``tasks`` are those that the server waits for when it stops: this one is among them while there is a chat. A server
    out of patience cancels it, which ends it (`over`) unless the chat answers that with an error of its own.
    """

    __slots__ = ("_following", "_gone", "_loop", "_presses", "_running", "_streams", "_task", "_tasks", "_waits")

    def __init__(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> None:
        self._loop, self._tasks = loop, tasks
        self._following: Express | None = None
        self._running: Express | None = None
        self._waits: asyncio.Future[None] | None = None
        self._gone = False
        self._presses = 0
        self._streams = False
        self._task: asyncio.Task[None] = loop.create_task(self._run())

    @property
    def over(self) -> bool:
        """Whether it answers nothing any more."""
        return self._task.done()

    def start(self, express: Express) -> None:
        """Have a chat answered, when the one before it is done."""
        self._following = express
        self._tasks.add(self._task)
        waits = self._waits
        if waits is None or waits.done():
            return
        if isinstance(waits, Waiter):
            HASTE.begin(waits)
        else:
            waits.set_result(None)
            self._presses = 1
            HASTE.pressing += 1

    def hang_up(self) -> None:
        """The client has gone: nobody waits for an answer that is not sent whole."""
        self._gone = True
        if self._running is None or not self._running.response_complete:
            self._task.cancel()

    def lost(self) -> bool:
        """Whether the client's hang-up, and nothing else, is what cancelled the task."""
        return self._gone and self._task.uncancel() == 0

    async def _run(self) -> None:
        try:
            while not self._gone:
                if self._following is None:
                    self._waits = Waiter(loop=self._loop) if self._streams else self._loop.create_future()
                    await self._waits
                self._running = express = self._following
                self._following = None
                HASTE.pressing -= self._presses
                self._presses = 0
                assert express is not None
                await express.run(self)
                self._running, self._streams = None, express.streamed
                if self._following is None:
                    self._tasks.discard(self._task)
        finally:
            HASTE.pressing -= self._presses
            self._presses = 0
            self._running = self._following = None
            self._tasks.discard(self._task)
