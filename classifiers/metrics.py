"""The figures that routing is judged by, each from arrays alone; a figure that cannot be computed is NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def gain_curve(score: Floats, small: Floats, large: Floats) -> Floats:
    """Quality by the number of strong calls, length n + 1, when prompts go to the large model by falling ``score``."""
    order = np.argsort(-np.asarray(score), kind="stable")
    gain = (np.asarray(large, float) - np.asarray(small, float))[order]
    return np.concatenate([[0.0], np.cumsum(gain)]) / len(gain) + np.mean(small)


def pgr(curve: Floats) -> Floats:
    """Performance gap recovered, (r − r_small) / (r_large − r_small), along a `gain_curve` (RouteLLM, 2406.18665)."""
    gap = curve[-1] - curve[0]
    return (curve - curve[0]) / gap if gap else np.full(len(curve), np.nan)


def apgr(score: Floats, small: Floats, large: Floats) -> float:
    """Average PGR: the area of PGR over the share of strong calls; 0.5 is random (RouteLLM)."""
    found = pgr(gain_curve(score, small, large))
    return float(np.trapezoid(found, np.linspace(0.0, 1.0, len(found))))


def cpt(score: Floats, small: Floats, large: Floats, level: float) -> float:
    """Call-performance threshold: the least share of strong calls whose PGR reaches ``level`` (RouteLLM)."""
    found = pgr(gain_curve(score, small, large))
    reached = np.flatnonzero(found >= level)
    return float(reached[0] / (len(found) - 1)) if len(reached) else float("nan")


def hull(cost: Floats, quality: Floats) -> tuple[Floats, Floats]:
    """The non-decreasing upper convex hull of points (cost, quality), by rising cost (RouterBench, 2403.12031)."""
    order = np.lexsort((-np.asarray(quality), cost))
    kept: list[tuple[float, float]] = []
    for x, y in zip(np.asarray(cost)[order].tolist(), np.asarray(quality)[order].tolist(), strict=True):
        if kept and y <= kept[-1][1]:
            continue
        while len(kept) > 1 and (kept[-1][1] - kept[-2][1]) * (x - kept[-1][0]) <= (y - kept[-1][1]) * (
            kept[-1][0] - kept[-2][0]
        ):
            kept.pop()
        if not kept or x > kept[-1][0]:
            kept.append((x, y))
    return np.array([x for x, _ in kept]), np.array([y for _, y in kept])


def aiq(cost: Floats, quality: Floats, low: float, high: float) -> float:
    """Average improvement in quality: the hull's mean height over costs from ``low`` to ``high`` (RouterBench)."""
    x, y = hull(cost, quality)
    if not len(x) or high <= low:
        return float("nan")
    grid = np.linspace(low, high, 512)
    return float(np.interp(grid, x, y, left=0.0 if low < x[0] else y[0]).mean())


def cost_at(cost: Floats, quality: Floats, level: float) -> float:
    """The least cost on the hull that reaches a quality of ``level``, NaN where none does."""
    x, y = hull(cost, quality)
    if not len(x) or y[-1] < level - 1e-12:
        return float("nan")
    return float(x[0]) if y[0] >= level else float(np.interp(level, y, x))


def ece(p: Floats, label: Floats, bins: int = 15) -> float:
    """Expected calibration error over ``bins`` bins of equal count (Nguyen and O'Connor, 2015)."""
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(len(i) * abs(np.mean(p[i]) - np.mean(label[i])) for i in parts if len(i)) / max(1, len(p)))


def brier(p: Floats, label: Floats) -> float:
    """Mean squared error of probabilities."""
    return float(np.mean(np.square(np.asarray(p) - label)))


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a proportion (Clopper and Pearson, 1934)."""
    from scipy.stats import beta  # type: ignore[import-untyped]

    tail = (1.0 - confidence) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1.0 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def interval(
    figure: Callable[[NDArray[np.int64]], float], rows: int, seed: int = 0, rounds: int = 400
) -> tuple[float, float]:
    """Bootstrap 95% interval of ``figure(indices)`` over resampled rows; rounds that give NaN are left out."""
    random = np.random.default_rng(seed)
    found = np.array([figure(random.integers(0, rows, rows)) for _ in range(rounds)])
    found = found[np.isfinite(found)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def keep_quality_threshold(
    risk: Floats, small: Floats, large: Floats, keep: float, confidence: float = 0.95
) -> tuple[float, float]:
    """(threshold, share kept small): prompts whose ``risk``, such as a predicted gain, is up to it may go to the small.

    The largest of 64 thresholds, on held-out predictions, whose *net* loss (mean of large − small over all prompts,
    counting those sent small) is within (1 − keep) × the large model's quality with ``confidence``. Net, because labels
    are noisy: what the small model gets right and the large one does not counts back. Thresholds are tested from the
    strictest on until one fails, so that no correction is due for their number (Learn then Test, 2110.01052), each by
    `exceeds_zero`, exact for any bounded scores. (-inf, 0) where not even the strictest passes.
    """
    order = np.argsort(risk, kind="stable")
    mixed = np.random.default_rng(0).permutation(len(order))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    allowed = (1.0 - keep) * np.asarray(large, float)
    loss = np.asarray(large, float) - np.asarray(small, float)
    found = float("-inf"), 0.0
    for last in np.unique(np.linspace(1, len(order), 64).astype(int)) - 1:
        slack = allowed - np.where(rank <= last, loss, 0.0)
        if not exceeds_zero(slack[mixed], confidence):
            break
        found = float(np.asarray(risk)[order[last]]), (last + 1) / len(order)
    return found


def exceeds_zero(values: Floats, confidence: float = 0.95) -> bool:
    """Whether the mean of values of at least -1, in random order, is above zero with ``confidence``, whatever they are.

    Bets on each value a share of the capital that the values before it suggest; were the mean not above zero, the
    capital would reach 1 / (1 − confidence) no more often than that (Waudby-Smith and Ramdas, 2010.09686).
    """
    before = np.arange(1, len(values) + 1)
    mean = (np.cumsum(values) - values) / before
    square = (np.cumsum(np.square(values)) - np.square(values) + 0.25) / before
    bets = np.clip(mean / square, 0.0, 0.9)
    return bool(np.cumsum(np.log1p(bets * values)).max(initial=0.0) >= -np.log(1.0 - confidence))
