"""Replicates of a saving, from which its interval follows: the Poisson bootstrap (Hanley and MacGibbon 2006).

Each request counts Poisson(1) times in each replicate, drawn once, when it is written down; so replicates of hours and
proxies simply add up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from router.ledger.sums import REPLICATES

if TYPE_CHECKING:
    import numpy as np

TIMES: Final = (95, 93, 47, 16, 4, 1)
"""Of 256 draws so many count 0, 1, 2, … times in a replicate: Poisson(1), its mean exactly, its variance to 1%."""
_TIMES_OF_BYTE: Final = b"".join(bytes([times]) * draws for times, draws in enumerate(TIMES))
_TOGETHER: Final = 512
"""Requests whose draws are in memory at once."""


def replicates(savings: Sequence[float], baselines: Sequence[float]) -> list[int]:
    """Sums of savings, then of baselines (nano-dollars), in millionths of a dollar, over `REPLICATES` resamples."""
    import numpy as np

    micros = np.array((savings, baselines)) / 1_000
    summed = np.zeros((2, REPLICATES))
    for start in range(0, len(savings), _TOGETHER):
        some = micros[:, start : start + _TOGETHER]
        # Translated in one go: numpy would hand over the interpreter with each comparison.
        times = _random(some.shape[1] * REPLICATES // 8).tobytes().translate(_TIMES_OF_BYTE)
        summed += some @ np.frombuffer(times, np.uint8).reshape(-1, REPLICATES).astype(np.float64)
    rounded: list[int] = np.rint(summed).astype(np.int64).ravel().tolist()
    return rounded


def _random(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Random 64-bit numbers, by SplitMix64 (Steele, Lea and Flood 2014) from a seed of the system's each time.

    Numpy's own generators take longer, and a package of them into memory.
    """
    import numpy as np

    numbers = np.arange(count, dtype=np.uint64)
    numbers *= np.uint64(0x9E3779B97F4A7C15)
    numbers += np.uint64(int.from_bytes(os.urandom(8), "little"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(factor)
    numbers ^= numbers >> np.uint64(31)
    return numbers
