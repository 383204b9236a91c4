"""The first look: one vector per word piece, taken once from the full encoder, averaged. No transformer runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifiers.encoder import MAX_PIECES, Vectors, word_pieces

RARITY = 3e-4
"""The a of the SIF weights a / (a + p) of a piece with probability p (Arora et al., 2017)."""

_UP = np.full(MAX_PIECES, 2.0**112, np.float32)
"""What a sum of `widened` halves is short of, for each of them."""
_PLACES = np.array(13, np.int32)  # arrays, which numpy takes sooner than scalars
"""Between where a half's fraction begins and a single's."""
_SIGN_AND_BELOW = np.array(-0x70002000, np.int32)
"""All bits but the three between the sign, spread over them as a half's bits are widened, and the exponent's."""


class StaticEncoder:
    """Means of weighted piece vectors, read from a table on disk."""

    def __init__(self, table: Path, tokenizer: Path, name: str) -> None:
        """Map ``table``, an ``.npy`` file of shape (pieces, dimension) in float16, which all processes share."""
        self._table = np.asarray(np.load(table, mmap_mode="r")).view(np.int16)
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
        pieces = self._pieces.pieces(text) or [self._pieces.unknown]
        halves = self._table.take(np.fromiter(pieces, np.intp), axis=0)
        vector: Vectors = _UP[: len(pieces)].dot(widened(halves))  # sooner than sums by column
        vector /= np.array(sqrt(vector.dot(vector)), np.float32)
        return vector


def widened(halves: NDArray[np.int16]) -> Vectors:
    """Half-precision numbers, given by their bits, in single precision, and 2¹¹² times too small: exact, and sooner
    than numpy's, one by one.

    A half's exponent and fraction, moved to where a single's are, are the number but for the difference of the
    exponents' biases, 112. Infinities and NaN are not told apart from numbers.
    """
    bits = halves.astype(np.int32)
    bits <<= _PLACES
    bits &= _SIGN_AND_BELOW
    return bits.view(np.float32)


def distil(embeddings: NDArray[np.float32]) -> NDArray[np.float16]:
    """The table, from the encoder's word embeddings (pieces, dimension): of length 1, centred, weighted by rarity.

    Pieces stand in the vocabulary in order of frequency, so Zipf's law gives their probabilities. That the encoder's
    input embeddings serve better than its outputs for single pieces is measured in the README.
    """
    vectors = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    vectors -= vectors.mean(axis=0)
    probability = 1 / np.arange(2, len(vectors) + 2)
    probability /= probability.sum()
    table: NDArray[np.float16] = (vectors * (RARITY / (RARITY + probability))[:, None]).astype(np.float16)
    return table
