"""Many callers, one call at a time: whoever comes while a call is under way goes through together with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_MOST_AT_ONCE = 256


class Turnstile(Generic[Asked, Answer]):
    """Gathers what is asked concurrently into calls of ``ask``, which answers each in order."""

    def __init__(self, ask: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]]) -> None:
        self._ask = ask
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._turning: asyncio.Task[None] | None = None

    async def join(self, asked: Asked) -> Answer:
        """The answer to what is asked. Raises what the call raises that it went through with."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._turning is None or self._turning.done():
            self._turning = asyncio.create_task(self._turn())
        return await answer

    async def _turn(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            try:
                answers = await self._ask([asked for asked, _ in together])
            except Exception as error:
                for _, answer in together:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), found in zip(together, answers, strict=True):
                    if not answer.done():
                        answer.set_result(found)
