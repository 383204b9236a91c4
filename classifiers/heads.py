"""The trained heads of one look, as arrays: vectors in, probabilities with standard errors out. Numpy only.

One matrix product gives every logit: models' success and the domains. The product's input ("design") is the look's
vector followed by the lexical features and a one. Calibration (Platt) is folded into the weights when they are
trained, so serving never pays for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.features import LEXICAL

Array = NDArray[np.float32]

LEXICAL_SCALE = 0.5
"""Lexical columns are multiplied by this beside unit vectors: what an L2 penalty shared by both should see."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Arrays of one look; ``d`` its vector's length (0 for the lexical look), D = d + lexical features + 1.

    ``weights`` (D, models + domains); ``spread`` (D, rank), a factor of the posterior covariance of a model's logit, so
    that its variance at x is |x @ spread|²; ``noise`` (models,), standard deviation of a logit's error that the
    posterior does not see, measured on held-out groups; ``centroids`` (clusters, d) of the training vectors;
    ``residuals`` (clusters, models), each cluster's shrunken mean error; ``far``, the cosine to the nearest centroid
    below which a prompt is out of distribution.
    """

    weights: Array
    spread: Array
    noise: Array
    centroids: Array
    residuals: Array
    far: float

    @property
    def models(self) -> int:
        """How many models the heads predict."""
        return len(self.noise)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Logits (n, models) with standard errors (n, models), domain probabilities (n, domains), distance flags (n,)."""

    logits: Array
    errors: Array
    domains: Array
    far: NDArray[np.bool_]


def design(vectors: Array, lexical: Array) -> Array:
    """Rows (n, d) and (n, lexical features) to the heads' input (n, D)."""
    n = len(lexical)
    x = np.empty((n, vectors.shape[1] + len(LEXICAL) + 1), np.float32)
    x[:, : vectors.shape[1]] = vectors
    x[:, vectors.shape[1] : -1] = lexical * np.float32(LEXICAL_SCALE)
    x[:, -1] = 1.0
    return x


def predict(heads: Heads, vectors: Array, lexical: Array) -> Prediction:
    """What the heads say of ``n`` prompts. The lexical look has ``vectors`` of shape (n, 0)."""
    x = design(vectors, lexical)
    out = x @ heads.weights
    logits = out[:, : heads.models]
    variance = np.square(x @ heads.spread).sum(axis=1, keepdims=True)
    if len(heads.centroids):
        cosine = vectors @ heads.centroids.T
        near = np.exp(NEARNESS * (cosine - cosine.max(axis=1, keepdims=True)))
        logits = logits + (near / near.sum(axis=1, keepdims=True)) @ heads.residuals
        far = cosine.max(axis=1) < heads.far
    else:
        far = np.zeros(len(x), bool)
    return Prediction(
        logits=logits,
        errors=np.sqrt(variance + np.square(heads.noise)),
        domains=softmax(out[:, heads.models :]),
        far=far,
    )


NEARNESS = 20.0
"""Sharpness of the soft assignment to clusters, in units of cosine."""


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), safe for any finite z."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)), np.float32)


def softmax(z: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)
