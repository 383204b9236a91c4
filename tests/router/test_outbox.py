"""What is sent while others press goes with theirs, in order, never more than so many, and never much later."""

import asyncio
from collections.abc import Callable

import pytest

from router.haste import Haste
from router.outbox import LONGEST, MOST, Outbox

pytestmark = pytest.mark.anyio


class Sent(list[str]):
    """What was sent, in order."""

    def call(self, what: str) -> Callable[[], None]:
        """What sends this."""
        return lambda: self.append(what)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


async def test_what_nobody_presses_behind_goes_at_once() -> None:
    outbox, sent = Outbox(Haste()), Sent()
    outbox.post(sent.call("only"), asyncio.get_running_loop())
    assert sent == ["only"]


async def test_what_others_press_behind_goes_with_the_last_of_them() -> None:
    haste, sent = Haste(), Sent()
    outbox, loop = Outbox(haste, Clock()), asyncio.get_running_loop()
    for haste.pressing in (2, 1):
        outbox.post(sent.call(str(haste.pressing)), loop)
        assert not sent
    haste.pressing = 0
    outbox.post(sent.call("last"), loop)
    assert sent == ["2", "1", "last"]


async def test_no_more_than_so_many_wait() -> None:
    haste, sent = Haste(), Sent()
    outbox, loop = Outbox(haste, Clock()), asyncio.get_running_loop()
    haste.pressing = 2 * MOST
    for number in range(1, 2 * MOST + 1):
        outbox.post(sent.call(str(number)), loop)
        assert len(sent) == number // MOST * MOST


async def test_what_waits_goes_with_the_next_once_it_has_waited_long() -> None:
    haste, sent, clock = Haste(), Sent(), Clock()
    outbox, loop = Outbox(haste, clock), asyncio.get_running_loop()
    haste.pressing = 3
    outbox.post(sent.call("first"), loop)
    clock.now += LONGEST / 2
    outbox.post(sent.call("second"), loop)
    assert not sent
    clock.now += LONGEST
    outbox.post(sent.call("third"), loop)
    assert sent == ["first", "second", "third"]
    outbox.post(sent.call("fourth"), loop)
    assert sent[3:] == []


async def test_what_nothing_follows_goes_when_the_loop_comes_round() -> None:
    haste, sent = Haste(), Sent()
    outbox, loop = Outbox(haste, Clock()), asyncio.get_running_loop()
    haste.pressing = 1
    outbox.post(sent.call("alone"), loop)
    outbox.post(sent.call("with it"), loop)
    assert not sent
    await asyncio.sleep(0)
    assert sent == ["alone", "with it"]
    haste.pressing = 0
    outbox.post(sent.call("after"), loop)
    await asyncio.sleep(0)
    assert sent == ["alone", "with it", "after"]
