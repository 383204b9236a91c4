"""The first look: one vector per word piece, taken once from the full encoder, averaged. No transformer runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifiers.encoder import Vectors, word_pieces

RARITY = 3e-4
"""The a of the SIF weights a / (a + p) of a piece with probability p (Arora et al., 2017)."""

_MOST = 127
"""The largest number in the table."""


class StaticEncoder:
    """Means of weighted piece vectors, read from a table on disk."""

    def __init__(self, table: Path, tokenizer: Path, name: str) -> None:
        """Map ``table``, an ``.npy`` file of what `distil` makes, which all processes share."""
        self._table = np.asarray(np.load(table, mmap_mode="r"))
        self._weights = rarity(len(self._table))
        self.dimension: int = self._table.shape[1]
        self._pieces = word_pieces(tokenizer)
        self.name = name
        self.runtime = "a table"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`. A text without pieces gets the vector of the unknown piece."""
        if len(texts) == 1:
            return self._vector(texts[0])[None]
        return np.array([self._vector(text) for text in texts], np.float32).reshape(-1, self.dimension)

    def _vector(self, text: str) -> Vectors:
        pieces = np.fromiter(self._pieces.pieces(text) or [self._pieces.unknown], np.intp)
        rows = self._table.take(pieces, axis=0).astype(np.float32)
        vector: Vectors = self._weights.take(pieces).dot(rows)  # sooner than sums by column
        vector /= np.array(sqrt(vector.dot(vector)), np.float32)
        return vector


def rarity(pieces: int) -> Vectors:
    """The weight of each piece of a vocabulary: these stand in order of frequency, so Zipf's law gives how likely."""
    probability = 1 / np.arange(2, pieces + 2)
    probability /= probability.sum()
    return np.asarray(RARITY / (RARITY + probability), np.float32)


def distil(embeddings: NDArray[np.float32]) -> NDArray[np.int8]:
    """The table, from the encoder's word embeddings (pieces, dimension): of length 1, centred, in whole numbers.

    That input embeddings serve better than outputs for single pieces is measured in the README. One scale for all of
    them is as good as exact: it turns a text's vector by a degree, at most by two.
    """
    vectors = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    vectors -= vectors.mean(axis=0)
    table: NDArray[np.int8] = np.rint(vectors * (_MOST / np.abs(vectors).max())).astype(np.int8)
    return table
