"""Which share of a dear model's predicted success is enough for a cheap one to keep a share of its quality.

On held-out rows, each pair of models: the cheap one's lower bound beside the dear one's prediction, as the objective
makes it, against what both then got right. Offline only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from classifiers.heads import Array, probability_error, sigmoid
from classifiers.metrics import keep_quality_threshold
from classifiers.targets import CLASSES, class_of
from policies.objective import TRUSTED
from policies.values import KEPT

FEWEST = 200
"""Rows that both models of a pair need; one with fewer is judged as the pair of their size classes is."""

NEVER = 2.0
"""The share of the dear model's success that no prediction reaches: for what held-out rows forbid."""

AT_ONCE = 10.0
"""How many times what may be lost on average may be lost on one prompt, however rare such prompts were."""


def enough(models: Sequence[str], scores: Array, logits: Array, own: Array, shared: Array) -> Array:
    """Shares (`KEPT`, models, models) by what is to be kept, the cheap and the dear model; see `Heads.enough`.

    ``scores``, held-out ``logits`` and their errors ``own`` and ``shared`` are (n, models). With 95% confidence the net
    loss of sending to the cheap model what is assured of its share stays within what may be lost, on rows like these.
    A pair that was never seen together, of classes never seen together, gets the share that is to be kept itself.
    """
    p = sigmoid(logits)
    errors = probability_error(logits, np.hypot(own, shared))
    common = errors * shared / np.hypot(own, shared)
    alone = np.square(errors) - np.square(common)
    found = np.tile(np.array(KEPT, np.float32)[:, None, None], (1, len(models), len(models)))
    known: NDArray[np.bool_] = np.eye(len(models), dtype=bool)
    for cheap, dear in permutations(range(len(models)), 2):
        rows = np.isfinite(scores[:, cheap]) & np.isfinite(scores[:, dear])
        if rows.sum() < FEWEST:
            continue
        apart = np.sqrt(np.square(common[rows, cheap] - common[rows, dear]) + alone[rows, cheap] + alone[rows, dear])
        share = (p[rows, cheap] - TRUSTED * apart) / p[rows, dear]
        found[:, cheap, dear] = shares(share, scores[rows, cheap], scores[rows, dear])
        known[cheap, dear] = True
    place = [list(models).index(m if m in CLASSES else class_of(m)) for m in models]
    for cheap, dear in np.argwhere(~known):
        found[:, cheap, dear] = found[:, place[cheap], place[dear]]
    return found


def shares(share: Array, small: Array, large: Array) -> Array:
    """For each of `KEPT` the least of ``share`` (n,) from which rows may go to the small model."""
    limits = [-keep_quality_threshold(-share, small, large, keep)[0] for keep in KEPT]
    least = np.maximum(1.0 - AT_ONCE * (1.0 - np.array(KEPT)), 0.0)
    return np.maximum.accumulate(np.clip(limits, least, NEVER)).astype(np.float32)
