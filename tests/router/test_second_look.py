"""The encoder's queue: what could not be in time is not begun, and a slow encoder never works for nobody."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from policies.values import Features, Signals
from router import second_look
from router.second_look import Busy, SecondLooks

LONG, SHORT = 30.0, 0.02
SLOW = Features(text="slow")


class Encoder:
    """Reads what the test lets it read, one text after the other."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.gate = threading.Event()
        self.reading = threading.Event()
        self.priority = 0

    def read(self, features: Features) -> Signals:
        self.began.append(features.text)
        self.priority = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        if features is SLOW:
            self.reading.set()
            assert self.gate.wait(LONG)
        if features.text == "broken":
            raise ValueError("broken")
        return Signals(artifact=features.text)


@pytest.mark.anyio
async def test_what_waits_too_long_behind_a_slow_text_is_never_read() -> None:
    looks, encoder = SecondLooks(), Encoder()
    for text in (SLOW, Features(text="behind it")):
        with pytest.raises(TimeoutError):
            await looks.look(encoder.read, text, SHORT)
    encoder.gate.set()
    found = await looks.look(encoder.read, Features(text="later"), LONG)
    assert (found.artifact, encoder.began) == ("later", ["slow", "later"])
    looks.close()


@pytest.mark.anyio
async def test_what_cannot_be_in_time_is_turned_away_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, encoder = SecondLooks(), Encoder()
    with pytest.raises(TimeoutError):
        await looks.look(encoder.read, SLOW, SHORT)
    encoder.gate.set()
    await looks.look(encoder.read, Features(text="so the pace is known"), LONG)
    with pytest.raises(Busy):
        await looks.look(encoder.read, Features(text="x" * 2000), SHORT)
    assert "x" * 2000 not in encoder.began
    monkeypatch.setattr(second_look, "_FORGET_SECONDS", 0.0)
    assert (await looks.look(encoder.read, Features(text="x"), LONG)).artifact == "x"
    looks.close()


@pytest.mark.anyio
async def test_nobody_is_turned_away_while_there_is_time() -> None:
    looks, encoder = SecondLooks(), Encoder()
    texts = [str(number) for number in range(50)]
    found = await asyncio.gather(*(looks.look(encoder.read, Features(text=text), LONG) for text in texts))
    assert [signals.artifact for signals in found] == encoder.began == texts
    looks.close()


@pytest.mark.anyio
async def test_a_request_that_is_gone_is_not_read() -> None:
    looks, encoder = SecondLooks(), Encoder()
    first = asyncio.create_task(looks.look(encoder.read, SLOW, LONG))
    await asyncio.to_thread(encoder.reading.wait, LONG)
    gone = asyncio.create_task(looks.look(encoder.read, Features(text="gone"), LONG))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    encoder.gate.set()
    await first
    await looks.look(encoder.read, Features(text="next"), LONG)
    assert encoder.began == ["slow", "next"]
    looks.close()


@pytest.mark.anyio
async def test_what_is_there_in_time_counts_though_the_event_loop_was_held_up() -> None:
    looks, encoder = SecondLooks(), Encoder()
    await looks.look(encoder.read, Features(text="the thread runs"), LONG)
    asked = asyncio.create_task(looks.look(encoder.read, SLOW, SHORT))
    await asyncio.sleep(0)
    encoder.gate.set()
    assert looks._thread is not None
    looks.close()
    looks._thread.join(LONG)
    threading.Event().wait(2 * SHORT)  # the loop is held up beyond the patience, with the answer there
    assert (await asked).artifact == "slow"


@pytest.mark.anyio
async def test_a_failure_is_the_askers() -> None:
    looks, encoder = SecondLooks(), Encoder()
    with pytest.raises(ValueError, match="broken"):
        await looks.look(encoder.read, Features(text="broken"), LONG)
    assert (await looks.look(encoder.read, Features(text="whole"), LONG)).artifact == "whole"
    looks.close()


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives threads priorities of their own")
async def test_the_encoder_stands_back_behind_the_event_loop() -> None:
    looks, encoder = SecondLooks(), Encoder()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    await looks.look(encoder.read, Features(text="any"), LONG)
    assert encoder.priority > own
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
    looks.close()
