"""A client that leaves, in every phase: slot free and upstream call gone within 100 ms, and what was used is billed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from policies.values import Attempt
from router import stream
from router.backends import open_backends
from router.dispatch import Dispatcher
from router.haste import Waiter
from router.trail import Trail
from tests.faults.harness import LOOPS, decision, order, policy
from tests.faults.speech import ROLE, SAID, STOP, usage
from tests.faults.upstream import Behaviour, Peer, Upstream

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


LONG = {"connect": "20s", "first_token": "20s", "between_tokens": "20s", "answer": "20s"}


class Trial:
    """One request that will be cancelled."""

    def __init__(self, dispatcher: Dispatcher, upstream: Upstream, stream: bool) -> None:
        self.dispatcher, self.upstream, self.stream = dispatcher, upstream, stream
        self.trail = Trail()
        self.heard = asyncio.Event()

    async def _client(self) -> None:
        answer = await self.dispatcher.run(order(self.stream), decision(1), self.trail)
        try:
            async for _ in answer.body:
                self.heard.set()
        finally:
            await answer.aclose()

    def start(self) -> asyncio.Task[None]:
        return asyncio.ensure_future(self._client())

    async def leave(self, client: asyncio.Task[None]) -> None:
        """Cancel the client; all that it held must be free at once."""
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        assert self.dispatcher.in_flight() == {"b0": 0}
        await self.upstream.idle_at_once()


@asynccontextmanager
async def trial(behave: Behaviour, stream: bool, url: str = "", **more: object) -> AsyncIterator[Trial]:
    async with Upstream(behave) as upstream:
        settled = policy(url or upstream.url, timeouts=LONG, **more)
        backends = open_backends(settled)
        before = asyncio.all_tasks()
        yield Trial(Dispatcher(backends, settled), upstream, stream)
        await asyncio.sleep(0)
        assert not [task for task in asyncio.all_tasks() - before if "Upstream" not in repr(task)]
        for backend in backends.values():
            await backend.aclose()


async def silent(peer: Peer) -> None:
    await peer.silence()


async def headers_only(peer: Peer) -> None:
    await peer.head()
    await peer.piece(ROLE if peer.stream else b'{"id": ')
    await peer.silence()


async def two_words(peer: Peer) -> None:
    await peer.head()
    await peer.piece(ROLE + SAID[0] + SAID[1])
    await peer.silence()


def billed(attempt: Attempt) -> tuple[str, str, str, str]:
    usage = attempt.usage
    told = "nothing" if usage is None else f"{'' if usage.measured else '~'}{usage.input_tokens}/{usage.output_tokens}"
    return attempt.outcome, attempt.error, attempt.phase, told


@pytest.mark.parametrize("stream", [True, False])
async def test_before_headers(stream: bool) -> None:
    async with trial(silent, stream) as one:
        client = one.start()
        async with asyncio.timeout(2):
            await one.upstream.busy()
        await one.leave(client)
    assert list(map(billed, one.trail)) == [("cancelled", "cancelled", "headers", "~10/0")]
    assert one.trail[0].cost_nanos == 10_000
    assert one.upstream.abandoned == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_first_token(stream: bool) -> None:
    async with trial(headers_only, stream) as one:
        client = one.start()
        async with asyncio.timeout(2):
            while one.dispatcher.lanes["b0"].slots.in_flight == 0 or not one.upstream.requests:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
        await one.leave(client)
    assert list(map(billed, one.trail)) == [("cancelled", "cancelled", "first_token", "~10/0")]
    assert one.upstream.abandoned == 1


async def test_mid_stream() -> None:
    async with trial(two_words, True) as one:
        client = one.start()
        async with asyncio.timeout(2):
            await one.heard.wait()
        await one.leave(client)
    assert list(map(billed, one.trail)) == [("cancelled", "cancelled", "stream", "~10/3")]
    assert one.trail[0].cost_nanos == 16_000


async def test_while_what_has_come_gives_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gives_way = asyncio.Event()

    class Pressed:
        pressed = False

        def turn(self, loop: asyncio.AbstractEventLoop) -> Waiter | None:
            if not self.pressed:
                return None
            gives_way.set()
            return Waiter(loop=loop)

    haste = Pressed()

    async def rest_later(peer: Peer) -> None:
        await peer.head()
        await peer.piece(ROLE + SAID[0])
        await asyncio.sleep(0.05)
        haste.pressed = True
        await peer.piece(SAID[1] + STOP + usage())
        await peer.silence()

    monkeypatch.setattr(stream, "HASTE", haste)
    async with trial(rest_later, True) as one:
        client = one.start()
        async with asyncio.timeout(2):
            await gives_way.wait()
        await one.leave(client)
    assert list(map(billed, one.trail)) == [("cancelled", "cancelled", "stream", "10/3")]


async def test_closing_an_answer_without_reading_it() -> None:
    async with trial(two_words, True) as one:
        answer = await one.dispatcher.run(order(True), decision(1), one.trail)
        await answer.aclose()
        await answer.aclose()
        assert one.dispatcher.in_flight() == {"b0": 0}
        await one.upstream.idle_at_once()
        assert [part async for part in answer.body] == []
    assert list(map(billed, one.trail)) == [("cancelled", "cancelled", "stream", "~10/3")]


async def test_closing_an_answer_while_another_task_reads_it() -> None:
    async with trial(two_words, True) as one:
        answer = await one.dispatcher.run(order(True), decision(1), one.trail)

        async def read() -> bytes:
            return b"".join([part async for part in answer.body])

        reader = asyncio.ensure_future(read())
        for _ in range(10):
            await asyncio.sleep(0)
        await answer.aclose()
        await one.upstream.idle_at_once()
        assert SAID[0] in await reader
    assert list(map(billed, one.trail)) == [("cancelled", "cancelled", "stream", "~10/3")]


async def test_in_the_queue() -> None:
    async with trial(silent, False, backend={"max_in_flight": 1}) as one:
        holder = one.start()
        async with asyncio.timeout(2):
            await one.upstream.busy()
        waiting = Trial(one.dispatcher, one.upstream, False)
        waiter = waiting.start()
        slots = one.dispatcher.lanes["b0"].slots
        async with asyncio.timeout(2):
            while slots.load < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert (slots.in_flight, slots.load) == (1, 1)
        await one.leave(holder)
    assert waiting.trail == []
    assert len(one.upstream.requests) == 1


async def test_a_slot_given_to_one_who_leaves_goes_to_the_next() -> None:
    async with trial(silent, False, backend={"max_in_flight": 1}) as one:
        slots = one.dispatcher.lanes["b0"].slots
        await slots.take(1)
        first, second = (asyncio.ensure_future(slots.take(1)) for _ in range(2))
        await asyncio.sleep(0)
        slots.give_back(0.1)
        first.cancel()
        await asyncio.wait((first, second))
        assert first.cancelled()
        assert second.exception() is None
        assert slots.in_flight == 1
        slots.give_back(0.1)


@pytest.fixture
def unanswered() -> Iterator[str]:
    """A URL whose host never answers a connection: a listening socket with a full backlog."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        yield f"http://127.0.0.1:{address[1]}/v1"
        for filler in fillers:
            filler.close()


async def test_while_connecting(unanswered: str) -> None:
    async with trial(silent, False, url=unanswered) as one:
        client = one.start()
        async with asyncio.timeout(2):
            while not one.dispatcher.in_flight()["b0"]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        await one.leave(client)
    assert list(map(billed, one.trail)) == [("cancelled", "cancelled", "connect", "nothing")]


async def test_a_connection_that_is_never_accepted_times_out(unanswered: str) -> None:
    settled = policy(unanswered, retries={"attempts": 0}, timeouts={"connect": "100ms"})
    backends = open_backends(settled)
    dispatcher = Dispatcher(backends, settled)
    trail = Trail()
    with pytest.raises(Exception, match="did not"):
        await dispatcher.run(order(True), decision(1), trail)
    assert [(attempt.outcome, attempt.phase, attempt.cost_nanos) for attempt in trail] == [("timeout", "connect", 0)]
    for backend in backends.values():
        await backend.aclose()


async def test_between_two_attempts() -> None:
    async def fail(peer: Peer) -> None:
        await peer.whole(429, {"error": {"message": "slow down"}}, "retry-after: 5")

    async with trial(fail, False, retries={"attempts": 1, "base": "5s", "cap": "10s"}) as one:
        client = one.start()
        async with asyncio.timeout(2):
            while not one.trail:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await one.leave(client)
    assert list(map(billed, one.trail)) == [("error", "rate_limited", "headers", "nothing")]
