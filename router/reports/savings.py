"""How sure a saving is: 95% intervals, from what the ledger adds up for them (see `router.ledger.sums`).

The total's is that of the bootstrap. Replicates of every row of every report would be too many to keep, so a row's is
the normal interval with the bootstrap's variance, which sums of squares give exactly: where each request counts
Poisson(1) times, a sum of savings s has the variance Σs², and the ratio of savings to baselines, to the first order,
Σ(s − Rb)² / (Σb)².
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, sqrt

from policies.money import NANOS_PER_USD
from router.ledger.sums import REPLICATES, unpack_vector

_TAIL = 0.025
_ENOUGH = 0.9
_NANOS_PER_MICRO = 1_000
_NORMAL = 1.959964
FEWEST = 10
"""Requests below which a row has no interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The 95% percentile interval of a saving: in nano-dollars, and as a share of the baseline."""

    low_nanos: int
    high_nanos: int
    low_share: float
    high_share: float


def bootstrapped(vectors: Iterable[bytes]) -> Interval | None:
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


def of_squares(
    saving_nanos: int, baseline_nanos: int, saving_squared: float, saving_baseline: float, baseline_squared: float
) -> Interval | None:
    """The interval of a row's saving from sums of squares, in dollars².

    None for fewer than `FEWEST` requests, each weighed by its baseline (Kish's effective number), so that one large
    request among small ones counts for little more than one.
    """
    saving, baseline = saving_nanos / NANOS_PER_USD, baseline_nanos / NANOS_PER_USD
    if not baseline_squared or round(baseline * baseline / baseline_squared, 6) < FEWEST:
        return None
    share = saving / baseline
    wide = _NORMAL * sqrt(saving_squared)
    wide_share = _NORMAL * sqrt(
        max(0.0, saving_squared - 2 * share * saving_baseline + share * share * baseline_squared)
    ) / baseline  # fmt: skip
    low, high = (round(edge * NANOS_PER_USD, -3) for edge in (saving - wide, saving + wide))
    return Interval(int(low), int(high), share - wide_share, share + wide_share)


def _tails(replicates: list[float] | list[int]) -> tuple[float, float]:
    ordered = sorted(replicates)
    beyond = ceil(_TAIL * len(ordered))
    return ordered[beyond], ordered[-1 - beyond]
