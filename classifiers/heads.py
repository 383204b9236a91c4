"""The trained heads of a look, as arrays: vectors in, logits with standard errors out. Numpy only.

Members answer for a look, and their weighted mean logit counts: a linear head over the look's vector and the lexical
facts; one over the text's hashed n-grams and the same facts; boosted trees over a projection of the vector and the
facts; the mean success of the nearest clusters of training prompts; and a plain head over the facts alone. The full
look has all of them (`combine_full`), the static look those that it gains by, which are the first, third and last
(`combine_static`), the lexical look, which has no encoder, the second, third and last (`combine_lexical`). Domains come
from the linear heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers.lexical import LEXICAL

Array = NDArray[np.float32]
Grams = tuple[NDArray[np.int64], Array]
"""Indices and values of one text's `classifiers.ngrams.ngrams`."""

FACT_SCALE = {"lexical": 0.3, "static": 0.5, "full": 0.5}
"""Lexical facts are multiplied by this beside vectors of length 1: what an L2 penalty shared by both should see."""

NEARNESS = 30.0
"""Sharpness of the soft assignment to clusters, in units of cosine."""

TREE_DEPTH = 4

NGRAM_DOMAINS = {"lexical": 1.0, "static": 0.0, "full": 0.15}
"""Weight of the n-grams' domain logits beside an encoder's; a look where it is nothing does not read n-grams at all."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Arrays of one look; ``d`` its encoder's vector length (0 for the lexical look), D = d + lexical facts + 1.

    Linear: ``weights`` (D, columns), and in the lexical look alone ``table`` (n-grams, columns); columns are models,
    then domains. In the lexical look alone, ``plain`` (2 · (lexical facts + 1), models). Trees: ``projection`` (d, k)
    of the vector before the facts, ``features`` and ``thresholds`` (trees, 2^depth − 1), ``leaves`` (trees × 2^depth,
    models). Clusters, in the full look alone: ``centroids`` (clusters, d) of length 1, ``means`` (clusters, models) in
    logits. ``scale`` and ``shift`` (models,) calibrate the mean logit (Platt).

    ``places`` (places, d + lexical facts), of length 1, are where training prompts stood, by vector and facts;
    ``reach`` holds three cosines to the nearest of them: below the first a prompt is out of distribution, between the
    second and the third its familiarity rises from 0 to 1. Errors: ``spread`` (D, rank) is a factor of the posterior
    covariance of a model's logit, whose variance at x is |x @ spread|²; ``noise`` and ``shared`` (2, models) the
    standard deviations of a logit's error that the posterior does not see, the model's own and the one that all models
    share, on tasks unlike any seen and on tasks seen (see `classifiers.errors`).

    ``enough`` (shares in `KEPT`, models, models) is the least share of the second model's predicted success that the
    first must be assured of for that share of the second's quality to be kept (see `classifiers.keeping`).
    """

    table: Array
    plain: Array
    weights: Array
    projection: Array
    features: NDArray[np.int32]
    thresholds: Array
    leaves: Array
    centroids: Array
    means: Array
    places: Array
    scale: Array
    shift: Array
    reach: Array
    spread: Array
    noise: Array
    shared: Array
    enough: Array


def design(look: str, vectors: Array, facts: Array) -> Array:
    """Rows (n, d) and (n, lexical facts) to a look's dense input (n, D).

    The input stands there twice, the second time zero for multiple-choice questions: free-form prompts, which users
    write and benchmarks mostly don't, get weights of their own where the data ask for them.
    """
    width = vectors.shape[1]
    half = width + len(LEXICAL) + 1
    free = free_form(facts)[:, None] * np.float32(FREE_SCALE)
    x = np.empty((len(facts), 2 * half), np.float32)
    x[:, :width] = vectors
    np.multiply(facts, np.float32(FACT_SCALE[look]), out=x[:, width : half - 1])
    np.multiply(x[:, : half - 1], free, out=x[:, half:-1])
    # The constant goes last, where fitting leaves it unpenalised; the free-form flag stands in the middle.
    x[:, half - 1 : half] = free
    x[:, -1] = 1.0
    return x


FREE_SCALE = 3.0
"""How much easier than the common weights the free-form ones are to move."""

OPTIONS = LEXICAL.index("options")
"""Where the facts say how many options there are to choose from."""


def free_form(facts: Array) -> Array:
    """1 where a prompt (n, lexical facts) has no options to choose from, else 0 (n,)."""
    return np.asarray(facts[:, OPTIONS] <= 0.0, np.float32)


def tree_input(vectors: Array, facts: Array, projection: Array) -> Array:
    """Rows (n, k + lexical facts) that trees read."""
    return np.concatenate([vectors @ projection, facts], axis=1)


def tree_logits(x: Array, features: NDArray[np.int32], thresholds: Array, leaves: Array) -> Array:
    """Logits (n, models) of trees laid out as in `Heads`, intercepts included."""
    trees, inner = features.shape
    if not trees:
        return np.zeros((len(x), leaves.shape[1]), np.float32)
    nodes, limits, (roots, left) = features.ravel(), thresholds.ravel(), layout(trees, inner)
    out = np.empty((len(x), leaves.shape[1]), np.float32)
    for start in range(0, len(x), _TREE_ROWS):
        part = x[start : start + _TREE_ROWS]
        rows = np.arange(0, len(part) * nodes.size, nodes.size)[:, None]
        below = (left + (part.take(nodes, axis=1) > limits)).ravel()
        at = roots
        for _ in range(TREE_DEPTH):
            at = below.take(at + rows)
        out[start : start + _TREE_ROWS] = leaves.take(at, axis=0).sum(axis=1)
    return out


@cache
def layout(trees: int, inner: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each tree's root stands among all inner nodes, and what is below each of them on the left: another inner
    node, or a leaf, by its place among all leaves. On the right is the next one."""
    node, tree = np.arange(inner), np.arange(trees)[:, None]
    left = 2 * node + 1
    return tree.ravel() * inner, np.where(left < inner, left + tree * inner, left - inner + tree * (inner + 1)).ravel()


_TREE_ROWS = 256


def cluster_logits(vectors: Array, centroids: Array, means: Array) -> Array:
    """Mean logits (n, models) of the clusters near each vector."""
    return softmax(np.float32(NEARNESS) * (vectors @ centroids.T)) @ means


def closeness(x: Array, places: Array) -> Array:
    """The cosine (n,) of each row of a look's dense input (see `design`) to the nearest place; 1 without places."""
    if not len(places):
        return np.ones(len(x), np.float32)
    part = x[:, : places.shape[1]]
    length = np.sqrt(np.add.reduce(np.square(part), axis=1))
    return np.asarray((part @ places.T).max(axis=1) / np.maximum(length, np.float32(1e-9)), np.float32)


def directions(x: Array, width: int) -> Array:
    """The first ``width`` entries of rows, each row scaled to length 1."""
    part = x[:, :width]
    return np.asarray(part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.float32(1e-9)), np.float32)


def posterior_variance(x: Array, spread: Array) -> Array:
    """The posterior variance (n, 1) of a logit at each row of a look's dense input (see `Heads.spread`)."""
    return np.asarray(np.square(x @ spread).sum(axis=1, keepdims=True), np.float32)


def familiarity(nearest: Array | float, reach: Array) -> Array:
    """How much prompts are like the training data, 0..1, by their `closeness`."""
    rise = (nearest - reach[1]) / np.maximum(reach[2] - reach[1], np.float32(1e-6))
    return np.asarray(np.minimum(np.maximum(rise, np.float32(0.0)), np.float32(1.0)), np.float32)


def blend(familiar: Array | float, noise: Array) -> Array:
    """Errors (n, models) between that on unseen tasks and that on seen ones; ``familiar`` (n, 1), or a number."""
    return np.asarray(noise[0] + familiar * (noise[1] - noise[0]), np.float32)


PLAIN, MORE_PLAIN = 0.5, 4.0
"""Members' worth that the plain head counts for, and for more where a free-form prompt is like nothing known."""

KNOWN = 0.4
"""The familiarity from which on nothing of a prompt is strange: about the median of prompts of tasks that were seen."""


def combine_full(
    words: Array, grown: Array, own: Array, near: Array, plain: Array, familiar: Array | float, free: Array | float
) -> Array:
    """The mean logit of the full look's members: n-grams, trees (twice), linear head, clusters, and the plain head.

    Of many prompts (n, models), ``familiar`` and ``free`` (n, 1); or of one (models,), where these are numbers.
    Clusters count the less, the stranger a prompt is. For a free-form one (``free`` is 1, else 0), the linear head,
    which has weights of its own for these, counts twice, and the plain head the more, the stranger it is.
    """
    known, linear, facts = _counts(familiar, free)
    total = words + 2 * grown + linear * own + known * near + facts * plain
    return np.asarray(total / (3 + linear + known + facts), np.float32)


def combine_static(grown: Array, own: Array, plain: Array, familiar: Array | float, free: Array | float) -> Array:
    """The mean logit of the static look's members, which count for as much as in `combine_full`.

    N-grams and clusters are left out: on held-out prompts it predicts as well without them (see README.md), in three
    fifths of the time.
    """
    _, linear, facts = _counts(familiar, free)
    return np.asarray((2 * grown + linear * own + facts * plain) / (2 + linear + facts), np.float32)


def _counts(familiar: Array | float, free: Array | float) -> tuple[Any, Any, Any]:
    """What clusters, the linear and the plain head count for."""
    strange = np.maximum(1 - familiar / np.float32(KNOWN), np.float32(0))
    return 1 - strange, 1 + free, PLAIN + MORE_PLAIN * strange * free


def combine_lexical(words: Array, grown: Array, plain: Array) -> Array:
    """The mean logit of the lexical look's members."""
    return np.asarray((words + grown + plain) * np.float32(1 / 3), np.float32)


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), safe for any finite z."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)), np.float32)


def probability_error(logits: Array, errors: Array) -> Array:
    """Standard errors of probabilities from those of their logits: half of what one standard error moves them by."""
    return np.asarray((sigmoid(logits + errors) - sigmoid(logits - errors)) / 2, np.float32)


def softmax(z: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)
