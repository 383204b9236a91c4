"""Latency histograms that merge: fixed logarithmic buckets, so that a percentile over any window and any number of
proxies is within 1% of the value at that rank.

The buckets are DDSketch's (Masson, Rim and Lee 2019, https://arxiv.org/abs/1908.10693) with growth 1.02 from 0.01 ms up
to 28 hours; what lies outside counts in the first or last bucket.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SMALLEST_MS = 0.01
GROWTH = 1.02
BUCKETS = 1164
_FEW = 16
_EDGES = [SMALLEST_MS * GROWTH**index for index in range(BUCKETS - 1)]


def bucket(milliseconds: float) -> int:
    """The bucket that a duration falls into."""
    return bisect_left(_EDGES, milliseconds)


def counted(columns: Sequence[Sequence[float]]) -> list[Mapping[int, int]]:
    """How many of some durations fall into each bucket, for each of several columns of one length."""
    length = len(columns[0])
    if length < _FEW:
        return [Counter(map(bucket, column)) for column in columns]
    import numpy as np

    packed = b"".join([struct.pack(f"{length}d", *column) for column in columns])
    durations = np.sort(np.frombuffer(packed).reshape(-1, length))
    found: list[Mapping[int, int]] = []
    for places in _edges().searchsorted(durations):
        counts = np.bincount(places)
        hit = counts.nonzero()[0]
        found.append(dict(zip(hit.tolist(), counts[hit].tolist(), strict=True)))
    return found


@cache
def _edges() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    import numpy as np

    return np.array(_EDGES)


def value(index: int) -> float:
    """The duration in milliseconds that stands for a bucket: the geometric middle of its edges."""
    return SMALLEST_MS if index == 0 else SMALLEST_MS * GROWTH ** (index - 0.5)


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration at rank ``ceil(share × n)``, in milliseconds; None when there are none."""
    total = sum(counts.values())
    if not total:
        return None
    rank = max(1, ceil(share * total))
    for index in sorted(counts):
        rank -= counts[index]
        if rank <= 0:
            return value(index)
    raise AssertionError("ranks end within the counts")
