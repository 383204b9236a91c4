"""How sure a saving is: a bootstrap interval from the replicates that the ledger adds up (see `router.ledger.sums`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from router.ledger.sums import REPLICATES, unpack_vector

_TAIL = 0.025
_ENOUGH = 0.9
_NANOS_PER_MICRO = 1_000


@dataclass(frozen=True, slots=True)
class Interval:
    """The 95% percentile interval of a saving: in nano-dollars, and as a share of the baseline."""

    low_nanos: int
    high_nanos: int
    low_share: float
    high_share: float


def interval(vectors: Iterable[bytes]) -> Interval | None:
    """The interval of the total of some packed replicate vectors; None for fewer than about three requests.

    That few leave too many replicates without any request in them.
    """
    totals = [0] * (2 * REPLICATES)
    for packed in vectors:
        totals = [total + number for total, number in zip(totals, unpack_vector(packed), strict=True)]
    savings, baselines = totals[:REPLICATES], totals[REPLICATES:]
    shares = [saving / baseline for saving, baseline in zip(savings, baselines, strict=True) if baseline]
    if len(shares) < _ENOUGH * REPLICATES:
        return None
    low, high = _tails(savings)
    return Interval(round(low) * _NANOS_PER_MICRO, round(high) * _NANOS_PER_MICRO, *_tails(shares))


def _tails(replicates: list[float] | list[int]) -> tuple[float, float]:
    ordered = sorted(replicates)
    beyond = ceil(_TAIL * len(ordered))
    return ordered[beyond], ordered[-1 - beyond]
