"""Boosted trees with one structure for all models: length, wording and topic together, which linear heads can't say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.heads import TREE_DEPTH, Array


@dataclass(frozen=True, slots=True)
class Growth:
    """How trees are grown: how many, the shrinkage of each, and what keeps a leaf from learning noise."""

    trees: int = 120
    rate: float = 0.08
    smallest_leaf: int = 40
    features: float = 0.3
    """Share of features that each split may choose from."""
    rows: float = 0.7
    """Share of rows that each tree sees."""
    penalty: float = 10.0


@dataclass(frozen=True, slots=True)
class Trees:
    """Complete binary trees: ``features``, ``thresholds`` (trees, 2^depth − 1), ``leaves`` (trees × 2^depth, models).

    An input goes right where its feature exceeds the threshold; a node that does not split has an infinite one. The
    first tree's leaves include the intercepts.
    """

    features: NDArray[np.int32]
    thresholds: Array
    leaves: Array


def grow(x: Array, y: Array, weights: Array, growth: Growth, seed: int) -> Trees:
    """Trees by gradient boosting of the cross-entropy; ``weights`` is 0 for missing labels.

    Every tree splits all models' residuals at once and gives each model its own Newton step in each leaf
    (Friedman, 2001; one structure with vector leaves shares what models have in common, and serves at the cost of one).
    """
    from sklearn.tree import DecisionTreeRegressor

    random = np.random.default_rng(seed)
    start = np.log((y * weights).sum(axis=0) + 1.0) - np.log(((1.0 - y) * weights).sum(axis=0) + 1.0)
    z = np.tile(start, (len(x), 1))
    inner, outer = 2**TREE_DEPTH - 1, 2**TREE_DEPTH
    features = np.zeros((growth.trees, inner), np.int32)
    thresholds = np.full((growth.trees, inner), np.inf, np.float32)
    leaves = np.zeros((growth.trees, outer, y.shape[1]), np.float32)
    for number in range(growth.trees):
        p = 1.0 / (1.0 + np.exp(-z))
        residual, curvature = weights * (y - p), weights * p * (1.0 - p)
        rows = np.flatnonzero(random.random(len(x)) < growth.rows)
        tree = DecisionTreeRegressor(
            max_depth=TREE_DEPTH,
            min_samples_leaf=min(growth.smallest_leaf, max(1, len(rows) // 8)),
            max_features=growth.features,
            random_state=int(random.integers(1 << 30)),
        ).fit(x[rows], residual[rows])
        _copy(tree.tree_, features[number], thresholds[number])
        at = _leaf(x, features[number], thresholds[number])
        for model in range(y.shape[1]):
            slope = np.bincount(at[rows], residual[rows, model], outer)
            bend = np.bincount(at[rows], curvature[rows, model], outer)
            leaves[number, :, model] = growth.rate * slope / (bend + growth.penalty)
        z += leaves[number][at]
    if growth.trees:
        leaves[0] += start.astype(np.float32)
    return Trees(features, thresholds, leaves.reshape(-1, y.shape[1]))


def _copy(tree: object, features: NDArray[np.int32], thresholds: Array) -> None:
    """Lay a scikit-learn tree out as a complete one, node i's children at 2i + 1 and 2i + 2."""
    stack = [(0, 0)]
    while stack:
        source, target = stack.pop()
        if target >= len(features) or tree.children_left[source] < 0:  # type: ignore[attr-defined]
            continue
        features[target] = tree.feature[source]  # type: ignore[attr-defined]
        thresholds[target] = tree.threshold[source]  # type: ignore[attr-defined]
        stack.append((int(tree.children_left[source]), 2 * target + 1))  # type: ignore[attr-defined]
        stack.append((int(tree.children_right[source]), 2 * target + 2))  # type: ignore[attr-defined]


def _leaf(x: Array, features: NDArray[np.int32], thresholds: Array) -> NDArray[np.int64]:
    node = np.zeros(len(x), np.int64)
    rows = np.arange(len(x))
    for _ in range(TREE_DEPTH):
        node = 2 * node + 1 + (x[rows, features[node]] > thresholds[node])
    return node - len(features)
