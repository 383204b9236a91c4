"""Which GPUs a proxy holds, and up to when that is written down: so the bill goes on where a killed proxy left off.

A GPU is held from the second in which a proxy first has it in its policy until that proxy lets go: by a clean stop, or
by a policy without it or with another price. A proxy that was killed has not let go: the next one of its data folder
bills the time between too. That nobody used it makes it idle, and no less rented.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from router.ledger.sums import Packed, held, merge_packed


class Hold(NamedTuple):
    """A backend's GPUs at a rate in nano-dollars per hour, as a proxy holds them.

    ``until`` is the Unix time up to which that is written down; None once they are let go.
    """

    proxy: str
    backend: str
    hour_nanos: int
    until: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be written down together: seconds held, as packed sums, and what is held from here on."""

    packed: Packed
    holds: tuple[Hold, ...]


class Meter:
    """The GPUs that one proxy holds."""

    def __init__(self, left: Iterable[Hold] = ()) -> None:
        """``left`` is what other proxies of the same journal had written down and not let go of.

        Where one of them lives it says again what it holds with its next reading: counting twice counts once.
        """
        self._me = uuid.uuid4().hex[:12]
        self._holds: dict[tuple[str, str, int], float] = {
            (hold.proxy, hold.backend, hold.hour_nanos): hold.until for hold in left if hold.until is not None
        }

    def read(self, now: float, backends: Iterable[tuple[str, int]]) -> Reading:
        """The reading at a Unix time, from which on these backends are held, each at a rate."""
        before, mine = self._holds, [(self._me, *backend) for backend in backends]
        here = {key: max(now, before.get(key, now)) for key in mine}
        billed = {(backend, rate) for _, backend, rate in before}
        for key in here:
            _, backend, rate = key
            if (backend, rate) not in billed and backend in {name for name, _ in billed}:
                here[key] = float(int(now) + 1)  # its new price begins with the next second: none is billed at both
        spans = [(backend, rate, since, now) for (_, backend, rate), since in before.items()]
        spans += [(backend, rate, since, now) for (_, backend, rate), since in here.items()]
        packed = merge_packed(*(held(*span) for span in spans if span[2] <= span[3]))
        gone = tuple(Hold(*key, None) for key in before.keys() - here.keys())
        self._holds = here
        return Reading(packed, (*gone, *(Hold(*key, until) for key, until in here.items())))
