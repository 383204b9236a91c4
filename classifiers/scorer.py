"""One look's heads made ready to answer for one prompt after another.

Training works on many rows by the formulas of `classifiers.heads`. Here, what can be known from the weights alone is
worked out beforehand, so that a prompt takes a few products of small matrices with one vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import sqrt

import numpy as np

from classifiers.heads import (
    FACT_SCALE,
    FREE_SCALE,
    NEARNESS,
    NGRAM_DOMAINS,
    Array,
    Grams,
    Heads,
    blend,
    combine,
    combine_lexical,
    familiarity,
    free_form,
    softmax,
    tree_logits,
)
from classifiers.lexical import LEXICAL


@dataclass(frozen=True, slots=True)
class Prediction:
    """Logits (models,) of one prompt, its domain probabilities (domains,), and whether it is out of distribution.

    ``errors`` and ``shared`` (models,) are the logits' standard errors: the model's own, and the one that moves with
    every other model's.
    """

    logits: Array
    errors: Array
    shared: Array
    domains: Array
    far: bool


class Scorer:
    """What one look says of a prompt."""

    def __init__(self, looks: Mapping[str, Heads], look: str) -> None:
        """Make the heads of ``look`` ready; every look has its n-grams and plain head from the lexical one."""
        heads, lexical = looks[look], looks["lexical"]
        self._look, self._heads, self._table = look, heads, lexical.table
        self._width = width = len(heads.projection)
        projection = np.zeros((width + len(LEXICAL) + 1, heads.projection.shape[1]), np.float32)
        projection[:width] = heads.projection
        self._weights = {}
        for free in (0.0, 1.0):
            parts = [
                folded(heads.weights, look, width, free),
                folded(lexical.weights, "lexical", width, free),
                folded(lexical.plain, "lexical", width, free),
                folded(heads.spread, look, width, free),
                projection,
            ]
            self._weights[free] = np.ascontiguousarray(np.concatenate(parts, axis=1))
        self._spans = list(pairwise(accumulate((part.shape[1] for part in parts), initial=0)))
        self._places = heads.places.copy()
        self._places[:, width:] *= FACT_SCALE[look]

    def score(self, vector: Array, facts: Array, grams: Grams) -> Prediction:
        """Answer for a prompt with this vector (d,), these lexical facts, and these n-grams."""
        heads, width = self._heads, self._width
        x = np.empty(width + len(LEXICAL) + 1, np.float32)
        x[:width], x[width:-1], x[-1] = vector, facts, 1.0
        free = float(free_form(facts[None])[0])
        found = x @ self._weights[free]
        own, words, plain, spread, projected = (found[start:end] for start, end in self._spans)
        indices, values = grams
        words = words + values @ self._table.take(indices, axis=0)
        trees = np.concatenate((projected, facts))[None]
        grown = tree_logits(trees, heads.features, heads.thresholds, heads.leaves)[0]
        models = len(heads.scale)
        nearest = self._closeness(x)
        familiar = float(familiarity(nearest, heads.reach))
        if self._look == "lexical":
            logits, domains = combine_lexical(words[:models], grown, plain), words[models:]
        else:
            near = softmax(np.float32(NEARNESS) * (heads.centroids @ x[:width])) @ heads.means
            logits = combine(words[:models], grown, own[:models], near, plain, familiar, free)
            domains = NGRAM_DOMAINS * words[models:] + (1.0 - NGRAM_DOMAINS) * own[models:]
        return Prediction(
            logits=logits * heads.scale + heads.shift,
            errors=np.sqrt(spread @ spread + np.square(blend(familiar, heads.noise))),
            shared=blend(familiar, heads.shared),
            domains=softmax(domains),
            far=bool(nearest < heads.reach[0]),
        )

    def _closeness(self, x: Array) -> float:
        """The cosine of a prompt to the nearest place, as `heads.closeness` has it."""
        if not len(self._places):
            return 1.0
        vector, facts = x[: self._width], x[self._width : -1]
        length = sqrt(vector @ vector + FACT_SCALE[self._look] ** 2 * (facts @ facts))
        return float((self._places @ x[:-1]).max()) / max(length, 1e-9)


def folded(weights: Array, look: str, width: int, free: float) -> Array:
    """Weights of a row as `heads.design` lays it out, as weights of (vector, facts, 1), where ``free`` is known.

    A look without vectors gets rows of zeros for the ``width`` entries of the vector that it does not read.
    """
    half = len(weights) // 2
    again = FREE_SCALE * free
    inputs = weights[: half - 1] + again * weights[half:-1]
    own = len(inputs) - len(LEXICAL)
    inputs[own:] *= FACT_SCALE[look]
    constant = again * weights[half - 1] + weights[-1]
    unread = np.zeros((width - own, weights.shape[1]), np.float32)
    return np.concatenate([unread, inputs, constant[None]])
