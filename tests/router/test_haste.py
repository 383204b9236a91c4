"""Who has nothing yet goes first, streams that have begun take turns, and nobody who leaves holds anybody up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from router.backends.client import Client
from router.errors import UpstreamError
from router.haste import HASTE, PATIENCE, Haste, Waiter
from tests.faults.harness import LOOPS

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


class Line:
    """Streams s0, s1, … that have begun and want to go on at once, and requests r0, r1, … that come then."""

    def __init__(self, haste: Haste) -> None:
        self.haste = haste
        self.went: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def form(self, streams: int, requests: int = 0) -> None:
        """Have all of them wait, but for s0, whose turn it is."""
        for number in range(streams):
            self.tasks[f"s{number}"] = asyncio.create_task(self._go_on(f"s{number}"))
        for number in range(requests):
            self.tasks[f"r{number}"] = asyncio.create_task(self._begin(f"r{number}"))
        await asyncio.sleep(0)

    async def _go_on(self, name: str) -> None:
        turn = self.haste.turn(asyncio.get_running_loop())
        if turn is not None:
            await turn
        self.went.append(name)

    async def _begin(self, name: str) -> None:
        waiter = Waiter(loop=asyncio.get_running_loop())
        self.haste.begin(waiter)
        await waiter
        self.went.append(name)

    async def turns(self, turns: int) -> list[str]:
        """Who went before the first turn of the loop, and in each of so many."""
        seen, heard = [" ".join(self.went)], len(self.went)
        for _ in range(turns):
            await asyncio.sleep(0)
            seen.append(" ".join(self.went[heard:]))
            heard = len(self.went)
        return seen


async def test_streams_that_have_begun_go_on_in_order_one_in_a_turn() -> None:
    line = Line(Haste())
    await line.form(4)
    assert await line.turns(4) == ["s0", "s1", "s2", "s3", ""]
    await line.form(2)
    assert await line.turns(2) == ["s0 s1 s2 s3 s0", "s1", ""]


async def test_requests_go_first_one_in_a_turn_but_do_not_stop_streams() -> None:
    line = Line(Haste())
    await line.form(4, 2 * PATIENCE + 1)
    first, second = [f"r{n}" for n in range(PATIENCE)], [f"r{n}" for n in range(PATIENCE, 2 * PATIENCE)]
    first[-1], second[-1] = f"{first[-1]} s1", f"{second[-1]} s2"
    assert await line.turns(2 * PATIENCE + 3) == ["s0", *first, *second, f"r{2 * PATIENCE}", "s3", ""]


async def test_beside_many_who_press_more_go_on_in_a_turn() -> None:
    line = Line(Haste())
    line.haste.pressing = 2 * PATIENCE
    await line.form(6)
    assert await line.turns(3) == ["s0", "s1 s2 s3", "s4 s5", ""]
    await line.form(1, 4)
    assert (await line.turns(3))[1:] == ["r0 r1 r2", "r3", ""]


async def test_who_leaves_the_line_holds_nobody_up() -> None:
    line = Line(Haste())
    await line.form(4, 2)
    for name in ("r0", "s1", "s2"):
        line.tasks[name].cancel()
    await line.turns(6)
    assert line.went == ["s0", "r1", "s3"]
    assert [name for name, task in line.tasks.items() if task.cancelled()] == ["s1", "s2", "r0"]
    assert line.haste.turn(asyncio.get_running_loop()) is None, "nobody is waited for any more"


def test_who_waited_on_a_loop_that_is_no_more_is_forgotten() -> None:
    line, gone = Line(Haste()), asyncio.new_event_loop()
    assert line.haste.turn(gone) is None
    assert line.haste.turn(gone) is not None
    line.haste.begin(Waiter(loop=gone))
    gone.close()

    async def later() -> list[str]:
        await line.form(2)
        return await line.turns(2)

    assert asyncio.run(later()) == ["s0", "s1", ""]


async def test_a_waiter_goes_on_at_once_where_no_task_runs() -> None:
    loop, went = asyncio.get_running_loop(), list[str]()
    outside, inside = Waiter(loop=loop), Waiter(loop=loop)

    async def wait(name: str, waiter: Waiter) -> None:
        await waiter
        went.append(name)

    def go() -> None:
        outside.go()
        went.append("returned")
        outside.go()

    tasks = [asyncio.create_task(wait("outside", outside)), asyncio.create_task(wait("inside", inside))]
    await asyncio.sleep(0)
    loop.call_soon(go)
    await asyncio.sleep(0)
    assert went == ["outside", "returned"]
    inside.go()
    went.append("still here")
    await asyncio.gather(*tasks)
    assert went[2:] == ["still here", "inside"]


async def test_a_waiter_that_goes_before_anybody_waits_is_not_waited_for() -> None:
    waiter = Waiter(loop=asyncio.get_running_loop())
    waiter.go()
    async with asyncio.timeout(2):
        await waiter


async def test_who_is_cancelled_while_it_waits_hears_of_it_once() -> None:
    waiter = Waiter(loop=asyncio.get_running_loop())

    async def wait() -> str:
        try:
            await waiter
        except asyncio.CancelledError:
            waiter.go()
            return "cancelled"
        return "went on"

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    waiter.go()
    assert await task == "cancelled"


@pytest.mark.parametrize("said", [b"HTTP/1.1 200", b"", b"nonsense"])
async def test_nothing_presses_once_a_backend_has_gone(said: bytes) -> None:
    async with backend(said) as client:
        with pytest.raises(UpstreamError, match=r"before it answered|not HTTP"):
            await client.post("chat/completions", b"{}")
        assert HASTE.pressing == 0


async def test_nothing_presses_once_a_backend_has_begun_to_answer() -> None:
    async with backend(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as client:
        assert (await client.post("chat/completions", b"{}")).status == 200
        assert HASTE.pressing == 0


@asynccontextmanager
async def backend(said: bytes) -> AsyncIterator[Client]:
    """A client of a server that says this to everybody, in two pieces, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (said[:9], said[9:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", {}, connect=5.0)
    try:
        yield client
    finally:
        await client.aclose()
        await asyncio.sleep(0.05)
        server.close()
        await server.wait_closed()
