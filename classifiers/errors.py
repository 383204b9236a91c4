"""How predictions err, together and apart, learnt from the residuals of tasks that were held out. Offline only.

A task that is harder than it looks is harder for every model, so that the difference of two predictions is known far
better than either. In logits, model m's error on a task is s·b_m·u + e_m: one factor u that all models share, a loading
b_m near 1 (it is 1 in Rasch's model, where difficulty moves all logits alike), and an error e_m of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from classifiers.heads import Array, sigmoid

FEWEST = 20
"""Rows from which a task tells how far its predictions were off."""

PRIOR = 0.3
"""Standard deviation, in logits, of the shared and of a model's own error, which counts as one task."""

LIKE_THE_REST = 5.0
"""Tasks that it takes for a model's own loading and error to count as much as what is usual among models."""

_RIDGE = 0.25
"""Precision of the prior on a task's shift: none is taken to be far beyond two logits."""

_STEPS = 20

Floats = NDArray[np.float64]


def fit_errors(
    tasks: Sequence[str], scores: Array, logits: Array, classes: int = 0, apart: Floats | float = 0.0
) -> tuple[Array, Array]:
    """(shared, own): standard deviations (models,) in logits of the factor that models share and of the rest.

    ``scores`` and held-out, calibrated ``logits`` are (n, models). The last ``classes`` columns are means of others and
    do not count for what is shared. A benchmark (the part of a task before a slash) counts once, however many tasks it
    has. ``apart`` (models, models) is a covariance of other errors, to be added.
    """
    names = np.array(tasks)
    total = np.zeros((scores.shape[1], scores.shape[1]))
    count = np.zeros_like(total)
    units = [u for u in np.unique(names) if (names == u).sum() >= FEWEST]
    benchmarks = [str(u).split("/")[0] for u in units]
    for unit, benchmark in zip(units, benchmarks, strict=True):
        rows = names == unit
        shift, sampling = _shift(scores[rows], logits[rows])
        found = np.outer(shift, shift) - sampling
        weight = 1.0 / benchmarks.count(benchmark)
        total += weight * np.nan_to_num(found)
        count += weight * np.isfinite(found)
    covariance = total / np.maximum(count, 1e-9) + np.where(count > 0, apart, 0.0)
    return _one_factor(covariance, count, classes)


def _shift(scores: Array, logits: Array) -> tuple[Floats, Floats]:
    """By how many logits (models,) one task's predictions were off, and what of its square is sampling (models²)."""
    known = np.isfinite(scores)
    y, z = np.where(known, scores, 0.0), logits.astype(np.float64)
    shift = np.zeros(scores.shape[1])
    for _ in range(_STEPS):
        p = sigmoid(z + shift)  # type: ignore[arg-type]
        slope = (known * p * (1 - p)).sum(axis=0) + _RIDGE
        shift += np.clip(((known * (y - p)).sum(axis=0) - _RIDGE * shift) / slope, -1.0, 1.0)
    residual = known * (y - sigmoid(z + shift))  # type: ignore[arg-type]
    sampling = (residual.T @ residual) / np.outer(slope, slope)
    few = known.sum(axis=0) < FEWEST
    sampling[few] = sampling[:, few] = np.nan
    return np.where(few, np.nan, shift), sampling


def _one_factor(covariance: Floats, count: Floats, classes: int) -> tuple[Array, Array]:
    """Loadings and own deviations from moments, each drawn to what is usual by as much as it is seldom seen."""
    models = len(covariance)
    pairs = count * ~np.eye(models, dtype=bool)
    pairs[:, models - classes :] = 0.0
    among = pairs.copy()
    among[models - classes :] = 0.0
    tasks = among.max(initial=0.0)
    mean = (covariance * among).sum() / max(among.sum(), 1e-9)
    shared = max((tasks * mean + PRIOR**2) / (tasks + 1.0), 0.0)
    seen = pairs.max(axis=1, initial=0.0)
    loading = (covariance * pairs).sum(axis=1) / np.maximum(pairs.sum(axis=1), 1e-9) / max(shared, 1e-9)
    loading = np.clip((seen * loading + LIKE_THE_REST) / (seen + LIKE_THE_REST), 0.25, 4.0)
    alone = np.diag(count)
    own = np.maximum(np.diag(covariance) - shared * loading**2, 0.0)
    usual = float(np.median(own[alone >= LIKE_THE_REST])) if (alone >= LIKE_THE_REST).any() else float(np.mean(own))
    usual = (alone.max() * usual + PRIOR**2) / (alone.max() + 1.0)
    own = (alone * own + LIKE_THE_REST * usual) / (alone + LIKE_THE_REST)
    return np.asarray(np.sqrt(shared) * loading, np.float32), np.asarray(np.sqrt(own), np.float32)
