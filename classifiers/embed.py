"""Rows to arrays, streamed: what training and evaluation read. Vectors lie on disk, so logs may exceed memory."""

from __future__ import annotations

import sys
from array import array
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
from classifiers.encoder import Encoder
from classifiers.features import reading
from classifiers.heads import Array
from classifiers.lexical import LEXICAL, lexical
from classifiers.ngrams import SIZE, ngrams

BATCH = 256
_KEY = 16

Progress = Callable[[str, int, int | None], None]
"""Told of long work: a stage, how many are done, and of how many where that is known."""


@dataclass(frozen=True, slots=True)
class Table:
    """``n`` rows as arrays.

    ``vectors`` by look (n, d) in float16 and ``facts`` (n, lexical facts), memory-mapped; ``grams`` the n-grams;
    ``scores`` (n, models) with NaN where unknown; ``weights``; ``tasks`` and ``domains``, "" where unknown; ``ids``;
    texts' ``lengths`` in characters.
    """

    models: tuple[str, ...]
    vectors: Mapping[str, NDArray[np.float16]]
    grams: Grams
    facts: Array
    scores: Array
    weights: Array
    tasks: tuple[str, ...]
    domains: tuple[str, ...]
    ids: tuple[str, ...]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> Table:
        """The table of some of the rows."""
        return Table(
            models=self.models,
            vectors={look: np.asarray(vectors[rows]) for look, vectors in self.vectors.items()},
            grams=GramRows(self.grams, rows),
            facts=np.asarray(self.facts[rows]),
            scores=self.scores[rows],
            weights=self.weights[rows],
            tasks=tuple(self.tasks[i] for i in rows),
            domains=tuple(self.domains[i] for i in rows),
            ids=tuple(self.ids[i] for i in rows),
            lengths=self.lengths[rows],
        )


class Grams(Protocol):
    """N-grams of rows, wherever they lie."""

    def matrix(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Rows as a scipy CSR matrix (len(rows), `SIZE`) of float32."""


@dataclass(frozen=True, slots=True)
class GramRows:
    """Some rows of other n-grams."""

    whole: Grams
    rows: NDArray[np.int64]

    def matrix(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """See `Grams.matrix`."""
        return self.whole.matrix(self.rows[rows])


class GramFile:
    """N-grams of rows in compressed sparse form, appended to two files and memory-mapped for reading."""

    def __init__(self, folder: Path) -> None:
        """Start empty files in ``folder``."""
        self._indices, self._values = folder / "grams.u16", folder / "grams.f16"
        self._indices.write_bytes(b"")
        self._values.write_bytes(b"")
        self._ends = array("q", [0])

    def extend(self, texts: Sequence[str]) -> None:
        """Append the next rows."""
        found = [ngrams(text) for text in texts]
        with self._indices.open("ab") as indices, self._values.open("ab") as values:
            for row_indices, row_values in found:
                indices.write(row_indices.astype(np.uint16).tobytes())
                values.write(row_values.astype(np.float16).tobytes())
                self._ends.append(self._ends[-1] + len(row_indices))

    def matrix(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """See `Grams.matrix`."""
        ends = np.frombuffer(self._ends, np.int64)
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

    def __init__(self, folder: Path, look: str, encoder: Encoder) -> None:
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
    rows: Iterable[Row], encoders: Mapping[str, Encoder], folder: Path, progress: Progress | None = None
) -> Table:
    """Read rows and encode them in batches, in one pass; ``folder`` keeps the vectors (see `VectorFile`).

    What grows with the rows stays on disk, but for their ids, scores, weights and the like: some 150 bytes each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {look: VectorFile(folder, look, encoder) for look, encoder in encoders.items()}
    grams = GramFile(folder)
    ids: list[str] = []
    tasks: list[str] = []
    domains: list[str] = []
    weights, lengths, marks = array("f"), array("q"), _Marks()
    facts = folder / "facts.f32"
    with facts.open("wb") as file:
        for batch in batches(rows):
            texts = [reading(row.features) for row in batch]
            for vectors in files.values():
                vectors.extend(texts)
            grams.extend(texts)
            file.write(np.stack([lexical(row.features) for row in batch]).astype(np.float32).tobytes())
            for row, text in zip(batch, texts, strict=True):
                marks.add(len(ids), row.scores)
                ids.append(row.id)
                tasks.append(sys.intern(row.task))
                domains.append(sys.intern(row.domain))
                weights.append(row.weight)
                lengths.append(len(text))
            if progress:
                progress("embed", len(ids), None)
    models, scores = marks.matrix(len(ids))
    shape = (len(ids), len(LEXICAL))
    return Table(
        models=models,
        vectors={look: vectors.read() for look, vectors in files.items()},
        grams=grams,
        facts=np.memmap(facts, np.float32, "r", shape=shape) if ids else np.zeros(shape, np.float32),
        scores=scores,
        weights=np.array(weights, np.float32),
        tasks=tuple(tasks),
        domains=tuple(domains),
        ids=tuple(ids),
        lengths=np.array(lengths, np.int64),
    )


class _Marks:
    """Scores as they come, of models as they turn up."""

    def __init__(self) -> None:
        self._models: dict[str, int] = {}
        self._rows, self._columns, self._scores = array("q"), array("i"), array("f")

    def add(self, row: int, scores: Mapping[str, float]) -> None:
        for model, score in scores.items():
            self._rows.append(row)
            self._columns.append(self._models.setdefault(model, len(self._models)))
            self._scores.append(score)

    def matrix(self, rows: int) -> tuple[tuple[str, ...], Array]:
        """The models by name, and the scores (rows, models) with NaN where there is none."""
        names = tuple(sorted(self._models))
        place = np.array([names.index(model) for model in self._models], np.int64)
        scores = np.full((rows, len(names)), np.nan, np.float32)
        if len(self._rows):
            scores[np.array(self._rows), place[np.array(self._columns)]] = np.array(self._scores)
        return names, scores


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in lists of `BATCH`."""
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH)):
        yield batch
