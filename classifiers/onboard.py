"""Onboarding: add models to a trained artifact from a few hundred scored rows, as mixtures of the models it knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from classifiers.artifact import Artifact, ArtifactError
from classifiers.datasets import Row
from classifiers.embed import Progress, Table, tabulate
from classifiers.encoder import Encoder
from classifiers.evaluate import predict_table
from classifiers.heads import Array, Heads
from classifiers.targets import CLASSES, class_of
from classifiers.train import benchmarks

FEWEST = 50
"""Scored rows that a model needs to be onboarded."""

_PRIOR = 8.0
"""Strength of the pull toward an even mixture of the known models."""


def onboard(
    artifact: Artifact,
    rows: Iterable[Row],
    encoders: Mapping[str, Encoder],
    work: Path,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact with a success column more for every model that ``rows`` name and it does not know.

    A new model's logit is a regularised mixture of the known models' logits plus an intercept, fitted by logistic
    regression: with 200 to 500 rows, ability and profile can be learnt, a direction of its own cannot.
    Raises `ValueError` when no model is new or one has fewer than `FEWEST` rows, `ArtifactError` when an encoder is of
    another space than the artifact's.
    """
    for look, encoder in encoders.items():
        if artifact.encoders.get(look) != encoder.name:
            raise ArtifactError(
                f"artifact {artifact.id} reads {look} vectors of {artifact.encoders.get(look)}, not of {encoder.name}"
            )
    if missing := set(artifact.encoders) - set(encoders):
        raise ArtifactError(f"artifact {artifact.id} has {', '.join(sorted(missing))} heads; their encoder is needed")
    table = tabulate(rows, encoders, work / "onboard", progress)
    new = [model for model in table.models if model not in artifact.models]
    if not new:
        raise ValueError(f"the rows name no model that artifact {artifact.id} does not know: {', '.join(table.models)}")
    for model in new:
        count = int(np.isfinite(table.scores[:, table.models.index(model)]).sum())
        if count < FEWEST:
            raise ValueError(
                f"{model!r} has {count} scored rows; onboarding needs at least {FEWEST}, better 200 to 500"
            )
    heads = {look: _extend(artifact, look, table, new) for look in artifact.heads}
    at = len(artifact.models) - len(CLASSES)
    scores = {**artifact.about.get("benchmarks", {}), **{m: b for m, b in benchmarks(table).items() if m in new}}
    about = {
        **artifact.about,
        "benchmarks": scores,
        "onboarded": sorted({*artifact.about.get("onboarded", ()), *new}),
        "parent": artifact.id,
    }
    models = (*artifact.models[:at], *new, *artifact.models[at:])
    return Artifact(models=models, encoders=artifact.encoders, heads=heads, about=about)


def _extend(artifact: Artifact, look: str, table: Table, new: list[str]) -> Heads:
    heads = artifact.heads[look]
    known = len(artifact.models)
    logits = np.stack([found.logits for found in predict_table(artifact, look, table, np.arange(len(table)))])
    mixtures, shifts, extra = [], [], []
    for model in new:
        y = table.scores[:, table.models.index(model)]
        rows = np.isfinite(y)
        mixture, intercept = _mixture(logits[rows], y[rows])
        mixtures.append(mixture)
        shifts.append(intercept)
        slope = float(y[rows].mean() * (1 - y[rows].mean())) + 0.02
        extra.append(1.0 / (slope * rows.sum()))
    mix = np.stack(mixtures, axis=1).astype(np.float32)
    raw = mix * heads.scale[:, None]
    noise = np.sqrt(np.square(heads.noise) @ np.square(mix) + np.array(extra, np.float32))

    at = known - len(CLASSES)
    classes = [artifact.models.index(class_of(model)) for model in new]
    place = [*range(at), *classes, *range(at, known)]

    def columns(array: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([array[..., :at], new.astype(array.dtype), array[..., at:]], axis=-1)

    return replace(
        heads,
        table=columns(heads.table, heads.table[:, :known].astype(np.float32) @ raw),
        plain=columns(heads.plain, heads.plain @ raw),
        weights=columns(heads.weights, heads.weights[:, :known] @ raw),
        leaves=columns(heads.leaves, heads.leaves @ raw),
        means=columns(heads.means, heads.means @ raw),
        scale=columns(heads.scale, np.ones(len(new), np.float32)),
        shift=columns(heads.shift, heads.shift @ mix + np.array(shifts, np.float32)),
        noise=columns(heads.noise, noise),
        shared=columns(heads.shared, heads.shared @ mix),
        enough=heads.enough[:, place][:, :, place],
    )


def _mixture(logits: Array, y: Array) -> tuple[NDArray[np.float64], float]:
    """Non-negative mixture weights of the known models' logits, and an intercept, drawn to an even mixture."""
    z = logits.astype(np.float64)
    even = np.full(z.shape[1], 1.0 / z.shape[1])

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        out = z @ theta[:-1] + theta[-1]
        error = 1.0 / (1.0 + np.exp(-out)) - y
        apart = theta[:-1] - even
        value = float((np.logaddexp(0.0, out) - y * out).sum() + _PRIOR / 2 * apart @ apart)
        return value, np.concatenate([z.T @ error + _PRIOR * apart, [error.sum()]])

    bounds = [(0.0, 2.0)] * z.shape[1] + [(-6.0, 6.0)]
    found = minimize(loss, np.concatenate([even, [0.0]]), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x[:-1]), float(found.x[-1])
