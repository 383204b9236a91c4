"""Training: rows in, artifact out. Pure functions of data and a seed; the CLI adds progress bars and files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers import labels
from classifiers.artifact import Artifact
from classifiers.datasets import Row, read
from classifiers.embed import Encodes, Progress, Table, tabulate
from classifiers.features import from_text
from classifiers.fit import Penalty, fit_logistic, fit_softmax, platt, posterior_spread
from classifiers.heads import Array, Heads, design
from policies.values import DOMAINS

EVERYDAY = Path(__file__).parent / "data" / "domain_prompts.jsonl"
"""Everyday prompts with domains, written for this project: how people ask, which benchmarks don't show."""

FOLDS = 5
CLUSTERS = 48
BLOCK = 1 << 15


@dataclass(frozen=True, slots=True)
class Settings:
    """What shapes a training run; the defaults are those of the default artifact (see README.md for what lost)."""

    seed: int = 0
    penalty: Penalty = field(default_factory=Penalty)
    domain_penalty: float = 0.5
    shrink: float = 30.0
    """Rows' worth of prior on a cluster's mean error."""


def train(
    rows: Iterable[Row],
    encoders: Mapping[str, Encodes],
    work: Path,
    settings: Settings | None = None,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Artifact:
    """Train an artifact on ``rows`` with heads for the lexical look and for each of ``encoders`` (by look).

    ``work`` keeps vectors, so that an interrupted run resumes and a second one is quick. Memory holds the facts and
    scores, a few hundred bytes a row; vectors stay on disk. Deterministic given the rows and the seed.
    Raises `ValueError` when no row has a score.
    """
    settings = settings or Settings()
    table = _classed(tabulate(rows, encoders, work / "rows", progress))
    if not np.isfinite(table.scores).any():
        raise ValueError("no row has scores: give rows {'id', 'prompt', 'scores': {model: 0..1}}")
    everyday = _everyday(table, encoders, work, progress)
    parts = {}
    for look in ("lexical", *encoders):
        if progress:
            progress(f"fit {look}", 0, None)
        parts[look] = _fit_look(look, table, everyday, settings)
    return Artifact(
        models=table.models,
        encoders={look: encoder.name for look, encoder in encoders.items()},
        heads=parts,
        about={**(about or {}), "seed": settings.seed, "rows": len(table), "benchmarks": benchmarks(table)},
    )


def benchmarks(table: Table) -> dict[str, dict[str, float]]:
    """Each model's mean score by benchmark (the part of ``task`` before a slash), where it has 50 rows or more."""
    groups = np.array([task.split("/")[0].removeprefix("agentverse-") for task in table.tasks])
    found: dict[str, dict[str, float]] = {}
    for i, model in enumerate(table.models):
        for group in sorted(set(groups) - {""}):
            scores = table.scores[groups == group, i]
            if np.isfinite(scores).sum() >= 50:
                found.setdefault(model, {})[str(group)] = round(float(np.nanmean(scores)), 4)
    return found


def fold_of(ids: Sequence[str], seed: int, folds: int = FOLDS) -> NDArray[np.int64]:
    """A row's fold, from a hash of its id and the seed: the same whatever stands beside it."""
    digests = (blake2b(f"{seed}:{i}".encode(), digest_size=4).digest() for i in ids)
    return np.array([int.from_bytes(d, "big") % folds for d in digests], np.int64)


def _classed(table: Table) -> Table:
    models, scores = labels.with_classes(table.models, table.scores, table.tasks)
    return replace(table, models=models, scores=scores)


def _everyday(table: Table, encoders: Mapping[str, Encodes], work: Path, progress: Progress | None) -> Table:
    """The everyday prompts, with assumed success for the size classes only (see `labels.PRIORS`)."""
    extra = tabulate(read([EVERYDAY]), encoders, work / "everyday", progress)
    scores = np.full((len(extra), len(table.models)), np.nan, np.float32)
    scores[:, -3:] = [labels.PRIORS.get(domain, labels.PRIORS[""]) for domain in extra.domains]
    weights = np.full(len(extra), labels.PRIOR_WEIGHT, np.float32)
    return replace(extra, models=table.models, scores=scores, weights=weights)


def _vectors(table: Table, look: str, rows: slice | NDArray[np.int64]) -> Array:
    if look == "lexical":
        return np.zeros((len(table.lexical[rows]), 0), np.float32)
    return np.asarray(table.vectors[look][rows], np.float32)


def _blocks(tables: Sequence[tuple[Table, NDArray[np.int64]]], look: str) -> Iterator[tuple[Array, Array, Array]]:
    for table, rows in tables:
        for start in range(0, len(rows), BLOCK):
            at = rows[start : start + BLOCK]
            y = table.scores[at]
            known = np.isfinite(y)
            x = design(_vectors(table, look, at), table.lexical[at])
            yield x, np.where(known, y, 0.0).astype(np.float32), known * table.weights[at, None]


def _fit_success(table: Table, everyday: Table, look: str, rows: NDArray[np.int64], settings: Settings) -> Array:
    depth = design(_vectors(table, look, rows[:1]), table.lexical[rows[:1]]).shape[1]
    both = ((table, rows), (everyday, np.arange(len(everyday))))
    return fit_logistic(lambda: _blocks(both, look), depth, len(table.models), settings.penalty)


def _fit_look(look: str, table: Table, everyday: Table, settings: Settings) -> Heads:
    """Success heads calibrated on out-of-fold predictions, then clusters, spread, noise and domains."""
    everything = np.arange(len(table))
    folds = fold_of(table.ids, settings.seed)
    held = np.zeros_like(table.scores)
    for fold in range(FOLDS):
        weights = _fit_success(table, everyday, look, everything[folds != fold], settings)
        at = everything[folds == fold]
        held[at] = design(_vectors(table, look, at), table.lexical[at]) @ weights
    weights = _fit_success(table, everyday, look, everything, settings)
    known = np.isfinite(table.scores)
    for column in range(len(table.models)):
        rows = known[:, column]
        a, b = platt(held[rows, column].astype(np.float64), table.scores[rows, column].astype(np.float64))
        weights[:, column] *= a
        weights[-1, column] += b
        held[:, column] = a * held[:, column] + b
    x = np.concatenate([x for x, _, _ in _blocks(((table, everything[:200_000]),), look)])
    p = 1.0 / (1.0 + np.exp(-np.clip(held[: len(x)], -30, 30)))
    mask = known[: len(x)] * table.weights[: len(x), None]
    vectors = np.concatenate([_vectors(t, look, slice(0, 50_000)) for t in (table, everyday)])
    centroids = _centroids(vectors, settings.seed)
    far = float(np.quantile((vectors @ centroids.T).max(axis=1), 0.01)) if len(centroids) else -1.0
    return Heads(
        weights=np.concatenate([weights, _fit_domains(look, table, everyday, settings)], axis=1),
        spread=posterior_spread(x, mask, p.astype(np.float32), settings.penalty.own),
        noise=_noise(table, held, known),
        centroids=centroids,
        residuals=np.zeros((len(centroids), len(table.models)), np.float32),
        far=far,
    )


def _fit_domains(look: str, table: Table, everyday: Table, settings: Settings) -> Array:
    """Domains from benchmarks' tasks and everyday prompts, each half of the weight, balanced by domain within."""
    xs, ys, ws = [], [], []
    for part in (table, everyday):
        names = [d or labels.domain_of_task(t) for d, t in zip(part.domains, part.tasks, strict=True)]
        rows = np.flatnonzero(np.array([bool(n) for n in names]))[:100_000]
        if not len(rows):
            continue
        y = np.array([DOMAINS.index(names[i]) for i in rows])
        share = 1.0 / np.sqrt(np.bincount(y, minlength=len(DOMAINS)))[y]
        xs.append(design(_vectors(part, look, rows), part.lexical[rows]))
        ys.append(y)
        ws.append(share / share.sum() * 4000)
    return fit_softmax(
        np.concatenate(xs), np.concatenate(ys), np.concatenate(ws), len(DOMAINS), settings.domain_penalty
    )


def _centroids(vectors: Array, seed: int) -> Array:
    if not vectors.shape[1]:
        return np.zeros((0, 0), np.float32)
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(min(CLUSTERS, len(vectors)), random_state=seed, n_init=1, batch_size=2048).fit(vectors)
    found = np.asarray(model.cluster_centers_, np.float32)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return found


def _noise(table: Table, held: Array, known: NDArray[np.bool_]) -> Array:
    """Per model, the standard deviation (logits) of a task's mean error beyond what sampling explains."""
    tasks = np.array(table.tasks)
    noise = np.full(len(table.models), 0.3, np.float32)
    p = 1.0 / (1.0 + np.exp(-np.clip(held, -30, 30)))
    for column in range(len(table.models)):
        excess = []
        for task in sorted(set(table.tasks)):
            rows = (tasks == task) & known[:, column]
            if rows.sum() >= 20:
                slope = float((p[rows, column] * (1 - p[rows, column])).mean())
                error = float((table.scores[rows, column] - p[rows, column]).mean()) / slope
                excess.append(error**2 - 1.0 / (slope * rows.sum()))
        if len(excess) >= 5:
            noise[column] = np.sqrt(max(float(np.mean(excess)), 0.01))
    return noise


def train_default(
    paths: Sequence[Path],
    encoders: Mapping[str, Encodes],
    work: Path,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Artifact:
    """Train the artifact that ships with the package, from the shared data's files."""
    return train(_with_stems(read(paths)), encoders, work, progress=progress, about=about)


def _with_stems(rows: Iterable[Row]) -> Iterator[Row]:
    """Each row, and after a multiple-choice question its stem alone, unscored, to teach domains without options."""
    for row in rows:
        yield row
        domain = labels.domain_of_task(row.task)
        short = labels.stem(row.features.text)
        if domain and len(short) < len(row.features.text):
            yield Row(id=f"{row.id}#stem", features=from_text(short), domain=domain)
