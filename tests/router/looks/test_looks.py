"""The encoder's queue: what could not be in time is not begun, and a slow encoder never works for nobody.

Workers and the process' server on a real socket, with a classifier that reads what the test lets it read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from classifiers.artifact import ArtifactError
from classifiers.encoder import EncoderUnavailable
from policies.values import Features, Signals
from router.looks import client, messages, server
from router.looks.client import Away, Busy, Failed, Looker, SecondLooks
from router.looks.messages import Terms
from router.looks.server import Server
from tests.waiting import until

LONG, SHORT = 30.0, 0.05
SLOW = Features(text="slow")
TERMS = Terms("folder", "artifact", (), {}, "large")


class Classifier:
    """Reads what the test lets it read, one text after the other."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.gate, self.reading = threading.Event(), threading.Event()

    def second_look(self, features: Features) -> Signals:
        self.began.append(features.text)
        if features.text == SLOW.text:
            self.reading.set()
            assert self.gate.wait(LONG)
        if features.text == "broken":
            raise ValueError("broken")
        return Signals(artifact=features.text * (5000 if features.text.startswith("long") else 1))


class Process:
    """The process' server in a thread of this one; ``lives`` until the test says otherwise."""

    slowest = LONG

    def __init__(self, folder: Path) -> None:
        self.classifier = Classifier()
        self.socket = folder / "sock"
        self.build = messages.build()
        self.problem: Exception | None = None
        self.worse: Exception | None = None
        self.warming = True
        self.better = threading.Event()
        self.begun: list[threading.Thread] = []

    def begin(self) -> int | None:
        if self.begun and self.begun[-1].is_alive():
            return None
        self.socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket))
        listener.listen()
        self.begun.append(threading.Thread(target=self._run, args=(listener,)))
        self.begun[-1].start()
        return None

    def _run(self, listener: socket.socket) -> None:
        with listener:
            Server(listener, self._warm, self.build).run()

    def _warm(self, ready: Callable[[Any, Any], None]) -> None:
        if self.problem:
            raise self.problem
        ready(None, None)
        ready(None, SimpleNamespace(runtime="a test"))
        self.better.wait(LONG)
        if self.worse:
            self.warming = False
            raise self.worse
        ready(None, SimpleNamespace(runtime="a better test"))

    def join(self) -> None:
        """It ends with its last worker."""
        self.better.set()
        for thread in self.begun:
            thread.join(LONG)
            assert not thread.is_alive()


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    process = Process(tmp_path)

    def made(terms: Terms, *_: object) -> Classifier:
        if terms.artifact != "artifact":
            raise ArtifactError("another artifact")
        return process.classifier

    monkeypatch.setattr(server, "_classifier", made)
    return process


@asynccontextmanager
async def workers(process: Process, number: int = 1, terms: Terms = TERMS) -> AsyncIterator[list[Looker]]:
    """So many workers' lookers, on connections of their own."""
    async with AsyncExitStack() as stack:
        lookers = []
        for _ in range(number):
            looks = SecondLooks(process)  # type: ignore[arg-type]
            lookers.append(looks.take(terms))
            keeping = asyncio.create_task(looks.keep())
            stack.callback(keeping.cancel)
            await until(lambda: keeping.done() or not lookers[-1].problem or "warming" not in lookers[-1].problem)  # noqa: B023
        yield lookers
        process.classifier.gate.set()
    await asyncio.sleep(0.01)
    await asyncio.to_thread(process.join)


async def under_way(process: Process, looker: Looker, patience: float = LONG) -> asyncio.Task[Signals]:
    """A look that is being taken, until the test opens the gate."""
    look = asyncio.create_task(looker.look(SLOW, patience))
    await asyncio.to_thread(process.classifier.reading.wait, LONG)
    return look


@pytest.mark.anyio
async def test_what_waits_too_long_behind_a_slow_text_is_never_read(process: Process) -> None:
    async with workers(process) as (looker,):
        for text in (SLOW, Features(text="behind it")):
            with pytest.raises(TimeoutError):
                await looker.look(text, SHORT)
        process.classifier.gate.set()
        found = await looker.look(Features(text="later"), LONG)
        assert (found.artifact, process.classifier.began) == ("later", ["slow", "later"])


@pytest.mark.anyio
async def test_what_cannot_be_in_time_is_turned_away_at_once(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    async with workers(process) as (looker,):
        with pytest.raises(TimeoutError):
            await looker.look(SLOW, SHORT)
        process.classifier.gate.set()
        await looker.look(Features(text="so the pace is known"), LONG)
        with pytest.raises(Busy):
            await looker.look(Features(text="x" * 2000), SHORT)
        assert "x" * 2000 not in process.classifier.began
        monkeypatch.setattr(client, "_FORGET_SECONDS", 0.0)
        again = [looker.look(Features(text="x" * 2000), SHORT) for _ in range(3)]
        tried, *others = await asyncio.gather(*again, return_exceptions=True)
        assert isinstance(tried, Signals)
        assert [type(other) for other in others] == [Busy, Busy]


@pytest.mark.anyio
async def test_what_other_workers_wait_for_is_waited_for_too(process: Process) -> None:
    async with workers(process, 2) as (looker, other):
        slow = await under_way(process, looker)
        theirs = [asyncio.create_task(other.look(Features(text="y" * 2000), LONG)) for _ in range(50)]
        await asyncio.sleep(SHORT)
        process.classifier.gate.set()
        await slow
        with pytest.raises(Busy):
            await looker.look(Features(text="x"), SHORT)
        await asyncio.gather(*theirs)
        await other.look(Features(text="x"), LONG)


@pytest.mark.anyio
async def test_nobody_is_turned_away_while_there_is_time(process: Process) -> None:
    async with workers(process, 2) as lookers:
        texts = [str(number) for number in range(50)]
        looks = [lookers[at % 2].look(Features(text=text), LONG) for at, text in enumerate(texts)]
        assert [signals.artifact for signals in await asyncio.gather(*looks)] == texts
        assert sorted(process.classifier.began) == sorted(texts)


@pytest.mark.anyio
async def test_a_request_that_is_gone_is_not_read(process: Process) -> None:
    async with workers(process) as (looker,):
        first = await under_way(process, looker)
        gone = asyncio.create_task(looker.look(Features(text="gone"), LONG))
        await asyncio.sleep(0.01)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        process.classifier.gate.set()
        await first
        await looker.look(Features(text="next"), LONG)
        assert process.classifier.began == ["slow", "next"]


@pytest.mark.anyio
async def test_a_worker_that_is_gone_is_not_read_for(process: Process) -> None:
    async with workers(process) as (looker,):
        first = await under_way(process, looker)
        async with AsyncExitStack() as stack:
            looks = SecondLooks(process)  # type: ignore[arg-type]
            other = looks.take(TERMS)
            keeping = asyncio.create_task(looks.keep())
            stack.callback(keeping.cancel)
            await until(lambda: looks._transport)
            other.ready = True
            theirs = asyncio.create_task(other.look(Features(text="theirs"), LONG))
            await asyncio.sleep(0.01)
        with pytest.raises(Away):
            await theirs
        process.classifier.gate.set()
        await first
        await looker.look(Features(text="next"), LONG)
        assert process.classifier.began == ["slow", "next"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})])
async def test_what_is_there_in_time_counts_though_the_event_loop_was_held_up(process: Process) -> None:
    async with workers(process) as (looker,):
        asked = await under_way(process, looker, SHORT)
        process.classifier.gate.set()
        threading.Event().wait(2 * SHORT)  # the loop is held up beyond the patience, with the answer in the socket
        assert (await asked).artifact == "slow"


@pytest.mark.anyio
async def test_a_better_encoder_is_moved_to_when_it_is_there(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def made(_: Terms, __: object, full: Any) -> Classifier:
        used.append(full.runtime)
        return process.classifier

    monkeypatch.setattr(server, "_classifier", made)
    async with workers(process, 2) as (looker, other):
        await looker.look(Features(text="x"), LONG)
        process.better.set()
        await until(lambda: used[-1] == "a better test" and other._looks._runtime == used[-1])
        await asyncio.gather(*(each.look(Features(text="y"), LONG) for each in (looker, other)))
    assert used == ["a test", "a better test"]


@pytest.mark.anyio
async def test_a_failure_is_the_askers(process: Process) -> None:
    async with workers(process) as (looker,):
        with pytest.raises(Failed, match="broken"):
            await looker.look(Features(text="broken"), LONG)
        assert (await looker.look(Features(text="whole"), LONG)).artifact == "whole"


@pytest.mark.anyio
async def test_a_process_that_does_not_read_is_asked_no_more(process: Process) -> None:
    async with workers(process) as (looker,):
        asked = [await under_way(process, looker)]
        while not asked[-1].done():
            asked.append(asyncio.create_task(looker.look(Features(text="x" * 6000), LONG)))
            await asyncio.sleep(0)
        with pytest.raises(Busy):
            await asked.pop()
        process.classifier.gate.set()
        assert len(await asyncio.gather(*asked, return_exceptions=True)) == len(asked)
        assert (await looker.look(Features(text="again"), LONG)).artifact == "again"


@pytest.mark.anyio
async def test_answers_wait_for_a_worker_that_is_held_up(process: Process) -> None:
    async with workers(process) as (looker,):
        asked = [asyncio.create_task(looker.look(Features(text=f"long {number}"), LONG)) for number in range(100)]
        await until(lambda: process.classifier.began)
        held_up_until = time.monotonic() + LONG
        while len(process.classifier.began) < 100 and time.monotonic() < held_up_until:
            time.sleep(0.01)  # noqa: ASYNC251
        found = [signals.artifact for signals in await asyncio.gather(*asked)]
        assert found == [f"long {number}" * 5000 for number in range(100)]


@pytest.mark.anyio
async def test_terms_that_do_not_hold_are_refused_and_said_so(process: Process) -> None:
    async with workers(process) as (looker,):
        refused = looker._looks.take(Terms("folder", "stale", (), {}, "large"))
        assert "warming up" in refused.problem
        await until(lambda: refused.refused)
        assert "another artifact" in refused.problem
        with pytest.raises(Away, match="another artifact"):
            await refused.look(Features(text="x"), LONG)
        assert (await looker.look(Features(text="x"), LONG)).artifact == "x"
        looker.close()
        refused.close()


@pytest.mark.anyio
async def test_a_process_of_another_build_is_refused(process: Process) -> None:
    process.build = "an older one"
    async with workers(process) as (looker,):
        assert "another build" in looker.problem
        with pytest.raises(Away, match="another build"):
            await looker.look(Features(text="x"), LONG)


@pytest.mark.anyio
async def test_without_an_encoder_it_is_not_tried_again(process: Process) -> None:
    process.problem = EncoderUnavailable("no weights")
    async with workers(process, 2) as lookers:
        await until(lambda: all(looker.problem == "no weights" for looker in lookers))
    assert len(process.begun) <= 2


@pytest.mark.anyio
async def test_an_encoder_that_fails_in_any_way_is_said_to(process: Process) -> None:
    process.problem = RuntimeError("CUDA out of memory")
    async with workers(process) as (looker,):
        await until(lambda: "CUDA out of memory" in looker.problem)


@pytest.mark.anyio
async def test_a_better_encoder_that_fails_leaves_the_one_that_there_is(process: Process) -> None:
    process.worse = RuntimeError("CUDA out of memory")
    async with workers(process) as (looker,):
        await looker.look(Features(text="x"), LONG)
        process.better.set()
        await until(lambda: not process.warming)
        await asyncio.sleep(SHORT)
        for text in "yz":
            assert (await looker.look(Features(text=text), LONG)).artifact == text


@pytest.mark.anyio
async def test_what_is_no_message_ends_the_connection(process: Process) -> None:
    async with workers(process) as (looker,):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(process.socket))
            stranger.sendall(os.urandom(4096))
            stranger.shutdown(socket.SHUT_WR)
            await asyncio.to_thread(stranger.recv, 4096)
        assert (await looker.look(Features(text="x"), LONG)).artifact == "x"
