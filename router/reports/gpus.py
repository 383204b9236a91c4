"""What GPUs cost: the whole bill, what requests paid of it, and the idle rest. They add up to the nano-dollar."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policies import money
from policies.addressing import backends
from policies.schema import Policy
from router.ledger.sums import GPU_FIELD, last_held, seconds_held


@dataclass(frozen=True, slots=True)
class GpuBill:
    """One backend's GPUs over a window. ``paid_nanos + idle_nanos == billed_nanos``, always.

    The bill is for every second in which some proxy held them (see `router.ledger.meter`), as far as is written down:
    up to the Unix time ``billed_to``. A request pays in the hour in which it came, so idle may come out a little below
    zero where one that came before the window's end was answered after it.
    """

    backend: str
    seconds: int
    billed_to: int
    billed_nanos: int
    paid_nanos: int
    output_tokens: int

    @property
    def idle_nanos(self) -> int:
        """What nobody used."""
        return self.billed_nanos - self.paid_nanos

    def nanos_per_mtok(self, *, busy: bool) -> int | None:
        """Nano-dollars per million output tokens: over the whole bill, or over the ``busy`` part of it alone."""
        nanos = self.paid_nanos if busy else self.billed_nanos
        return nanos * 1_000_000 // self.output_tokens if self.output_tokens else None


def full_load(policy: Policy) -> dict[str, int]:
    """Nano-dollars per million output tokens of each backend priced by time, were it always full."""
    prices = ((backend.name, money.price_of(backend)) for _, backend in backends(policy))
    return {
        name: money.nanos(price.hour * 1_000_000 / (price.capacity * price.tokens_per_second * 3600))
        for name, price in prices
        if isinstance(price, money.GpuRates)
    }


def gpu_bills(sums: Iterable[tuple[int, str, bytes]], used: Mapping[str, tuple[int, int]]) -> tuple[GpuBill, ...]:
    """The bills in some packed sums; ``used`` gives the nano-dollars paid and tokens written of each backend."""
    held: dict[tuple[str, int], int] = defaultdict(int)
    billed_to: dict[str, int] = defaultdict(int)
    for hour, name, packed in sums:
        if name.startswith(GPU_FIELD):
            _, backend, hour_nanos = name.split("\x1f")
            held[backend, int(hour_nanos)] += seconds_held(packed)
            billed_to[backend] = max(billed_to[backend], last_held(hour, packed))
    seconds: dict[str, int] = defaultdict(int)
    billed: dict[str, int] = defaultdict(int)
    for (backend, rate), count in held.items():
        seconds[backend] += count
        billed[backend] += rate * count // 3600
    return tuple(
        GpuBill(name, seconds[name], billed_to[name], billed[name], *used.get(name, (0, 0))) for name in sorted(seconds)
    )
