"""Fitting heads: joint, strongly regularised logistic regressions over blocks of rows. Offline only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from classifiers.heads import Array

Design: TypeAlias = Any
"""Rows by inputs: a dense float32 array or a scipy CSR matrix."""

Blocks = Callable[[], Iterator[tuple[Design, Array, Array]]]
"""Yields (design, labels, weights) blocks, the same ones each time it is called: what lets data exceed memory."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """L2 strengths: ``shared`` on the direction that all columns have in common, ``own`` on each one's deviation."""

    shared: float = 10.0
    own: float = 20.0


def fit_logistic(
    blocks: Blocks, depth: int, columns: int, penalty: Penalty, iterations: int = 100, start: Array | None = None
) -> Array:
    """Weights (depth, columns) of columns' logistic regressions that share a direction.

    Column m's weights are w + d_m: an item-response model whose difficulty w·x is shared and whose abilities vary with
    x by d_m·x. Minimises sum of weight × cross-entropy + shared/2 |w|² + own/2 Σ|d_m|² by L-BFGS; the design's last
    entry, the one, is not penalised. Labels may be fractions; a weight of 0 marks a missing one. ``start`` is what to
    begin at, by default nought.
    """
    free = np.ones(depth)
    free[-1] = 0.0

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        shared, own = theta[:depth], theta[depth:].reshape(depth, columns)
        weights = (shared[:, None] + own).astype(np.float32)
        total = 0.0
        gradient = np.zeros((depth, columns))
        for x, y, w in blocks():
            z = x @ weights
            total += float((w * (np.logaddexp(0.0, z) - y * z)).sum(dtype=np.float64))
            gradient += x.T @ (w * (1.0 / (1.0 + np.exp(-z)) - y))
        total += penalty.shared / 2 * float(free @ shared**2) + penalty.own / 2 * float((free @ own**2).sum())
        # The unpenalised intercepts are the own ones; the shared intercept stays 0.
        slope = gradient.sum(axis=1) * free + penalty.shared * free * shared
        return total, np.concatenate([slope, (gradient + penalty.own * free[:, None] * own).ravel()])

    found = minimize(
        loss,
        np.zeros(depth * (columns + 1)) if start is None else _split(start, free, penalty),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "ftol": 1e-7},
    )
    return np.asarray(found.x[:depth, None] + found.x[depth:].reshape(depth, columns), np.float32)


def _split(weights: Array, free: NDArray[np.float64], penalty: Penalty) -> NDArray[np.float64]:
    """Columns' weights as the shared direction and the deviations that cost least."""
    whole = weights.astype(np.float64)
    shared = penalty.own * whole.sum(axis=1) / (penalty.shared + penalty.own * whole.shape[1]) * free
    return np.concatenate([shared, (whole - shared[:, None]).ravel()])


def fit_softmax(x: Design, labels: NDArray[np.int64], weights: Array, classes: int, penalty: float) -> Array:
    """Weights (depth, classes) of an L2-regularised multinomial regression by L-BFGS; ``x`` ends in a one, unpenalised.

    A class without rows ends up with the lowest intercept.
    """
    depth = x.shape[1]
    truth = np.zeros((len(labels), classes), np.float32)
    truth[np.arange(len(labels)), labels] = 1.0
    free = np.full((depth, 1), penalty)
    free[-1] = 1e-3

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = theta.reshape(depth, classes)
        z = x @ w.astype(np.float32)
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        total = p.sum(axis=1, keepdims=True)
        value = float((weights * (np.log(total[:, 0]) - (truth * z).sum(axis=1))).sum(dtype=np.float64))
        gradient = x.T @ (weights[:, None] * (p / total - truth))
        return value + float((free * w**2).sum()) / 2, (gradient + free * w).ravel()

    found = minimize(
        loss, np.zeros(depth * classes), jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-7}
    )
    return np.asarray(found.x.reshape(depth, classes), np.float32)


def posterior_spread(x: Array, weights: Array, p: Array, penalty: float, rank: int = 48) -> Array:
    """A factor S (depth, rank) of the Laplace posterior's covariance, so that a logit's variance at x is |x @ S|².

    One factor serves all columns: it uses the mean curvature weight × p(1 − p) over them. The directions with most
    posterior variance over the data are kept.
    """
    curvature = (weights * p * (1 - p)).sum(axis=1) / np.maximum((weights > 0).any(axis=0).sum(), 1)
    precision = (x * curvature[:, None]).T @ x + penalty * np.eye(x.shape[1], dtype=np.float32)
    values, vectors = np.linalg.eigh(precision.astype(np.float64))
    moment = np.einsum("nd,dk->nk", x, vectors.astype(np.float32))
    gain = np.square(moment).mean(axis=0) / values
    keep = np.sort(np.argsort(-gain)[:rank])
    return np.asarray(vectors[:, keep] / np.sqrt(values[keep]), np.float32)


def platt(logits: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[float, float]:
    """(a, b) such that sigmoid(a·logit + b) is calibrated on held-out logits (Platt's scaling), a kept above 0.1."""

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = theta[0] * logits + theta[1]
        error = 1.0 / (1.0 + np.exp(-z)) - labels
        prior = theta - np.array([1.0, 0.0])
        value = float((np.logaddexp(0.0, z) - labels * z).sum() + 2.0 * prior @ prior)
        return value, np.array([error @ logits, error.sum()]) + 4.0 * prior

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.1, 4.0), (-5.0, 5.0)])
    return float(found.x[0]), float(found.x[1])
