"""Evaluation: predictions and labels in, a report out. Predictions come from an artifact or from held-out folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers import metrics
from classifiers.artifact import Artifact
from classifiers.embed import Table
from classifiers.errors import fit_errors
from classifiers.heads import Array, probability_error, sigmoid
from classifiers.members import BLOCK, Corpus, Held, Settings, calibrate, fold_of, held_out
from classifiers.scorer import Prediction, Scorer
from classifiers.targets import Target, map_targets
from policies.values import DOMAINS

Rows = NDArray[np.int64]
Figure = dict[str, float]

ANSWER_TOKENS = 300
"""Output tokens that a call is priced at, since rows don't say: the same for every model."""

LAMBDAS = np.concatenate([[0.0], np.geomspace(0.002, 20.0, 96)])
"""Prices of success, per unit of the dearest model's cost, that choosing among models is swept over."""


class EvaluationError(ValueError):
    """The rows cannot be evaluated as asked; the message says which model or row, and what to do."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Predicted and actual success (n, models) of rows that have a score for every model, and their facts.

    ``p`` ranks and chooses: one calibration for all rows, as an artifact has. ``honest`` is what calibration is judged
    on: for held-out folds, calibrated on the other folds (ranking by that would be biased, since a fold whose models do
    well lowers the others' intercepts and not its own). ``errors`` are standard errors of ``p``, ``shared`` the signed
    part of them that all models have in common; ``cost`` (n, models)
    is in dollars, or in units where prices are unknown.
    """

    models: tuple[str, ...]
    p: Array
    honest: Array
    errors: Array
    shared: Array
    y: Array
    cost: Array
    lengths: NDArray[np.int64]
    tasks: NDArray[np.str_]


def from_artifact(artifact: Artifact, table: Table, look: str, models: Sequence[str], prices: Prices) -> Scored:
    """Predictions of an artifact on rows it was, one hopes, not trained on.

    Raises `EvaluationError` for a model that no row names or the artifact was not trained for, and for an artifact
    without that look.
    """
    if look not in artifact.heads:
        raise EvaluationError(f"artifact {artifact.id} has no {look} head; it has {', '.join(sorted(artifact.heads))}")
    rows, y = _labelled(table, models)
    mapped = map_targets([Target(m, m) for m in models], artifact.models, artifact.about)
    for model, source in zip(models, mapped.sources, strict=True):
        if source == "size":
            first = table.ids[int(rows[0])]
            raise EvaluationError(
                f"row {first!r} names the model {model!r}, which artifact {artifact.id} was not trained for; it knows "
                f"{', '.join(artifact.models)}. Train with these rows, or cross-validate"
            )
    found = predict_table(artifact, look, table, rows)
    logits, own, shared = (
        np.stack(part) for part in zip(*((p.logits, p.errors, p.shared) for p in found), strict=True)
    )
    z = logits @ mapped.weights.T + mapped.offsets
    errors = own @ np.abs(mapped.weights).T, shared @ mapped.weights.T
    return _scored(table, rows, models, sigmoid(z), _in_probability(z, *errors), y, prices)


def predict_table(artifact: Artifact, look: str, table: Table, rows: Rows) -> list[Prediction]:
    """What an artifact's look says of some rows of a table that was encoded in its spaces."""
    scorer, found = Scorer(artifact.heads, look), []
    for start in range(0, len(rows), BLOCK):
        at = rows[start : start + BLOCK]
        vectors = np.zeros((len(at), 0)) if look == "lexical" else table.vectors[look][at]
        grams = table.grams.matrix(at)
        for row, (a, b) in enumerate(pairwise(grams.indptr)):
            pair = grams.indices[a:b], grams.data[a:b]
            found.append(scorer.score(vectors[row], table.facts[at[row]], pair))
    return found


def from_folds(
    data: Corpus,
    look: str,
    models: Sequence[str],
    prices: Prices,
    *,
    folds: Rows | None = None,
    labels_at_most: int | None = None,
    settings: Settings | None = None,
) -> Scored:
    """Held-out predictions: each row's from heads, and a calibration, that never saw its fold.

    ``folds`` gives each row's fold (by default 5 random ones), -1 for rows that are never tested.
    Raises `EvaluationError` for a model that no row names.
    """
    settings = settings or Settings()
    where = fold_of(data.rows.ids, settings.seed) if folds is None else folds
    held = held_out(data, where, settings, labels_at_most=labels_at_most, looks=[look])[look]
    return from_held(data, held, models, prices)


def from_held(
    data: Corpus,
    held: Held,
    models: Sequence[str],
    prices: Prices,
    calibration: tuple[Array, Array] | None = None,
) -> Scored:
    """The same from answers that `members.held_out` gave before.

    ``calibration`` is a scale and shift (models,) found on other rows, to be used instead of one found on these.
    """
    where = held.folds
    rows, y = _labelled(data.rows, models)
    tested = where[rows] >= 0
    rows, y = rows[tested], y[tested]
    z = held.logits[rows][:, [data.models.index(m) for m in models]]
    scale, shift = calibration or calibrate(z, y)
    p = sigmoid(z * scale + shift)
    honest, errors, shared = np.empty_like(z), np.empty_like(z), np.empty_like(z)
    tasks = np.array(data.rows.tasks)[rows]
    for fold in np.unique(where[rows]):
        test = where[rows] == fold
        known = ~test if (~test).any() else test
        scale, shift = calibration or calibrate(z[known], y[known])
        answer = z * scale + shift
        together, own = fit_errors(tasks[known].tolist(), y[known], answer[known])
        honest[test] = sigmoid(answer[test])
        errors[test], shared[test] = _in_probability(answer[test], own, together)
    return replace(_scored(data.rows, rows, models, p, (errors, shared), y, prices), honest=honest)


def _in_probability(logits: Array, own: Array, shared: Array) -> tuple[Array, Array]:
    """Logits' own and shared errors as (standard errors, shared part) of the probabilities."""
    total = np.hypot(own, shared)
    errors = probability_error(logits, total)
    return errors, np.asarray(errors * shared / total, np.float32)


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars per million input and output tokens by model; a model without a price makes costs plain units."""

    usd: Mapping[str, tuple[float, float]]

    def cost(self, models: Sequence[str], lengths: NDArray[np.int64]) -> Array:
        """Cost (n, models) of one call each. With any price unknown: 0 for the first model, 1 for the others."""
        if not all(m in self.usd for m in models):
            return np.tile(np.arange(len(models)) > 0, (len(lengths), 1)).astype(np.float32)
        tokens = lengths / 4.0
        columns = [(tokens * self.usd[m][0] + ANSWER_TOKENS * self.usd[m][1]) / 1e6 for m in models]
        return np.stack(columns, axis=1).astype(np.float32)


def pair_report(scored: Scored, *, bootstrap: int = 400) -> dict[str, Any]:
    """Routing between the first model (small) and the second (large): every figure with a bootstrap 95% interval."""
    small, large = scored.y[:, 0], scored.y[:, 1]
    rankings = {
        "router": scored.p[:, 1] - scored.p[:, 0],
        "by_difficulty": -scored.p[:, 0],
        "length_only": scored.lengths.astype(np.float32),
        "random": np.random.default_rng(0).random(len(small)),
        "oracle": large - small,
    }
    report: dict[str, Any] = {
        "rows": len(small),
        "small": {"model": scored.models[0], "quality": float(small.mean())},
        "large": {"model": scored.models[1], "quality": float(large.mean())},
    }
    for name, ranking in rankings.items():
        report[name] = {
            key: figure(of, len(small), bootstrap)
            for key, of in _pair_figures(ranking, small, large, scored.cost).items()
        }
    report["margin_over_length"] = figure(
        lambda i: (
            metrics.apgr(rankings["router"][i], small[i], large[i])
            - metrics.apgr(rankings["length_only"][i], small[i], large[i])
        ),
        len(small),
        bootstrap,
    )
    report["calibration"] = calibration(scored, bootstrap)
    report["keep_quality"] = {
        f"{keep:.2f}": dict(
            zip(
                ("threshold", "share_small"),
                metrics.keep_quality_threshold(rankings["router"], small, large, keep),
                strict=True,
            )
        )
        for keep in (0.90, 0.95, 0.97, 0.99)
    }
    return report


def calibration(scored: Scored, bootstrap: int = 200) -> dict[str, Any]:
    """ECE and Brier of each model's success."""
    return {
        model: {
            "ece": figure(calibration_error(scored, column), len(scored.y), bootstrap),
            "brier": figure(partial(_brier, scored, column), len(scored.y), bootstrap),
        }
        for column, model in enumerate(scored.models)
    }


def calibration_error(scored: Scored, column: int) -> Callable[[Rows], float]:
    """One model's ECE, as a figure of rows."""
    return lambda rows: metrics.ece(scored.honest[rows, column], scored.y[rows, column])


def _brier(scored: Scored, column: int, rows: Rows) -> float:
    return metrics.brier(scored.honest[rows, column], scored.y[rows, column])


def fleet_report(scored: Scored, *, guard: float = 0.0, bootstrap: int = 200) -> dict[str, Any]:
    """Choosing among all models by p − λ·cost, against the best single one.

    ``cost_at_best`` is the share of the best single model's cost at which its quality is reached, ``gain_at_price`` the
    quality gained without exceeding its cost, ``left_alone`` the quality against it when cost is no object, in all and
    by task.
    """
    best = int(np.argmax(scored.y.mean(axis=0)))
    chosen = choices(scored, best, guard)

    def at(rows: Rows) -> tuple[NDArray[Any], NDArray[Any], float, float]:
        y, cost = scored.y[rows], scored.cost[rows]
        picked = chosen[:, rows]
        points = np.arange(len(rows))
        quality = y[points, picked].mean(axis=1)
        spent = cost[points, picked].mean(axis=1)
        return spent, quality, float(cost[:, best].mean()), float(y[:, best].mean())

    def share(rows: Rows) -> float:
        spent, quality, price, level = at(rows)
        return metrics.cost_at(spent, quality, level) / price

    def gain(rows: Rows) -> float:
        spent, quality, price, level = at(rows)
        return float(quality[spent <= price * 1.0001].max(initial=-1.0)) - level

    def free(rows: Rows) -> float:
        _, quality, _, level = at(rows)
        return float(quality[0]) - level

    oracle = float(scored.y.max(axis=1).mean())
    tasks = {str(task): scored.tasks == task for task in np.unique(scored.tasks)}
    apart = np.take_along_axis(scored.y, chosen[0][:, None], axis=1)[:, 0] - scored.y[:, best]
    return {
        "rows": len(scored.y),
        "best_single": {"model": scored.models[best], "quality": float(scored.y[:, best].mean())},
        "cost_at_best": figure(share, len(scored.y), bootstrap),
        "gain_at_price": figure(gain, len(scored.y), bootstrap),
        "left_alone": figure(free, len(scored.y), bootstrap),
        "left_alone_by_task": {task: float(apart[rows].mean()) for task, rows in tasks.items()},
        "oracle": oracle,
        "calibration": calibration(scored, 0),
    }


def coverage(scored: Scored, bootstrap: int = 400, least: int = 20) -> Figure:
    """How often a task's mean success lies within 1.96 standard errors of the prediction: 0.95 where these are right.

    Over tasks of ``least`` rows or more and all models. A model's errors within a task are taken as one error, which
    is what they are meant for, beside the sampling of the task's own rows; tasks are what is resampled.
    """
    inside = []
    for task in np.unique(scored.tasks):
        rows = scored.tasks == task
        if rows.sum() >= least:
            p, y = scored.honest[rows], scored.y[rows]
            error = np.hypot(scored.errors[rows].mean(axis=0), np.sqrt((p * (1 - p)).mean(axis=0) / rows.sum()))
            inside.append((np.abs((y - p).mean(axis=0)) <= 1.96 * error).mean())
    return figure(lambda i: float(np.mean(np.array(inside)[i])), len(inside), bootstrap)


def gain_coverage(scored: Scored, within: float = 1.96, bootstrap: int = 400, least: int = 20) -> Figure:
    """`coverage` of the difference of any two models: how often a task's mean lies within so many standard errors."""
    inside = []
    for task in np.unique(scored.tasks):
        rows = scored.tasks == task
        if rows.sum() < least:
            continue
        off, found = scored.y[rows] - scored.honest[rows], []
        for column in range(1, len(scored.models)):
            apart = off[:, :column] - off[:, [column]]
            error = np.hypot(
                gain_errors(scored, column)[rows, :column].mean(axis=0), apart.std(axis=0) / sqrt(len(off))
            )
            found.append(np.abs(apart.mean(axis=0)) <= within * error)
        inside.append(np.concatenate(found).mean())
    return figure(lambda i: float(np.mean(np.array(inside)[i])), len(inside), bootstrap)


def gain_errors(scored: Scored, beside: int) -> Array:
    """The standard errors (n, models) of models' success minus that of one of them (see `policies.objective`)."""
    own = np.square(scored.errors) - np.square(scored.shared)
    apart = np.square(scored.shared - scored.shared[:, [beside]])
    return np.asarray(np.sqrt(np.maximum(apart + own + own[:, [beside]], 0.0)), np.float32)


def choices(scored: Scored, default: int, guard: float) -> NDArray[np.int64]:
    """The chosen column (lambdas, n) at each of `LAMBDAS`, leaving ``default`` only for an advantage beyond ``guard``
    standard errors of its difference from the default."""
    bound = scored.p - guard * gain_errors(scored, default)
    bound[:, default] = scored.p[:, default]
    cost = scored.cost / scored.cost.max()
    return np.stack([(bound - price * cost).argmax(axis=1) for price in LAMBDAS])


def _pair_figures(ranking: Array, small: Array, large: Array, cost: Array) -> dict[str, Any]:
    def points(i: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
        order = i[np.argsort(-ranking[i], kind="stable")]
        quality = np.concatenate([[0.0], np.cumsum(large[order] - small[order])]) / len(i) + small[i].mean()
        spent = np.concatenate([[0.0], np.cumsum(cost[order, 1] - cost[order, 0])]) / len(i) + cost[i, 0].mean()
        return spent, quality

    def aiq(i: Rows) -> float:
        spent, quality = points(i)
        return metrics.aiq(spent, quality, float(spent.min()), float(spent.max()))

    def saving(i: Rows) -> float:
        spent, quality = points(i)
        return 1.0 - metrics.cost_at(spent, quality, float(large[i].mean())) / float(cost[i, 1].mean())

    return {
        "apgr": lambda i: metrics.apgr(ranking[i], small[i], large[i]),
        "cpt50": lambda i: metrics.cpt(ranking[i], small[i], large[i], 0.5),
        "cpt80": lambda i: metrics.cpt(ranking[i], small[i], large[i], 0.8),
        "aiq": aiq,
        "saving_at_equal_quality": saving,
    }


def figure(of: Callable[[Rows], float], rows: int, bootstrap: int = 400) -> Figure:
    """A figure of some rows with its bootstrap 95% interval; ``of`` is given the rows' numbers."""
    value = float(of(np.arange(rows)))
    low, high = metrics.interval(of, rows, rounds=bootstrap) if bootstrap else (float("nan"), float("nan"))
    return {"value": value, "low": low, "high": high}


def _labelled(table: Table, models: Sequence[str]) -> tuple[Rows, Array]:
    for model in models:
        if model not in table.models:
            raise EvaluationError(f"no row names the model {model!r}; rows name {', '.join(table.models)}")
    y = table.scores[:, [table.models.index(m) for m in models]]
    rows = np.flatnonzero(np.isfinite(y).all(axis=1))
    if not len(rows):
        raise EvaluationError(f"no row has a score for each of {', '.join(models)}")
    return rows, y[rows]


def _scored(
    table: Table, rows: Rows, models: Sequence[str], p: Array, errors: tuple[Array, Array], y: Array, prices: Prices
) -> Scored:
    return Scored(
        models=tuple(models),
        p=p,
        honest=p,
        errors=errors[0],
        shared=errors[1],
        y=y,
        cost=prices.cost(models, table.lengths[rows]),
        lengths=table.lengths[rows],
        tasks=np.array(table.tasks)[rows],
    )


def domain_report(artifact: Artifact, look: str, table: Table, bootstrap: int = 400) -> dict[str, Any] | None:
    """Accuracy and confusion (label, then prediction) over rows that state their domain; None where none does."""
    rows = np.flatnonzero(np.array([bool(domain) for domain in table.domains]))
    if not len(rows):
        return None
    truth = np.array([DOMAINS.index(table.domains[i]) for i in rows])
    found = predict_table(artifact, look, table, rows)
    guess = np.array([np.argmax(prediction.domains) for prediction in found])
    right = (guess == truth).astype(np.float32)
    confusion: dict[str, dict[str, int]] = {DOMAINS[i]: {} for i in np.unique(truth)}
    for i, j in zip(truth, guess, strict=True):
        row = confusion[DOMAINS[i]]
        row[DOMAINS[j]] = row.get(DOMAINS[j], 0) + 1
    return {
        "rows": len(rows),
        "accuracy": figure(lambda i: float(right[i].mean()), len(rows), bootstrap),
        "out_of_distribution": float(np.mean([prediction.far for prediction in found])),
        "confusion": confusion,
    }
