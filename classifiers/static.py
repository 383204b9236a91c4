"""The first look: one vector per word piece, taken once from the full encoder, averaged. No transformer runs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifiers.encoder import Vectors, word_pieces

RARITY = 3e-4
"""The a of the SIF weights a / (a + p) of a piece with probability p (Arora et al., 2017)."""


COMMON = 8192
"""Rows of the table that are kept in memory, 768 bytes each: the commonest pieces come first."""

ROWS_KEPT = 2048
"""Other rows that are kept, of those asked for last."""

AT_ONCE = 64
"""Rows that are laid side by side to be added: more than 128 KiB would be fresh pages of memory each time."""

_UP = np.float32(2.0**112)
_SIGN_AND_BELOW = np.int32(-0x70002000)
"""All bits but the three between the sign, spread over them as a half's bits are widened, and the exponent's."""


class StaticEncoder:
    """Means of weighted piece vectors, read from a table on disk."""

    def __init__(self, table: Path, tokenizer: Path, name: str) -> None:
        """Open ``table``, an ``.npy`` file of shape (pieces, dimension) in float16.

        Rows of rare pieces are read when they are asked for: mapped, all 22 MiB of the table would soon be resident.
        """
        mapped = np.load(table, mmap_mode="r").view(np.int16)
        self.dimension: int = mapped.shape[1]
        self._common = np.array(mapped[:COMMON])
        file = os.open(table, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        width = self.dimension * mapped.itemsize
        self._rare = lru_cache(ROWS_KEPT)(partial(_read_row, file, width, mapped.offset))
        self._pieces = word_pieces(tokenizer)
        self.name = name
        self.runtime = "a table"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`. A text without pieces gets the vector of the unknown piece."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            pieces = self._pieces.pieces(text) or [self._pieces.unknown]
            for start in range(0, len(pieces), AT_ONCE):
                halves = self._rows(pieces[start : start + AT_ONCE])
                rows = np.empty((len(halves) + 1, self.dimension), np.float32)
                rows[0] = vector
                widen(halves, rows[1:])
                np.add.reduce(rows, axis=0, out=vector)
        vectors /= np.sqrt(np.add.reduce(np.square(vectors), axis=1, keepdims=True))
        return vectors

    def _rows(self, pieces: list[int]) -> NDArray[np.int16]:
        """The rows of these pieces, as the bits of their halves."""
        numbers = np.array(pieces)
        rows = self._common.take(numbers, axis=0, mode="clip")
        for place in np.flatnonzero(numbers >= COMMON).tolist():
            rows[place] = np.frombuffer(self._rare(pieces[place]), np.int16)
        return rows


def _read_row(file: int, width: int, start: int, piece: int) -> bytes:
    return os.pread(file, width, start + piece * width)


def widen(halves: NDArray[np.int16], out: Vectors) -> None:
    """Half-precision numbers, given by their bits, in single precision: exact, and sooner than numpy's, one by one.

    A half's exponent and fraction, moved to where a single's are, are the number but for the difference of the
    exponents' biases, 112. Infinities and NaN are not told apart from numbers.
    """
    bits = out.view(np.int32)
    bits[...] = halves
    bits <<= np.int32(13)
    bits &= _SIGN_AND_BELOW
    out *= _UP


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
