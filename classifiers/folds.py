"""Held-out predictions kept on disk, fold by fold: what lets an evaluation that was interrupted go on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers.embed import Progress
from classifiers.members import Corpus, Held, Rows, Settings, held_out

_CANNOT_MATTER = (
    "artifact", "attack", "classifier", "custom", "errors", "evaluate", "figures", "folds", "gadgets", "keeping",
    "metrics", "offpolicy", "onboard", "plots", "timing", "torch_encoder", "train",
)  # fmt: skip
"""Modules that judge or serve what others fit."""


@dataclass(frozen=True, slots=True)
class Folds:
    """Asks heads of one look about rows they never saw, once for each question.

    A question is the rows, their folds, the settings, the vector space and the code; ``folder`` keeps the answers.
    """

    folder: Path
    look: str
    space: str
    settings: Settings
    progress: Progress | None = None

    def held(self, name: str, data: Corpus, folds: Rows, labels_at_most: int | None = None) -> Held:
        """`members.held_out` at this look, each fold from disk where it is there; ``progress`` is told ``name``."""
        key = self._key(data, folds, labels_at_most)
        numbers = sorted(set(folds.tolist()) - {-1})
        whole: dict[str, NDArray[Any]] = {}
        for done, number in enumerate(numbers):
            if self.progress:
                self.progress(name, done, len(numbers))
            test = np.flatnonzero(folds == number)
            for part, values in self._fold(f"{key}-{number}", data, test, labels_at_most).items():
                whole.setdefault(part, np.zeros((len(folds), *values.shape[1:]), values.dtype))[test] = values
        if self.progress:
            self.progress(name, len(numbers), len(numbers))
        return Held(**whole, folds=folds)

    def _fold(self, key: str, data: Corpus, test: Rows, labels_at_most: int | None) -> dict[str, NDArray[Any]]:
        path = self.folder / f"{key}.npz"
        if not path.exists():
            alone = np.full(len(data.rows), -1, np.int64)
            alone[test] = 0
            held = held_out(data, alone, self.settings, labels_at_most=labels_at_most, looks=[self.look])[self.look]
            parts = {field.name: getattr(held, field.name)[test] for field in fields(held) if field.name != "folds"}
            self.folder.mkdir(parents=True, exist_ok=True)
            made = path.with_suffix(".made")
            with made.open("wb") as file:
                np.savez(file, allow_pickle=False, **parts)
            made.rename(path)
        with np.load(path) as file:
            return dict(file)

    def _key(self, data: Corpus, folds: Rows, labels_at_most: int | None) -> str:
        asked = (self.look, self.space, self.settings, data.models, data.rows.ids, data.rows.tasks, labels_at_most)
        digest = hashlib.sha256(repr(asked).encode("utf-8", "surrogatepass"))
        for array in (data.rows.scores, data.rows.weights, data.rows.facts, folds):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(code().encode())
        return digest.hexdigest()[:24]


@cache
def code() -> str:
    """The hash of the sources and prompts that held-out predictions depend on."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), *here.glob("data/*")]):
        if path.stem not in _CANNOT_MATTER:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
