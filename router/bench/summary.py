"""From timings to figures with 95% intervals, and from two backends' figures to what differs between them.

Intervals are percentile bootstraps (Efron and Tibshirani 1993, ch. 13) over rounds: requests of one round share the
machine's mood, so rounds are what is drawn again. Differences are paired by round, since both backends were asked the
same in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.bench.measure import Round, Timing

DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with the ends of its 95% interval; all None where there is nothing to measure."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """One backend at one concurrency. Times are in milliseconds; ``errors`` counts failures by kind."""

    target: str
    concurrency: int
    requests: int
    errors: dict[str, int]
    ttft_p50: Figure
    ttft_p95: Figure
    tpot_p50: Figure
    tokens_per_second: Figure
    requests_per_second: Figure


@dataclass(frozen=True, slots=True)
class Difference:
    """The second backend against the first at one concurrency: ratios of their figures, 1 where they are alike."""

    concurrency: int
    ttft_p50: Figure
    tpot_p50: Figure
    tokens_per_second: Figure


Statistic = Callable[[Sequence[Round]], float | None]


def ttft(quantile: float) -> Statistic:
    """A quantile of the time to first token."""
    return lambda rounds: _quantile([t.ttft_ms for t in _answered(rounds)], quantile)


def tpot(rounds: Sequence[Round]) -> float | None:
    """The median time per output token."""
    return _quantile([t.tpot_ms for t in _answered(rounds) if t.tpot_ms is not None], 0.5)


def throughput(rounds: Sequence[Round]) -> float | None:
    """Output tokens per second over all clients together."""
    seconds = sum(each.seconds for each in rounds)
    return sum(t.tokens for t in _answered(rounds)) / seconds if seconds else None


def rate(rounds: Sequence[Round]) -> float | None:
    """Answered requests per second."""
    seconds = sum(each.seconds for each in rounds)
    return len(_answered(rounds)) / seconds if seconds else None


def summarise(rounds: Sequence[Round]) -> list[Summary]:
    """One summary for each backend and concurrency, in the order measured."""
    found = []
    for concurrency in dict.fromkeys(each.concurrency for each in rounds):
        for target in dict.fromkeys(each.target for each in rounds):
            some = [each for each in rounds if (each.concurrency, each.target) == (concurrency, target)]
            timings = [timing for each in some for timing in each.timings]
            figures = (_figure(some, statistic) for statistic in (ttft(0.5), ttft(0.95), tpot, throughput, rate))
            errors = dict(Counter(timing.error for timing in timings if timing.error))
            found.append(Summary(target, concurrency, len(timings), errors, *figures))
    return found


def compare(rounds: Sequence[Round], first: str, second: str) -> list[Difference]:
    """The second backend against the first, at each concurrency."""
    found = []
    for concurrency in dict.fromkeys(each.concurrency for each in rounds):
        one, other = ([r for r in rounds if (r.concurrency, r.target) == (concurrency, t)] for t in (first, second))
        found.append(Difference(concurrency, *(_ratio(one, other, each) for each in (ttft(0.5), tpot, throughput))))
    return found


def _answered(rounds: Sequence[Round]) -> list[Timing]:
    return [timing for each in rounds for timing in each.timings if not timing.error]


def _quantile(values: Sequence[float], quantile: float) -> float | None:
    return float(np.quantile(values, quantile)) if values else None


def _figure(rounds: Sequence[Round], statistic: Statistic) -> Figure:
    drawn = [statistic([rounds[index] for index in draw]) for draw in _draws(len(rounds))]
    return _with_interval(statistic(rounds), drawn)


def _ratio(one: Sequence[Round], other: Sequence[Round], statistic: Statistic) -> Figure:
    def ratio(a: Sequence[Round], b: Sequence[Round]) -> float | None:
        before, after = statistic(a), statistic(b)
        return after / before if before and after is not None else None

    drawn = [ratio([one[i] for i in draw], [other[i] for i in draw]) for draw in _draws(min(len(one), len(other)))]
    return _with_interval(ratio(one, other), drawn)


def _draws(rounds: int) -> NDArray[np.int64]:
    """Rounds to draw again, the same at every call so that results can be repeated. One round has no interval."""
    return np.random.default_rng(0).integers(0, rounds, (DRAWS if rounds > 1 else 0, rounds))


def _with_interval(value: float | None, drawn: Sequence[float | None]) -> Figure:
    known = [each for each in drawn if each is not None]
    if value is None or not known:
        return Figure(value)
    low, high = np.quantile(known, (0.025, 0.975))
    return Figure(value, float(low), float(high))
