"""The wheel: nothing early, nothing late by more than a tick and the loop's own lateness, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.wheel import TICK, Wheel


@dataclass
class Clock:
    """An event loop's clock and its one timer, moved by hand."""

    now: float = 1_000.0
    timer: tuple[float, Callable[[], None]] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        assert self.timer is None, "one timer at a time"
        self.timer = (self.now + delay, callback)

    def run(self, until: float, lateness: float = 0.0) -> None:
        while self.timer is not None and self.timer[0] + lateness <= until:
            (at, callback), self.timer = self.timer, None
            self.now = at + lateness
            callback()
        self.now = until


@dataclass(eq=False)
class Alarm:
    """Something with a deadline, which knows when it was told to look."""

    at: float
    looked: list[float] = field(default_factory=list)

    def look(self, now: float) -> None:
        self.looked.append(now)


def wheel_on(clock: Any) -> Wheel:
    return Wheel(clock)


@given(st.lists(st.floats(-1, 3), max_size=20), st.sets(st.integers(0, 19)), st.floats(0, 0.05))
def test_each_looks_once_and_in_time_unless_it_is_removed(
    delays: list[float], removed: set[int], lateness: float
) -> None:
    clock = Clock()
    wheel = wheel_on(clock)
    alarms = [Alarm(clock.now + delay) for delay in delays]
    places = [wheel.add(alarm, alarm.at) for alarm in alarms]
    for number in removed & set(range(len(alarms))):
        wheel.remove(alarms[number], places[number])
        wheel.remove(alarms[number], places[number])
    clock.run(1_004.0, lateness)
    for number, alarm in enumerate(alarms):
        assert len(alarm.looked) == (number not in removed)
        for moment in alarm.looked:
            assert alarm.at <= moment <= max(alarm.at, 1_000.0) + 2 * (TICK + lateness) + 1e-6
    assert clock.timer is None, "a wheel without deadlines does not turn"


def test_one_that_looks_may_come_again() -> None:
    clock = Clock()
    wheel = wheel_on(clock)

    class Again(Alarm):
        def look(self, now: float) -> None:
            super().look(now)
            if len(self.looked) < 3:
                wheel.add(self, now + 0.1)

    alarm = Again(clock.now + 0.1)
    wheel.add(alarm, alarm.at)
    clock.run(1_002.0)
    assert len(alarm.looked) == 3
    assert all(later - earlier >= 0.1 for earlier, later in zip(alarm.looked, alarm.looked[1:], strict=False))


def test_it_begins_to_turn_again_after_a_rest() -> None:
    clock = Clock()
    wheel = wheel_on(clock)
    for begins in (1_000.0, 1_500.0):
        clock.run(begins)
        alarm = Alarm(begins + 0.05)
        wheel.add(alarm, alarm.at)
        clock.run(begins + 1)
        assert len(alarm.looked) == 1
        assert alarm.looked[0] - alarm.at <= 2 * TICK
