"""Domains that users add from a handful of example prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from classifiers.heads import Array, sigmoid

if TYPE_CHECKING:
    from classifiers.encoder import Encoder
    from classifiers.static import StaticEncoder

_SHARPNESS = 25.0
_FLOOR = 0.45
"""Cosine that even unrelated short prompts may reach; a domain's own threshold is never below it."""


class CustomDomains:
    """Nearest-example scores: a prompt belongs to a domain as far as it is as close to its examples as they are to one
    another."""

    def __init__(self, domains: Mapping[str, Sequence[str]], encoder: Encoder | StaticEncoder) -> None:
        """Encode the examples. Raises `ValueError` for a domain without any."""
        self._examples: dict[str, tuple[Array, float]] = {}
        for name, prompts in domains.items():
            if not prompts:
                raise ValueError(f"domain {name!r} has no example prompts; give it a handful")
            vectors = encoder.encode(list(prompts))
            self._examples[name] = vectors, _threshold(vectors)

    def probabilities(self, vector: Array) -> dict[str, float]:
        """For each domain, the probability that a prompt with that vector (d,) belongs to it."""
        return {
            name: float(sigmoid(_SHARPNESS * ((examples @ vector).max() - threshold)))
            for name, (examples, threshold) in self._examples.items()
        }


def _threshold(vectors: Array) -> float:
    """The cosine at which membership is even: what half of the examples reach with their nearest fellow."""
    if len(vectors) < 3:
        return 0.55
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -1.0)
    return max(_FLOOR, float(np.median(cosine.max(axis=1))) - 0.05)
