"""The trained heads of a look, as arrays: vectors in, logits with standard errors out. Numpy only.

Each look has linear heads over its vector and the lexical facts; the lexical look's vector is the text's hashed
n-grams. A look with an encoder answers with the mean of its own logits and the lexical look's. One matrix product gives
all of a look's logits, models' success and domains together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.features import LEXICAL

Array = NDArray[np.float32]
Grams = tuple[NDArray[np.int64], Array]
"""Indices and values of one text's `classifiers.ngrams.ngrams`."""

FACT_SCALE = {"lexical": 0.3, "static": 0.5, "full": 0.5}
"""Lexical facts are multiplied by this beside vectors of length 1: what an L2 penalty shared by both should see."""

NEARNESS = 20.0
"""Sharpness of the soft assignment to clusters, in units of cosine."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Arrays of one look; ``d`` its encoder's vector length (0 for the lexical look), D = d + lexical facts + 1.

    ``table`` (n-grams, columns) and ``weights`` (D, columns) give logits; columns are models, then domains. ``table``
    has no rows but in the lexical look. ``scale`` and ``shift`` (models,) calibrate what the look answers (Platt).
    ``spread`` (D, rank) is a factor of the posterior covariance of a model's logit, so that its variance at x is
    |x @ spread|²; ``noise`` (models,) the standard deviation of a logit's error that the posterior does not see,
    measured on held-out tasks. ``centroids`` (clusters, d) are of training vectors; ``residuals`` (clusters, models)
    each cluster's shrunken mean error in logits; ``far`` the cosine to the nearest centroid below which a prompt is out
    of distribution.
    """

    table: NDArray[np.float16]
    weights: Array
    scale: Array
    shift: Array
    spread: Array
    noise: Array
    centroids: Array
    residuals: Array
    far: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Logits (n, models) with standard errors (n, models), domain probabilities (n, domains), distance flags (n,)."""

    logits: Array
    errors: Array
    domains: Array
    far: NDArray[np.bool_]


def design(look: str, vectors: Array, facts: Array) -> Array:
    """Rows (n, d) and (n, lexical facts) to a look's dense input (n, D)."""
    width = vectors.shape[1]
    x = np.empty((len(facts), width + len(LEXICAL) + 1), np.float32)
    x[:, :width] = vectors
    x[:, width:-1] = facts * np.float32(FACT_SCALE[look])
    x[:, -1] = 1.0
    return x


def raw_logits(heads: Heads, x: Array, grams: Sequence[Grams]) -> Array:
    """Uncalibrated logits (n, columns) of one look alone."""
    out: Array = np.asarray(x @ heads.weights, np.float32)
    if len(heads.table):
        for row, (indices, values) in enumerate(grams):
            out[row] += values @ heads.table[indices].astype(np.float32)
    return out


def predict(looks: Mapping[str, Heads], look: str, vectors: Array, facts: Array, grams: Sequence[Grams]) -> Prediction:
    """What ``look`` says of ``n`` prompts. The lexical look has ``vectors`` of shape (n, 0)."""
    heads = looks[look]
    models = len(heads.noise)
    x = design(look, vectors, facts)
    out = raw_logits(heads, x, grams)
    if look != "lexical":
        plain = design("lexical", vectors[:, :0], facts)
        out = np.float32(0.5) * (out + raw_logits(looks["lexical"], plain, grams))
    logits = out[:, :models] * heads.scale + heads.shift
    far = np.zeros(len(x), bool)
    if len(heads.centroids):
        cosine = vectors @ heads.centroids.T
        logits = logits + nearness(cosine) @ heads.residuals
        far = cosine.max(axis=1) < heads.far
    variance = np.square(x @ heads.spread).sum(axis=1, keepdims=True)
    return Prediction(
        logits=logits,
        errors=np.sqrt(variance + np.square(heads.noise)),
        domains=softmax(out[:, models:]),
        far=far,
    )


def nearness(cosine: Array) -> Array:
    """Soft assignment (n, clusters) of vectors to clusters by their cosines."""
    return softmax(np.float32(NEARNESS) * cosine)


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), safe for any finite z."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)), np.float32)


def softmax(z: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)
