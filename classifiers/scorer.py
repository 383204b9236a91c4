"""One look's heads made ready to answer for one prompt after another.

Training works on many rows by the formulas of `classifiers.heads`. Here, what can be known from the weights alone is
worked out beforehand, so that a prompt takes a few products of small matrices with one vector. What is left for each
model that is asked about is a handful of numbers, for which plain ones are sooner than arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, sqrt

import numpy as np

from classifiers.heads import (
    FACT_SCALE,
    FREE_SCALE,
    KNOWN,
    MORE_PLAIN,
    NEARNESS,
    NGRAM_DOMAINS,
    OPTIONS,
    PLAIN,
    TREE_DEPTH,
    Array,
    Grams,
    Heads,
    layout,
)
from classifiers.lexical import LEXICAL
from policies.frozen import quick


@quick
@dataclass(frozen=True, slots=True)
class Prediction:
    """Logits of one prompt for each model asked about, its domains' probabilities, and whether it is out of
    distribution.

    ``errors`` and ``shared`` are the logits' standard errors: the model's own, and the one that moves with every other
    model's.
    """

    logits: Sequence[float]
    errors: Sequence[float]
    shared: Sequence[float]
    domains: Sequence[float]
    far: bool


class Scorer:
    """What one look says of a prompt."""

    def __init__(self, looks: Mapping[str, Heads], look: str, models: Sequence[int] | None = None) -> None:
        """Make the heads of ``look`` ready; every look has its plain head, and n-grams, from the lexical one.

        ``models`` are those to answer for, by their places in the heads' columns: all unless said.
        """
        heads, lexical = looks[look], looks["lexical"]
        self._models = list(range(len(heads.scale)) if models is None else models)
        self._look, self._width, self._share = look, len(heads.projection), NGRAM_DOMAINS[look]
        self.reads_grams = self._share > 0.0
        scale, self._shift = heads.scale[self._models], heads.shift[self._models].tolist()
        domains = lexical.table[:, len(heads.scale) :]
        table = (lexical.table[:, self._models] * scale, domains * np.float32(self._share))
        self._table = np.concatenate(table, axis=1) if self.reads_grams else None
        self._weights = tuple(self._product(heads, lexical, free) for free in (0.0, 1.0))
        self._row = np.zeros(sum(self._weights[0].shape), np.float32)
        self._row[len(self._weights[0]) - 1] = 1.0
        self._trees = _Trees(
            heads, self._models, self._width, self._ends[-3], scale if look == "lexical" else 2.0 * scale
        )
        self._centroids = heads.centroids * np.float32(NEARNESS)
        ones = np.ones((len(heads.means), 1), np.float32)
        self._means = np.concatenate([heads.means[:, self._models] * scale, ones], axis=1)
        self._fact_scale = FACT_SCALE[look] ** 2
        self._reach = heads.reach.tolist()
        self._noise, self._shared = (_line(ends[:, self._models]) for ends in (heads.noise, heads.shared))

    def _product(self, heads: Heads, lexical: Heads, free: float) -> Array:
        """The matrix that takes (vector, facts, 1) to all that is linear in it.

        That is for each model the plain head, and what the n-gram head's facts and the linear head come to; domains;
        the variance's factor; the trees' components; and cosines to the places, times the prompt's length.
        """
        width, models, domains, look = self._width, self._models, slice(len(heads.scale), None), self._look
        scale = heads.scale[models]
        own, words, plain, spread = (
            folded(weights, of, width, free)
            for weights, of in (
                (heads.weights, look),
                (lexical.weights, "lexical"),
                (lexical.plain, "lexical"),
                (heads.spread, look),
            )
        )
        topics = self._share * words[:, domains] + (1.0 - self._share) * own[:, domains]
        steady = np.float32(self.reads_grams) * words[:, models]
        if look != "lexical":
            steady = steady + (1.0 + free) * own[:, models]
        components = np.zeros((width + len(LEXICAL) + 1, heads.projection.shape[1]))
        components[:width] = heads.projection
        places = np.zeros((width + len(LEXICAL) + 1, len(heads.places)))
        places[: heads.places.shape[1]] = heads.places.T
        places[width:] *= FACT_SCALE[look]
        parts = (plain[:, models] * scale, steady * scale, topics, spread, components, places)
        self._ends = list(accumulate(part.shape[1] for part in parts))
        return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)

    def score(self, vector: Array, facts: Array, grams: Grams | None) -> Prediction:
        """Answer for a prompt with this vector (d,), of length 1, these facts, and n-grams.

        They may be None where the look does not read them (see `reads_grams`); raises `ValueError` where it does.
        """
        free = facts.item(OPTIONS) <= 0.0
        row, weights = self._row.copy(), self._weights[free]
        row[: self._width], row[self._width : len(weights) - 1] = vector, facts
        x = row[: len(weights)]
        found = x.dot(weights, out=row[len(weights) :])  # for so little, the operator takes as long again
        plain, models, domains, spread, components, _ = self._ends
        factor = found[domains:spread]
        variance = float(factor.dot(factor))
        if self._table is not None:
            if grams is None:
                raise ValueError(f"the {self._look} look reads n-grams, which were not given")
            indices, values = grams
            found[plain:domains] += values.dot(self._table.take(indices, axis=0, mode="clip"))
        told = found[:domains].tolist()
        nearest = self._closeness(found[components:], facts)
        low, high = self._reach[1:]
        familiar = min(1.0, max(0.0, (nearest - low) / max(high - low, 1e-6)))
        grown = self._trees.logits(row)
        logits = self._combined(told[plain:models], told[:plain], grown, vector, familiar, free)
        return Prediction(
            logits,
            [sqrt(variance + (unseen + familiar * change) ** 2) for unseen, change in self._noise],
            [unseen + familiar * change for unseen, change in self._shared],
            softmax(told[models:]),
            nearest < self._reach[0],
        )

    def _combined(
        self, steady: list[float], plain: list[float], grown: list[float], vector: Array, familiar: float, free: bool
    ) -> list[float]:
        """Calibrated logits from the members', as the ``combine_`` of the look in `heads` has them.

        Members come multiplied by calibration's scale, and trees by what they count for.
        """
        if self._look == "lexical":
            members = zip(steady, grown, plain, self._shift, strict=True)
            return [(own + leaf + fact) / 3.0 + shift for own, leaf, fact, shift in members]
        strange = max(1.0 - familiar / KNOWN, 0.0)
        facts = PLAIN + MORE_PLAIN * strange if free else PLAIN
        all_told = (4.0 if free else 3.0) + facts
        if self._look == "static":
            members = zip(steady, grown, plain, self._shift, strict=True)
            return [(own + leaf + facts * fact) / all_told + shift for own, leaf, fact, shift in members]
        *near, weights = np.exp(self._centroids.dot(vector)).dot(self._means).tolist()
        most, all_told = (1.0 - strange) / weights, all_told + 2.0 - strange
        return [
            (own + leaf + most * cluster + facts * fact) / all_told + shift
            for own, leaf, cluster, fact, shift in zip(steady, grown, near, plain, self._shift, strict=True)
        ]

    def _closeness(self, near: Array, facts: Array) -> float:
        """The cosine of a prompt to the nearest place, as `heads.closeness` has it; its vector is of length 1."""
        if not len(near):
            return 1.0
        return float(near[near.argmax()]) / sqrt(1.0 + self._fact_scale * facts.dot(facts))


class _Trees:
    """A look's trees, which read (vector, facts, 1, what is linear in them): of this, the vector's components."""

    def __init__(self, heads: Heads, models: Sequence[int], width: int, skipped: int, scale: Array) -> None:
        components, before = heads.projection.shape[1], width + len(LEXICAL) + 1 + skipped
        read = heads.features.ravel().astype(np.int64)
        self._nodes = np.where(read < components, before + read, width + read - components)
        self._limits, (self._roots, self._left) = heads.thresholds.ravel(), layout(*heads.features.shape)
        self._leaves = np.ascontiguousarray(heads.leaves[:, models] * scale)
        self._once = np.ones(len(heads.features), np.float32)

    def logits(self, x: Array) -> list[float]:
        """As `heads.tree_logits` has them, of one prompt."""
        below = (x.take(self._nodes) > self._limits) + self._left
        at = self._roots
        for _ in range(TREE_DEPTH):
            at = below.take(at)
        return self._once.dot(self._leaves.take(at, axis=0)).tolist()  # type: ignore[no-any-return]


def _line(ends: Array) -> list[tuple[float, float]]:
    """For each model what `heads.blend` is where nothing is familiar, and by how much it changes where all is."""
    unseen, seen = ends.tolist()
    return [(start, end - start) for start, end in zip(unseen, seen, strict=True)]


def softmax(z: Sequence[float]) -> list[float]:
    """Softmax of a few numbers."""
    most = max(z)
    e = [exp(one - most) for one in z]
    total = sum(e)
    return [one / total for one in e]


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
