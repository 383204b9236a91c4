"""Training: rows in, artifact out. Pure functions of data and a seed; the CLI adds progress bars and files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]

from classifiers import labels
from classifiers.artifact import Artifact
from classifiers.datasets import Row, read
from classifiers.embed import Encodes, Progress, Table, tabulate
from classifiers.features import from_text
from classifiers.fit import Design, Penalty, fit_logistic, fit_softmax, platt, posterior_spread
from classifiers.heads import Array, Heads, design, nearness
from classifiers.ngrams import SIZE
from policies.values import DOMAINS

EVERYDAY = Path(__file__).parent / "data" / "domain_prompts.jsonl"
"""Everyday prompts with domains, written for this project: how people ask, which benchmarks don't show."""

FOLDS = 5
CLUSTERS = 48
BLOCK = 1 << 14
SAMPLE = 100_000
"""Rows that the parts which do not need more (clusters, spread, domains) are fitted on."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Settings:
    """What shapes a training run; the defaults are those of the default artifact (see README.md for what lost).

    Penalties hold for 7,000 scored rows and grow with the square root of their number.
    """

    seed: int = 0
    lexical: Penalty = field(default_factory=lambda: Penalty(2.0, 4.0))
    vector: Penalty = field(default_factory=lambda: Penalty(10.0, 20.0))
    domain_penalty: float = 0.5
    shrink: float = 50.0
    """Rows' worth of prior on a cluster's mean error."""

    def penalty(self, look: str, rows: int) -> Penalty:
        """The penalty of a look's success heads for that many scored rows."""
        base = self.lexical if look == "lexical" else self.vector
        factor = sqrt(max(rows, 100) / 7000)
        return Penalty(base.shared * factor, base.own * factor)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Scored rows with size-class columns, and the everyday prompts with assumed scores for those columns only."""

    rows: Table
    everyday: Table

    @property
    def models(self) -> tuple[str, ...]:
        """The success columns."""
        return self.rows.models

    @property
    def looks(self) -> tuple[str, ...]:
        """Every look that can be trained, the lexical one first."""
        return ("lexical", *self.rows.vectors)


def corpus(
    rows: Iterable[Row], encoders: Mapping[str, Encodes], work: Path, progress: Progress | None = None
) -> Corpus:
    """Read and encode what training and evaluation need; see `train` for ``work``.

    Raises `ValueError` when no row has a score.
    """
    table = tabulate(rows, encoders, work / "rows", progress)
    if not np.isfinite(table.scores).any():
        raise ValueError("no row has scores: give rows {'id', 'prompt', 'scores': {model: 0..1}}")
    models, scores = labels.with_classes(table.models, table.scores, table.tasks)
    table = _with_priors(replace(table, models=models, scores=scores))
    everyday = tabulate(read([EVERYDAY]), encoders, work / "everyday", progress)
    everyday = replace(everyday, models=models, scores=np.full((len(everyday), len(models)), np.nan, np.float32))
    return Corpus(table, _with_priors(everyday))


def train(
    rows: Iterable[Row],
    encoders: Mapping[str, Encodes],
    work: Path,
    settings: Settings | None = None,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Artifact:
    """Train an artifact on ``rows`` with heads for the lexical look and for each of ``encoders`` (by look).

    ``work`` keeps vectors, so that an interrupted run resumes and a second one is quick. Memory holds facts and scores,
    a few hundred bytes a row; vectors and n-grams stay on disk. Deterministic given the rows and the seed.
    Raises `ValueError` when no row has a score.
    """
    settings = settings or Settings()
    data = corpus(rows, encoders, work, progress)
    every = np.arange(len(data.rows))
    held = held_out(data, fold_of(data.rows.ids, settings.seed), settings, progress)
    heads = {}
    for done, look in enumerate(data.looks):
        if progress:
            progress("fit", done, len(data.looks))
        heads[look] = _heads(data, look, every, held[look], settings)
    return Artifact(
        models=data.models,
        encoders={look: encoder.name for look, encoder in encoders.items()},
        heads=heads,
        about={**(about or {}), "seed": settings.seed, "rows": len(data.rows), "benchmarks": benchmarks(data.rows)},
    )


def train_default(
    paths: Sequence[Path],
    encoders: Mapping[str, Encodes],
    work: Path,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Artifact:
    """Train the artifact that ships with the package, from the shared data's files."""
    return train(with_stems(read(paths)), encoders, work, progress=progress, about=about)


def with_stems(rows: Iterable[Row]) -> Iterator[Row]:
    """Each row, and after a multiple-choice question its stem alone, unscored, to teach domains without options."""
    for row in rows:
        yield row
        domain = labels.domain_of_task(row.task)
        short = labels.stem(row.features.text)
        if domain and len(short) < len(row.features.text):
            yield Row(id=f"{row.id}#stem", features=from_text(short), domain=domain)


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


def fold_of(ids: Sequence[str], seed: int, folds: int = FOLDS) -> Rows:
    """A row's fold, from a hash of its id and the seed: the same whatever stands beside it."""
    digests = (blake2b(f"{seed}:{i}".encode(), digest_size=4).digest() for i in ids)
    return np.array([int.from_bytes(d, "big") % folds for d in digests], np.int64)


def held_out(
    data: Corpus, folds: Rows, settings: Settings, progress: Progress | None = None, labels_at_most: int | None = None
) -> dict[str, Array]:
    """By look, uncalibrated logits (n, models) of each row from heads that never saw its fold.

    ``labels_at_most`` trains on that many rows of the other folds only (learning curves). A look with an encoder
    answers, as in `heads.predict`, with the mean of its own logits and the lexical look's.
    """
    found = {look: np.zeros(data.rows.scores.shape, np.float32) for look in data.looks}
    numbers = sorted(set(folds.tolist()) - {-1})
    for done, fold in enumerate(numbers):
        if progress:
            progress("hold out", done, len(numbers))
        test = np.flatnonzero(folds == fold)
        seen = np.flatnonzero((folds != fold) & np.isfinite(data.rows.scores).any(axis=1))
        if labels_at_most is not None and labels_at_most < len(seen):
            seen = np.sort(np.random.default_rng(settings.seed).choice(seen, labels_at_most, replace=False))
        for look in data.looks:
            weights = fit_success(data, look, seen, settings)
            for start in range(0, len(test), BLOCK):
                at = test[start : start + BLOCK]
                found[look][at] = _design(data.rows, look, at) @ weights
    for look in data.looks[1:]:
        found[look] = np.float32(0.5) * (found[look] + found["lexical"])
    return found


def fit_success(data: Corpus, look: str, rows: Rows, settings: Settings) -> Array:
    """One look's success weights (depth, models) from those scored rows and the everyday prompts."""
    parts = [(data.rows, rows), (data.everyday, np.arange(len(data.everyday)))]

    def blocks() -> Iterator[tuple[Design, Array, Array]]:
        for table, wanted in parts:
            for start in range(0, len(wanted), BLOCK):
                at = wanted[start : start + BLOCK]
                y = table.scores[at]
                known = np.isfinite(y)
                yield _design(table, look, at), np.where(known, y, np.float32(0)), known * table.weights[at, None]

    return fit_logistic(
        _kept(blocks, len(rows)), _depth(data, look), len(data.models), settings.penalty(look, len(rows))
    )


def _kept(blocks: Any, rows: int) -> Any:
    """Blocks held in memory where they fit, else made anew on every pass."""
    if rows > SAMPLE:
        return blocks
    held = list(blocks())
    return lambda: iter(held)


def calibrate(held: Array, scores: Array) -> tuple[Array, Array]:
    """Platt's scale and shift (models,) from held-out logits; a model without 50 scores keeps (1, 0)."""
    scale, shift = np.ones(held.shape[1], np.float32), np.zeros(held.shape[1], np.float32)
    for column in range(held.shape[1]):
        rows = np.isfinite(scores[:, column])
        if rows.sum() >= 50:
            z, y = held[rows, column].astype(np.float64), scores[rows, column].astype(np.float64)
            scale[column], shift[column] = platt(z, y)
    return scale, shift


def _with_priors(table: Table) -> Table:
    """Fill rows without any score by what is assumed of the size classes (see `labels.PRIORS`), at a low weight."""
    scores, weights = table.scores.copy(), table.weights.copy()
    for row in np.flatnonzero(~np.isfinite(scores).any(axis=1)):
        prior = labels.prior(table.ids[row], table.tasks[row], table.domains[row])
        if prior:
            scores[row, -3:] = prior
            weights[row] *= labels.PRIOR_WEIGHT
    return replace(table, scores=scores, weights=weights)


def _depth(data: Corpus, look: str) -> int:
    return int(_design(data.rows, look, np.arange(1)).shape[1])


def _vectors(table: Table, look: str, rows: Rows) -> Array:
    if look == "lexical":
        return np.zeros((len(rows), 0), np.float32)
    return np.asarray(table.vectors[look][rows], np.float32)


def _design(table: Table, look: str, rows: Rows) -> Design:
    dense = design(look, _vectors(table, look, rows), table.facts[rows])
    if look != "lexical":
        return dense
    return sparse.hstack([table.grams.matrix(rows), sparse.csr_matrix(dense)], format="csr", dtype=np.float32)


def _heads(data: Corpus, look: str, every: Rows, held: Array, settings: Settings) -> Heads:
    """One look's heads: fitted on every row, calibrated and corrected by what held-out rows showed."""
    table = data.rows
    scored = every[np.isfinite(table.scores).any(axis=1)]
    weights = np.concatenate([fit_success(data, look, scored, settings), _fit_domains(data, look, settings)], axis=1)
    scale, shift = calibrate(held, table.scores)
    held = held * scale + shift
    some = scored[:SAMPLE]
    x = design(look, _vectors(table, look, some), table.facts[some])
    mask = np.isfinite(table.scores[some]) * table.weights[some, None]
    penalty = settings.penalty(look, len(scored)).own
    centroids = _centroids(data, look, settings.seed)
    near = _vectors(table, look, some) @ centroids.T if len(centroids) else np.zeros((len(some), 0), np.float32)
    return Heads(
        table=weights[:SIZE].astype(np.float16) if look == "lexical" else np.zeros((0, weights.shape[1]), np.float16),
        weights=weights[SIZE:] if look == "lexical" else weights,
        scale=scale,
        shift=shift,
        spread=posterior_spread(x, mask, _probability(held[some]), penalty),
        noise=_noise(table, held),
        centroids=centroids,
        residuals=_residuals(near, held[some], table.scores[some], settings.shrink),
        far=float(np.quantile(near.max(axis=1), 0.01)) if len(centroids) else -1.0,
    )


def _fit_domains(data: Corpus, look: str, settings: Settings) -> Array:
    """Domains from benchmarks' tasks and everyday prompts, each half of the weight, evened by domain within."""
    xs, ys, ws = [], [], []
    for table in (data.rows, data.everyday):
        names = [d or labels.domain_of_task(t) for d, t in zip(table.domains, table.tasks, strict=True)]
        rows = np.flatnonzero(np.array([bool(n) for n in names]))[:SAMPLE]
        if not len(rows):
            continue
        y = np.array([DOMAINS.index(names[i]) for i in rows])
        share = 1.0 / np.sqrt(np.bincount(y, minlength=len(DOMAINS)))[y]
        xs.append(_design(table, look, rows))
        ys.append(y)
        ws.append(share / share.sum() * 4000)
    x = sparse.vstack(xs, format="csr") if look == "lexical" else np.concatenate(xs)
    return fit_softmax(
        x, np.concatenate(ys), np.concatenate(ws).astype(np.float32), len(DOMAINS), settings.domain_penalty
    )


def _centroids(data: Corpus, look: str, seed: int) -> Array:
    """K-means of training vectors, everyday prompts included, scaled to length 1."""
    if look == "lexical":
        return np.zeros((0, 0), np.float32)
    from sklearn.cluster import MiniBatchKMeans

    rows = np.arange(min(len(data.rows), SAMPLE))
    vectors = np.concatenate(
        [_vectors(data.rows, look, rows), _vectors(data.everyday, look, np.arange(len(data.everyday)))]
    )
    model = MiniBatchKMeans(min(CLUSTERS, len(vectors)), random_state=seed, n_init=1, batch_size=2048).fit(vectors)
    found = np.asarray(model.cluster_centers_, np.float32)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return found


def _residuals(cosine: Array, held: Array, scores: Array, shrink: float) -> Array:
    """Each cluster's mean held-out error in logits, drawn to zero by ``shrink`` rows' worth of prior."""
    if not cosine.shape[1]:
        return np.zeros((0, held.shape[1]), np.float32)
    near = nearness(cosine)
    p = _probability(held)
    known = np.isfinite(scores)
    error = near.T @ np.where(known, scores - p, np.float32(0))
    slope = near.T @ np.where(known, p * (1 - p), np.float32(0))
    return np.asarray(error / (slope + 0.2 * shrink), np.float32)


def _noise(table: Table, held: Array) -> Array:
    """Per model, the standard deviation (logits) of a task's mean error beyond what sampling explains."""
    tasks = np.array(table.tasks)
    noise = np.full(len(table.models), 0.3, np.float32)
    p = _probability(held)
    for column in range(len(table.models)):
        known = np.isfinite(table.scores[:, column])
        excess = []
        for task in sorted(set(table.tasks)):
            rows = (tasks == task) & known
            if rows.sum() >= 20:
                slope = float((p[rows, column] * (1 - p[rows, column])).mean())
                error = float((table.scores[rows, column] - p[rows, column]).mean()) / slope
                excess.append(error**2 - 1.0 / (slope * rows.sum()))
        if len(excess) >= 5:
            noise[column] = np.sqrt(max(float(np.mean(excess)), 0.01))
    return noise


def _probability(logits: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30))), np.float32)
