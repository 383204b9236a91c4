"""Rows to arrays, streamed: what training and evaluation read. Vectors lie on disk, so logs may exceed memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]

from classifiers.datasets import Row
from classifiers.features import LEXICAL, lexical, reading
from classifiers.heads import Array
from classifiers.ngrams import SIZE, ngrams

BATCH = 256
_KEY = 16

Progress = Callable[[str, int, int | None], None]
"""Told of long work: a stage, how many are done, and of how many where that is known."""


class Encodes(Protocol):
    """What embedding needs of an encoder."""

    @property
    def name(self) -> str:
        """The vector space."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> Array:
        """Vectors (len(texts), dimension)."""


@dataclass(frozen=True, slots=True)
class Table:
    """``n`` rows as arrays.

    ``vectors`` by look (n, d) in float16, memory-mapped; ``grams`` the n-grams; ``facts`` (n, lexical facts);
    ``scores`` (n, models) with NaN where unknown; ``weights``; ``tasks`` and ``domains``, "" where unknown; ``ids``;
    texts' ``lengths`` in characters.
    """

    models: tuple[str, ...]
    vectors: Mapping[str, NDArray[np.float16]]
    grams: GramFile
    facts: Array
    scores: Array
    weights: Array
    tasks: tuple[str, ...]
    domains: tuple[str, ...]
    ids: tuple[str, ...]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


class GramFile:
    """N-grams of rows in compressed sparse form, appended to two files and memory-mapped for reading."""

    def __init__(self, folder: Path) -> None:
        """Start empty files in ``folder``."""
        self._indices, self._values = folder / "grams.u16", folder / "grams.f16"
        self._indices.write_bytes(b"")
        self._values.write_bytes(b"")
        self._ends = [0]

    def extend(self, texts: Sequence[str]) -> None:
        """Append the next rows."""
        found = [ngrams(text) for text in texts]
        with self._indices.open("ab") as indices, self._values.open("ab") as values:
            for row_indices, row_values in found:
                indices.write(row_indices.astype(np.uint16).tobytes())
                values.write(row_values.astype(np.float16).tobytes())
                self._ends.append(self._ends[-1] + len(row_indices))

    def matrix(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Rows as a scipy CSR matrix (len(rows), `SIZE`) of float32."""
        ends = np.asarray(self._ends)
        starts, counts = ends[rows], ends[rows + 1] - ends[rows]
        pointers = np.concatenate([[0], np.cumsum(counts)])
        at = np.repeat(starts - pointers[:-1], counts) + np.arange(pointers[-1])
        indices = np.memmap(self._indices, np.uint16, "r")[at].astype(np.int32)
        values = np.memmap(self._values, np.float16, "r")[at].astype(np.float32)
        return sparse.csr_matrix((values, indices, pointers), shape=(len(rows), SIZE))


class VectorFile:
    """Vectors of one encoder in row order, appended to a file beside the hashes of their texts.

    What makes embedding resumable: rows already there with the same text are not encoded again.
    """

    def __init__(self, folder: Path, look: str, encoder: Encodes) -> None:
        """Open or create the pair of files in ``folder``; another encoder's are never read."""
        space = blake2b(encoder.name.encode(), digest_size=4).hexdigest()
        self._encoder = encoder
        self._width = encoder.dimension * 2
        self._vectors = folder / f"{look}-{space}.f16"
        self._keys = folder / f"{look}-{space}.keys"
        self._known = self._keys.read_bytes() if self._keys.exists() and self._vectors.exists() else b""
        whole = min(len(self._known) // _KEY, self._vectors.stat().st_size // self._width if self._known else 0)
        self._known = self._known[: whole * _KEY]
        self._count = 0

    def extend(self, texts: Sequence[str]) -> None:
        """Make the next rows' vectors present, encoding only those that are not there."""
        keys = [blake2b(t.encode("utf-8", "surrogatepass"), digest_size=_KEY).digest() for t in texts]
        start = self._count * _KEY
        if self._known[start : start + len(keys) * _KEY] != b"".join(keys):
            self._known = self._known[:start]
            self._append(texts, keys)
        self._count += len(texts)

    def _append(self, texts: Sequence[str], keys: Sequence[bytes]) -> None:
        vectors = np.asarray(self._encoder.encode(texts), np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError(f"the encoder {self._encoder.name} gave NaN or infinity")
        for path, at, content in (
            (self._vectors, self._count * self._width, vectors.astype(np.float16).tobytes()),
            (self._keys, self._count * _KEY, b"".join(keys)),
        ):
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.seek(at)
                file.truncate()
                file.write(content)

    def read(self) -> NDArray[np.float16]:
        """All rows so far, memory-mapped."""
        shape = (self._count, self._encoder.dimension)
        if not self._count:
            return np.zeros(shape, np.float16)
        return np.memmap(self._vectors, np.float16, "r", shape=shape)


def tabulate(
    rows: Iterable[Row], encoders: Mapping[str, Encodes], folder: Path, progress: Progress | None = None
) -> Table:
    """Read rows and encode them in batches, in one pass. ``folder`` keeps the vectors (see `VectorFile`)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {look: VectorFile(folder, look, encoder) for look, encoder in encoders.items()}
    grams = GramFile(folder)
    facts: list[Array] = [np.zeros((0, len(LEXICAL)), np.float32)]
    about: list[tuple[str, str, str, float, int]] = []
    marks: list[tuple[int, int, float]] = []
    models: dict[str, int] = {}
    for batch in batches(rows):
        texts = [reading(row.features) for row in batch]
        for file in files.values():
            file.extend(texts)
        grams.extend(texts)
        facts.append(np.stack([lexical(row.features) for row in batch]))
        for row, text in zip(batch, texts, strict=True):
            marks.extend((len(about), models.setdefault(m, len(models)), score) for m, score in row.scores.items())
            about.append((row.id, row.task, row.domain, row.weight, len(text)))
        if progress:
            progress("embed", len(about), None)
    names = tuple(sorted(models))
    scores = np.full((len(about), len(names)), np.nan, np.float32)
    column = {number: names.index(name) for name, number in models.items()}
    for row_number, model, score in marks:
        scores[row_number, column[model]] = score
    ids, tasks, domains, weights, lengths = zip(*about, strict=True) if about else ((), (), (), (), ())
    return Table(
        models=names,
        vectors={look: file.read() for look, file in files.items()},
        grams=grams,
        facts=np.concatenate(facts),
        scores=scores,
        weights=np.array(weights, np.float32),
        tasks=tasks,
        domains=domains,
        ids=ids,
        lengths=np.array(lengths, np.int64),
    )


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in lists of `BATCH`."""
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH)):
        yield batch
