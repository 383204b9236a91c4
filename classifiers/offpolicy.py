"""Learning from a log in which one model answered each prompt, drawn with known odds. Arithmetic only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from classifiers.metrics import Floats, interval

CLIP = 20.0
"""The most that one row may count beside one that was drawn for certain: odds below 1 in 20 are taken as that.

Clipping trades a little bias for variance that is bounded (Ionides, Truncated Importance Sampling, 2008).
"""


class Importance:
    """Inverse-propensity weights that undo a policy's preference in whom it asked what.

    A model's rows count by 1 / odds, clipped, and then sum to their number (self-normalised: Swaminathan and Joachims,
    The Self-Normalized Estimator for Counterfactual Learning, 2015), so that no model outweighs another by its odds.
    Nothing undoes what was never drawn: where all odds are 1, weights are 1, and the log shows each model only what
    the policy sent it.
    """

    def __init__(self, drawn: Iterable[tuple[str, float]]) -> None:
        """Read every row's model and odds, once."""
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        self.clipped = 0
        self.certain = 0
        for model, odds in drawn:
            sums[model] += clipped(odds)
            counts[model] += 1
            self.clipped += odds < 1 / CLIP
            self.certain += odds >= 1
        self._means = {model: sums[model] / counts[model] for model in sums}
        self.rows = sum(counts.values())

    def weight(self, model: str, odds: float) -> float:
        """What a row counts, 1 on average over a model's rows."""
        return clipped(odds) / self._means[model]


def clipped(odds: float) -> float:
    """1 / odds, at most `CLIP`."""
    return min(1.0 / odds, CLIP) if odds > 0 else CLIP


def doubly_robust(
    score: Floats, odds: Floats, agrees: Floats, of_taken: Floats, of_chosen: Floats
) -> tuple[float, float, float]:
    """(value, low, high): the mean score of a policy that did not make the log, with a bootstrap 95% interval.

    By row: the answer's ``score``; the ``odds`` with which its tier was drawn; whether the judged policy chooses that
    tier too (``agrees``, 0 or 1); the predicted success of the tier taken and of the tier it chooses. Right where
    either the odds or the predictions are (Dudík, Langford and Li, 1103.4601); weights are clipped as in training.
    """
    weights = np.minimum(1.0 / np.maximum(odds, 1e-9), CLIP) * agrees
    values = of_chosen + weights * (score - of_taken)
    low, high = interval(lambda rows: float(values[rows].mean()), len(values))
    return float(values.mean()), low, high
