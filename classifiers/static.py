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


ROWS_KEPT = 4096
"""Rows of the table that are kept in memory, 1.5 KiB each: prompts share most of their words."""

AT_ONCE = 64
"""Rows that are laid side by side to be added: more than 128 KiB would be fresh pages of memory each time."""


class StaticEncoder:
    """Means of weighted piece vectors, read from a table on disk."""

    def __init__(self, table: Path, tokenizer: Path, name: str) -> None:
        """Open ``table``, an ``.npy`` file of shape (pieces, dimension) in float16.

        Its rows are read when they are asked for: mapped into memory, all 22 MiB of it would soon be resident.
        """
        mapped = np.load(table, mmap_mode="r")
        self.dimension: int = mapped.shape[1]
        file = os.open(table, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        width = self.dimension * mapped.itemsize
        self._row = lru_cache(ROWS_KEPT)(partial(_read_row, file, width, mapped.offset))
        self._pieces = word_pieces(tokenizer)
        self.name = name
        self.runtime = "a table"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`. A text without pieces gets the vector of the unknown piece."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            pieces = self._pieces.pieces(text) or [self._pieces.unknown]
            for start in range(0, len(pieces), AT_ONCE):
                rows = b"".join((vector.tobytes(), *map(self._row, pieces[start : start + AT_ONCE])))
                np.add.reduce(np.frombuffer(rows, np.float32).reshape(-1, self.dimension), axis=0, out=vector)
        vectors /= np.sqrt(np.add.reduce(np.square(vectors), axis=1, keepdims=True))
        return vectors


def _read_row(file: int, width: int, start: int, piece: int) -> bytes:
    """A row as float32, in bytes, which join sooner than arrays do."""
    row: NDArray[np.float16] = np.frombuffer(os.pread(file, width, start + piece * width), np.float16)
    return row.astype(np.float32).tobytes()


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
