"""A dispatcher over upstreams that behave as a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from policies import schema
from router.backends import open_backends
from router.dispatch import Answer, Dispatcher
from router.trail import Trail
from tests.faults.harness import decision, order, policy
from tests.faults.speech import well
from tests.faults.upstream import Behaviour, Peer, Upstream


class House:
    """A dispatcher over upstreams that behave as told, one to a tier. ``trail`` is that of the latest request."""

    def __init__(self, settled: schema.Policy, upstreams: list[Upstream]) -> None:
        self.policy, self.upstreams = settled, upstreams
        self.backends = open_backends(settled)
        self.rests: list[tuple[str, float]] = []
        self.dispatcher = Dispatcher(self.backends, settled, on_rest=lambda *rest: self.rests.append(rest))
        self.trail = Trail()

    async def ask(self, stream: bool = False, **body: Any) -> Answer:
        self.trail = Trail()
        return await self.dispatcher.run(order(stream, **body), decision(len(self.upstreams)), self.trail)

    async def text(self, stream: bool = False, **body: Any) -> bytes:
        found = await self.ask(stream, **body)
        try:
            return b"".join([part async for part in found.body])
        finally:
            await found.aclose()


@asynccontextmanager
async def house(*behaviours: Behaviour, **more: Any) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(behave)) for behave in behaviours]
        built = House(policy(*(upstream.url for upstream in upstreams), **more), upstreams)
        yield built
        assert not any(built.dispatcher.in_flight().values())
        for backend in built.backends.values():
            await backend.aclose()


async def silent(peer: Peer) -> None:
    await peer.silence()


async def broken(peer: Peer) -> None:
    await peer.whole(500, {"error": {"message": "no"}})


class Gate:
    """A backend that answers when it is let to, and remembers how many it had at once."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.most = 0
        self.order: list[str] = []

    async def __call__(self, peer: Peer) -> None:
        self.most = max(self.most, peer.upstream.serving)
        self.order.append(str(peer.body.get("user")))
        await self.open.wait()
        await well(peer)


async def until_waiting(dispatcher: Dispatcher, backend: str, count: int) -> None:
    """Return when this many calls are under way or waiting at a backend."""
    async with asyncio.timeout(2):
        while dispatcher.in_flight()[backend] < count:  # noqa: ASYNC110
            await asyncio.sleep(0)
