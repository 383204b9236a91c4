"""Carry decisions out: never more than one answer to a request, and never a second backend after content has begun.

A `Dispatcher` keeps the way to every backend of one policy (`lane.Lane`); each request is an `errand.Errand` over them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from policies import schema
from policies.values import Decision, Step
from router.backends import Backend
from router.errand import Answer, Errand, Order
from router.lane import Lane
from router.slots import Slots
from router.trail import Trail
from router.wheel import Wheel

__all__ = ["Answer", "Dispatcher", "Order"]

_NONE: frozenset[str] = frozenset()


class Dispatcher:
    """Makes the attempts of one policy. Build it inside a running event loop.

    ``lanes`` is the way to each backend, by name. ``windows`` are context windows in tokens, where known. ``hedges``
    has, for models as requests name them, after how many seconds without content a second backend is asked. ``clock``
    is the event loop's, read when it is asked: uvloop reads its own once a turn, to the millisecond, which is more than
    the proxy adds to a request. ``wheel`` has the deadlines of what is under way.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        policy: schema.Policy,
        wall: Callable[[], float] = time.time,
        on_rest: Callable[[str, float], None] | None = None,
    ) -> None:
        """``wall`` gives Unix time. ``on_rest`` is told when a backend begins to rest, and for how many seconds."""
        loop = asyncio.get_running_loop()
        self.clock, self.wheel = time.monotonic, Wheel(loop)
        self._resting: set[str] = set()
        self._tell = on_rest
        tier_of = {config.name: name for name, tier in policy.tiers.items() for config in tier.backends}
        bounds = {
            name: Slots(tier.max_in_flight, what="tier")
            for name, tier in policy.tiers.items()
            if tier.max_in_flight is not None
        }
        self.lanes: Mapping[str, Lane] = {
            name: Lane(
                backend, policy, self.clock, self.wheel, wall, self._rests,
                policy.tiers[tier_of[name]].escalate, bounds.get(tier_of[name]),
            )
            for name, backend in backends.items()
        }  # fmt: skip
        self._slots = {name: lane.slots for name, lane in self.lanes.items()}
        self.windows: Mapping[str, int] = {
            name: window for name, lane in self.lanes.items() if (window := lane.backend.config.context_window)
        }
        self.hedges: Mapping[str, float] = {name: after.total_seconds() for name, after in policy.hedge.items()}
        self.retries = policy.retries
        self._deadline = policy.timeouts.deadline.total_seconds()

    def run(self, order: Order, decision: Decision, trail: Trail | None = None) -> Awaitable[Answer]:
        """Make attempts until one answers. Raises `Exhausted` when none does, before a byte of content.

        ``trail``, an empty one, gets every attempt as it ends, those of a call that is cancelled too. Cancelling it
        stops the backend.
        """
        attempts = Trail() if trail is None else trail
        return Errand(self, order, decision, attempts, self.clock() + self._deadline).run()

    def in_flight(self, among: Iterable[str] | None = None) -> dict[str, int]:
        """Calls under way or waiting for a slot, by backend: of all, or of those ``among`` these."""
        loads, slots = {}, self._slots
        for name in slots if among is None else among:
            loads[name] = slots[name].load
        return loads

    def cooling(self, among: Iterable[str] | None = None) -> frozenset[str]:
        """Backends that rest after failures: of all, or of those ``among`` these."""
        if not self._resting:
            return _NONE
        asked = self._resting if among is None else self._resting.intersection(among)
        self._resting = self._resting.difference([name for name in asked if self.lanes[name].closed])
        return frozenset(name for name in asked if self.lanes[name].cooling)

    def cooling_on(self, steps: Sequence[Step]) -> frozenset[str]:
        """Backends of these steps that rest after failures."""
        return self.cooling([step.backend for step in steps]) if self._resting else _NONE

    def rest(self, backend: str, seconds: float) -> None:
        """Let a backend rest that another proxy found failing."""
        if backend in self.lanes:
            self.lanes[backend].rest(seconds)
            self._resting.add(backend)

    def _rests(self, backend: str, seconds: float) -> None:
        self._resting.add(backend)
        if self._tell is not None:
            self._tell(backend, seconds)
