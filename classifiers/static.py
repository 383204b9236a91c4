"""The first look: one vector per word piece, distilled once from the full encoder, averaged. No transformer runs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from classifiers.encoder import Vectors, WordPieces, word_pieces

if TYPE_CHECKING:
    from classifiers.encoder import OnnxEncoder


ROWS_KEPT = 4096
"""Rows of the table that are kept in memory, 768 bytes each: prompts share most of their words."""


class StaticEncoder:
    """Means of weighted piece vectors (after model2vec), read from a table on disk."""

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
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            pieces = self._pieces.pieces(text) or [self._pieces.unknown]
            found = np.frombuffer(b"".join(map(self._row, pieces)), np.float16)
            vectors[row] = found.reshape(-1, self.dimension).sum(axis=0, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def _read_row(file: int, width: int, start: int, piece: int) -> bytes:
    return os.pread(file, width, start + piece * width)


def distil(encoder: OnnxEncoder, pieces: WordPieces, progress: Callable[[float], None]) -> NDArray[Any]:
    """The table: each piece's vector alone, centred, weighted by Zipf's law on its rank; about half a minute."""
    ids = np.stack(
        [np.full(pieces.size, pieces.start), np.arange(pieces.size), np.full(pieces.size, pieces.end)], axis=1
    )
    vectors = np.empty((pieces.size, encoder.dimension), np.float32)
    for first in range(0, pieces.size, 64):
        vectors[first : first + 64] = encoder.run(ids[first : first + 64])
        progress(first / pieces.size)
    vectors -= vectors.mean(axis=0)
    probability = 1 / np.arange(2, pieces.size + 2)
    probability /= probability.sum()
    return (vectors * (1e-4 / (1e-4 + probability))[:, None]).astype(np.float16)
