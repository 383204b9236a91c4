"""A connection's task answers one chat after the other, and requests for streams begin in turns of their own."""

import asyncio
from typing import cast

import pytest

from router.express import Express
from router.haste import HASTE
from router.runner import Runner

pytestmark = pytest.mark.anyio


class Chat:
    """A chat that is answered at once; ``streamed`` is known only then, as with an `Express`."""

    def __init__(self, name: str, answered: list[str], streams: bool) -> None:
        self.name, self.answered, self.streams = name, answered, streams
        self.streamed = self.response_complete = False

    async def run(self, runner: Runner) -> None:
        self.answered.append(self.name)
        self.streamed, self.response_complete = self.streams, True


async def connections(chats: list[list[tuple[str, bool]]]) -> list[list[str]]:
    """What is answered, turn by turn of the loop, of rounds of chats: each connection's next comes with the others'."""
    loop, answered, tasks = asyncio.get_running_loop(), list[str](), set[asyncio.Task[None]]()
    runners = [Runner(loop, tasks) for _ in chats[0]]
    rounds = []
    for chats_now in chats:
        began = len(answered)
        for runner, (name, streams) in zip(runners, chats_now, strict=True):
            runner.start(cast(Express, Chat(name, answered, streams)))
        turns = list[str]()
        while len(answered) - began < len(chats_now):
            before = len(answered)
            await asyncio.sleep(0)
            turns += [" ".join(answered[before:])] if len(answered) > before else []
        rounds.append(turns)
        await asyncio.sleep(0)
        assert HASTE.pressing == 0
        assert not tasks
    for runner in runners:
        runner.hang_up()
    await asyncio.sleep(0)
    assert all(runner.over for runner in runners)
    return rounds


async def test_who_asked_for_a_stream_begins_in_a_turn_of_its_own_and_others_together() -> None:
    streams, whole = [(name, True) for name in "abc"], [(name, False) for name in "abc"]
    assert await connections([streams, streams, whole, whole]) == [
        ["a b c"],
        ["a", "b", "c"],
        ["a", "b", "c"],
        ["a b c"],
    ]


async def test_a_client_that_hangs_up_while_its_request_waits_for_a_turn_holds_nobody_up() -> None:
    loop, answered, tasks = asyncio.get_running_loop(), list[str](), set[asyncio.Task[None]]()
    runners = {name: Runner(loop, tasks) for name in "abc"}
    for _ in range(2):
        for name, runner in runners.items():
            runner.start(cast(Express, Chat(name, answered, True)))
        if len(answered) == 3:
            runners["a"].hang_up()
        for _ in range(5):
            await asyncio.sleep(0)
    assert answered == ["a", "b", "c", "b", "c"]
    assert [name for name, runner in runners.items() if runner.over] == ["a"]
    assert not tasks
    for runner in runners.values():
        runner.hang_up()
    await asyncio.sleep(0)
