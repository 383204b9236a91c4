"""Training: rows in, artifact out. Pure functions of data and a seed; the CLI adds progress bars and files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]

from classifiers import labels, metrics
from classifiers.artifact import Artifact
from classifiers.datasets import Row, read, sha256
from classifiers.embed import Progress, Table
from classifiers.encoder import Encoder
from classifiers.errors import fit_errors
from classifiers.features import from_text
from classifiers.fit import fit_softmax, posterior_spread
from classifiers.heads import Array, Heads, blend, design, posterior_variance
from classifiers.keeping import enough
from classifiers.members import (
    EVERYDAY,
    SAMPLE,
    Corpus,
    Held,
    Rows,
    Settings,
    calibrate,
    corpus,
    design_of,
    fit_member,
    fold_of,
    group_folds,
    held_out,
    probability,
    spread,
    vectors_of,
)
from classifiers.ngrams import SIZE
from classifiers.targets import CLASSES
from policies.values import DOMAINS, KEPT

LICENCES = {
    "nine_models": "MIT (LLMRouter's example data)",
    "mmlu_two_models": "Apache-2.0 (RouteLLM's response files)",
    "gsm8k_two_models": "Apache-2.0 (RouteLLM's response files)",
    "user_prompts": "Apache-2.0 (Arena-Hard v2.0)",
    "domain_prompts": "Apache-2.0 (written for this project)",
}
"""Where the default artifact's data are from, by file name without its endings."""

FAR_FOLDS = 3

HELD = 25_000
"""Rows that heads are calibrated and given errors by, each held out in turn; of more, so many, evenly spread."""


def train(
    rows: Iterable[Row],
    encoders: Mapping[str, Encoder],
    work: Path,
    settings: Settings | None = None,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Artifact:
    """Train an artifact on ``rows`` with heads for the lexical look and for each of ``encoders`` (by look).

    ``work`` keeps vectors, so that an interrupted run resumes and a second one is quick. Time grows no faster than the
    rows; memory by their ids and scores, a few hundred bytes a row, while vectors, facts and n-grams stay on disk.
    Deterministic given the rows and the seed.
    Raises `ValueError` when no row has a score.
    """
    settings, about = settings or Settings(), about or {}
    data = corpus(rows, encoders, work, progress)
    judged = _judged(data)
    near = held_out(judged, fold_of(judged.rows.ids, settings.seed), settings, progress)
    far = held_out(judged, group_folds(judged.rows.tasks, FAR_FOLDS), settings, progress)
    heads = {}
    for done, look in enumerate(data.looks):
        if progress:
            progress("fit", done, len(data.looks))
        heads[look] = _heads(data, judged, look, near, far, settings)
    return Artifact(
        models=data.models,
        encoders={look: encoder.name for look, encoder in encoders.items()},
        heads=heads,
        about={
            **about,
            "data": {**about.get("data", {}), EVERYDAY.name: sha256(EVERYDAY)},
            "seed": settings.seed,
            "rows": len(data.rows),
            **_sampled(data),
            "benchmarks": benchmarks(data.rows),
            "figures": {look: held_out_figures(judged.rows, near[look].logits) for look in data.looks},
        },
    )


def train_default(
    paths: Sequence[Path],
    encoders: Mapping[str, Encoder],
    work: Path,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Artifact:
    """Train the artifact that ships with the package, from the shared data's files."""
    licences = {path.name: LICENCES.get(path.name.split(".")[0], "unknown") for path in [*paths, EVERYDAY]}
    return train(
        with_stems(read(paths)), encoders, work, progress=progress, about={**(about or {}), "licences": licences}
    )


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


def held_out_figures(table: Table, logits: Array) -> dict[str, dict[str, float]]:
    """Each model's ECE and Brier score on held-out rows, after Platt scaling fitted on the other half of them."""
    half = fold_of(table.ids, 1, 2)
    found = {}
    for column, model in enumerate(table.models):
        y = table.scores[:, column]
        p = np.zeros(len(y), np.float32)
        for part in (0, 1):
            scale, shift = calibrate(logits[half != part], table.scores[half != part])
            p[half == part] = probability(logits[half == part] * scale + shift)[:, column]
        rows = np.isfinite(y)
        if rows.any():
            found[model] = {
                "rows": int(rows.sum()),
                "ece": round(metrics.ece(p[rows], y[rows]), 4),
                "brier": round(metrics.brier(p[rows], y[rows]), 4),
            }
    return found


def _judged(data: Corpus) -> Corpus:
    """The corpus, or, where it has very many scored rows, `HELD` of them, evenly spread."""
    scored = np.flatnonzero(np.isfinite(data.rows.scores).any(axis=1))
    return data if len(scored) <= HELD else replace(data, rows=data.rows.take(spread(scored, HELD)))


def _sampled(data: Corpus) -> dict[str, dict[str, int]]:
    """For the manifest: what was fitted on a sample of the scored rows, and how many those were; nothing where not."""
    every = np.flatnonzero(np.isfinite(data.rows.scores).any(axis=1))
    most = {"calibration, errors, keeping": HELD, "trees, clusters, places, plain head": SAMPLE}
    found = {what: len(spread(every, rows)) for what, rows in most.items() if len(every) > rows}
    return {"sampled": found} if found else {}


def _heads(
    data: Corpus, judged: Corpus, look: str, near: Mapping[str, Held], far: Mapping[str, Held], settings: Settings
) -> Heads:
    """One look's heads: fitted on every row, calibrated and given errors by what held-out rows showed."""
    every = np.flatnonzero(np.isfinite(data.rows.scores).any(axis=1))
    member = fit_member(data, look, every, settings)
    table = judged.rows
    scored = np.flatnonzero(np.isfinite(table.scores).any(axis=1))
    measured = np.flatnonzero(np.isfinite(table.scores[:, : -len(CLASSES)]).any(axis=1))
    weights = np.concatenate([member.linear, _fit_domains(data, look, settings)], axis=1)
    scale, shift = calibrate(near[look].logits[measured], table.scores[measured])
    x = design(look, vectors_of(table, look, scored), table.facts[scored])
    mask = np.isfinite(table.scores[scored]) * table.weights[scored, None] * np.float32(len(every) / len(scored))
    p = probability(near[look].logits[scored] * scale + shift)
    shared, own = _errors(table, look, data.looks[-1], (far, near), measured, scale, shift)
    heads = Heads(
        table=weights[: SIZE if look == "lexical" else 0],
        plain=member.plain,
        weights=weights[SIZE:] if look == "lexical" else weights,
        projection=member.projection,
        features=member.trees.features,
        thresholds=member.trees.thresholds,
        leaves=member.trees.leaves,
        centroids=member.centroids,
        means=member.means,
        places=member.places,
        scale=scale,
        shift=shift,
        reach=member.reach,
        spread=posterior_spread(x, mask, p, settings.penalty(look, len(every)).own),
        noise=own,
        shared=shared,
        enough=np.zeros((len(KEPT), len(data.models), len(data.models)), np.float32),
    )
    return replace(heads, enough=_enough(judged, look, near[look], measured, heads))


def _errors(
    table: Table, look: str, best: str, held: Sequence[Mapping[str, Held]], rows: Rows, scale: Array, shift: Array
) -> tuple[Array, Array]:
    """A look's shared and own errors (2, models) on unseen and on seen tasks, what the best look changes added."""
    tasks = [table.tasks[i] for i in rows]
    found = []
    for h in held:
        apart = (h[look].logits[rows] - h[best].logits[rows]).astype(np.float64) * scale
        logits = h[look].logits[rows] * scale + shift
        found.append(fit_errors(tasks, table.scores[rows], logits, len(CLASSES), apart.T @ apart / max(len(rows), 1)))
    return np.stack([shared for shared, _ in found]), np.stack([own for _, own in found])


def _enough(judged: Corpus, look: str, held: Held, rows: Rows, heads: Heads) -> Array:
    """What is enough to keep a share of quality (`Heads.enough`), from what heads said of rows they never saw."""
    x = design(look, vectors_of(judged.rows, look, rows), judged.rows.facts[rows])
    logits = held.logits[rows] * heads.scale + heads.shift
    familiar = held.familiar[rows, None]
    own = np.sqrt(posterior_variance(x, heads.spread) + np.square(blend(familiar, heads.noise)))
    return enough(judged.models, judged.rows.scores[rows], logits, own, blend(familiar, heads.shared))


def _fit_domains(data: Corpus, look: str, settings: Settings) -> Array:
    """Domains from benchmarks' tasks and everyday prompts, each half of the weight, evened by domain within."""
    xs, ys, ws = [], [], []
    for table in (data.rows, data.everyday):
        names = [d or labels.domain_of_task(t) for d, t in zip(table.domains, table.tasks, strict=True)]
        rows = spread(np.flatnonzero(np.array([bool(n) for n in names])), SAMPLE)
        if not len(rows):
            continue
        y = np.array([DOMAINS.index(names[i]) for i in rows])
        share = 1.0 / np.sqrt(np.bincount(y, minlength=len(DOMAINS)))[y]
        xs.append(design_of(table, look, rows))
        ys.append(y)
        ws.append(share / share.sum() * 4000)
    penalty = settings.ngram_domain_penalty if look == "lexical" else settings.domain_penalty
    x = sparse.vstack(xs, format="csr") if look == "lexical" else np.concatenate(xs)
    return fit_softmax(x, np.concatenate(ys), np.concatenate(ws).astype(np.float32), len(DOMAINS), penalty)
