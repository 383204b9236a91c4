"""The figures that this classifier is held to, each beside what is wanted of it. Heads are trained again for each fold.

What is measured of the shipped artifact instead, says so: domains, attacks and time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from classifiers import attack, evaluate, gadgets, labels, metrics
from classifiers.artifact import Artifact
from classifiers.classifier import Classifier
from classifiers.embed import Table
from classifiers.encoder import Encoder
from classifiers.evaluate import Figure, Prices, Scored
from classifiers.folds import Folds
from classifiers.heads import Array
from classifiers.members import Corpus, Rows, assemble, calibrate, fold_of, group_folds, spread

GUARD = 0.5
"""Standard errors by which another model must be better before the best single one is left, as `policies.objective` has
it where success is weighed against cost."""

FEW_LABELS = 1500

CONTROL_ROWS = 3000

_MATHS = frozenset({"gsm8k", "mgsm", "agentverse-mgsm"})
"""Benchmarks that GSM8K's questions, or their translations, are in."""

Side = Literal["at least", "at most", "above", "reported"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A measured figure, the interval around it, and what is wanted; ``above`` wants the whole interval above."""

    group: str
    name: str
    figure: Figure
    side: Side = "reported"
    wanted: float = float("nan")
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the figure is what is wanted; None where none is."""
        value = self.figure["value"]
        match self.side:
            case "at least":
                return value >= self.wanted
            case "at most":
                return value <= self.wanted
            case "above":
                return self.figure["low"] > self.wanted
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Judged:
    """What the goals were measured on, for pictures: the pair and all other models, held out in 5 folds."""

    pair: Scored
    fleet: Scored


def goals(
    table: Table, everyday: Table, pair: tuple[str, str], prices: Prices, folds: Folds, bootstrap: int
) -> Iterator[Goal | Judged]:
    """Every figure that heads' predictions on rows they never saw give, as it comes, and last what to draw.

    ``table`` has MMLU and GSM8K rows scored for ``pair``, and rows scored for other models. Raises `EvaluationError`
    where one of the three is missing.
    """
    parts = _parts(table, pair)
    fleet_models = tuple(m for m in table.models if m not in pair)
    mmlu, fleet = (_alone(table, everyday, parts[name]) for name in ("mmlu", "fleet"))
    seed = folds.settings.seed

    held = folds.held("MMLU, 5 folds", mmlu, fold_of(mmlu.rows.ids, seed))
    near = evaluate.from_held(mmlu, held, pair, prices)
    yield from _ranked("MMLU, 5 folds", near, 0.70, bootstrap)
    held = folds.held(f"MMLU, {FEW_LABELS} labels", mmlu, fold_of(mmlu.rows.ids, seed), FEW_LABELS)
    few = evaluate.from_held(mmlu, held, pair, prices)
    yield from _ranked(f"MMLU, {FEW_LABELS:,} labels", few, 0.66, bootstrap)
    held = folds.held("MMLU, unseen subjects", mmlu, group_folds(mmlu.rows.tasks, 5))
    unseen = evaluate.from_held(mmlu, held, pair, prices)
    yield from _ranked("MMLU, unseen subjects", unseen, 0.65, bootstrap)
    columns = [mmlu.models.index(m) for m in pair]
    scale, shift = calibrate(held.logits[:, columns], mmlu.rows.scores[:, columns])

    every = assemble(table, everyday)
    where = np.full(len(table), -1, np.int64)
    where[parts["gsm8k"]] = fold_of([table.ids[i] for i in parts["gsm8k"]], seed)
    maths = evaluate.from_held(every, folds.held("GSM8K, 5 folds", every, where), pair, prices)
    yield from _ranked("GSM8K, 5 folds", maths, 0.65, bootstrap)
    other = _without_maths(table, everyday, parts["gsm8k"])
    where = np.where(_benchmark(other.rows) == "gsm8k", 0, -1)
    held = folds.held("GSM8K, never trained on", other, where)
    strange = evaluate.from_held(other, held, pair, prices, (scale, shift))
    yield from _ranked("GSM8K, never trained on", strange, float("nan"), bootstrap)

    held = folds.held("nine models, 5 folds", fleet, fold_of(fleet.rows.ids, seed))
    many = evaluate.from_held(fleet, held, fleet_models, prices)
    yield from _chosen(many, bootstrap)
    held = folds.held("nine models, a task left out", fleet, group_folds(fleet.rows.tasks))
    left = evaluate.from_held(fleet, held, fleet_models, prices)
    yield from _left_out(left, bootstrap)
    yield _control(mmlu, pair, everyday, folds, bootstrap)

    yield from _calibrated({"MMLU": near, "nine models": many}, "in distribution", 0.03, bootstrap)
    yield from _calibrated({"MMLU": unseen, "nine models": left, "GSM8K": strange}, "never seen", None, bootstrap)
    for name, scored in (("tasks seen", many), ("subjects never seen", unseen), ("tasks never seen", left)):
        yield Goal(
            "standard errors",
            f"share of {name} within 1.96 of them",
            evaluate.coverage(scored, bootstrap),
            "at least",
            0.90,
            "0.95 where they are right",
        )
        apart = evaluate.gain_coverage(scored, bootstrap=bootstrap)
        yield Goal("standard errors", f"the same of gains, {name}", apart, "at least", 0.90)
    yield Judged(near, many)


def _parts(table: Table, pair: tuple[str, str]) -> dict[str, Rows]:
    """Rows by what they can show."""
    missing = [model for model in pair if model not in table.models]
    if missing:
        raise evaluate.EvaluationError(f"no row names the model {missing[0]!r}; rows name {', '.join(table.models)}")
    known = np.isfinite(table.scores)
    both = known[:, [table.models.index(m) for m in pair]].all(axis=1)
    others = known[:, [i for i, m in enumerate(table.models) if m not in pair]]
    found = {
        "mmlu": both & (_benchmark(table) == "mmlu"),
        "gsm8k": both & (_benchmark(table) == "gsm8k"),
        "fleet": others.all(axis=1) & (others.shape[1] > 1),
    }
    for name, rows in found.items():
        if not rows.any():
            what = "several other models" if name == "fleet" else f"{' and '.join(pair)} with a task of {name}"
            raise evaluate.EvaluationError(f"no rows have scores of {what}; give the files that do")
    return {name: np.flatnonzero(rows) for name, rows in found.items()}


def _benchmark(table: Table) -> Any:
    return np.array([task.split("/")[0] for task in table.tasks])


def _alone(table: Table, everyday: Table, rows: Rows) -> Corpus:
    """A corpus of some rows, of the models that these name."""
    part = table.take(rows)
    named = np.flatnonzero(np.isfinite(part.scores).any(axis=0))
    models = tuple(part.models[i] for i in named)
    return assemble(replace(part, models=models, scores=part.scores[:, named]), everyday)


def _without_maths(table: Table, everyday: Table, tested: Rows) -> Corpus:
    """The corpus with no question of grade-school mathematics in it but the tested ones."""
    kept = ~np.isin(_benchmark(table), list(_MATHS))
    kept[tested] = True
    return assemble(table.take(np.flatnonzero(kept)), everyday)


def _ranked(group: str, scored: Scored, wanted: float, bootstrap: int) -> Iterator[Goal]:
    """APGR by predicted gain, and by how much more it is than length alone gives."""
    small, large, gain = scored.y[:, 0], scored.y[:, 1], scored.p[:, 1] - scored.p[:, 0]
    length = scored.lengths.astype(np.float32)

    def apgr(rows: Rows) -> float:
        return metrics.apgr(gain[rows], small[rows], large[rows])

    def above(rows: Rows) -> float:
        return apgr(rows) - metrics.apgr(length[rows], small[rows], large[rows])

    figure = evaluate.figure(apgr, len(small), bootstrap)
    yield Goal(group, "APGR", figure, "at least" if wanted == wanted else "reported", wanted, f"{len(small)} rows")
    yield Goal(group, "APGR above length alone", evaluate.figure(above, len(small), bootstrap), "above", 0.0)


def _chosen(scored: Scored, bootstrap: int) -> Iterator[Goal]:
    found = evaluate.fleet_report(scored, guard=GUARD, bootstrap=bootstrap)
    best = f"{found['best_single']['model']} {found['best_single']['quality']:.3f}, {found['rows']} rows"
    group = f"{len(scored.models)} models, 5 folds"
    yield Goal(group, "share of its price for the best single's accuracy", found["cost_at_best"], "at most", 0.35, best)
    yield Goal(group, "accuracy above the best single's at its price", found["gain_at_price"], "at least", 0.025)


def _left_out(scored: Scored, bootstrap: int) -> Iterator[Goal]:
    """Against the best single model on tasks never seen, cost no object: in all, and the worst task."""
    found = evaluate.fleet_report(scored, guard=GUARD, bootstrap=bootstrap)
    group = f"{len(scored.models)} models, a task left out"
    yield Goal(group, "accuracy above the best single's", found["left_alone"])
    worst = min(found["left_alone_by_task"], key=found["left_alone_by_task"].__getitem__)
    best = int(np.argmax(scored.y.mean(axis=0)))
    chosen = evaluate.choices(scored, best, GUARD)[0]
    rows = np.flatnonzero(scored.tasks == worst)
    apart = (np.take_along_axis(scored.y, chosen[:, None], axis=1)[:, 0] - scored.y[:, best])[rows]
    figure = evaluate.figure(lambda i: float(apart[i].mean()), len(rows), bootstrap)
    yield Goal(group, "the same on the worst task", figure, "at least", -0.01, f"{worst}, {len(rows)} rows")


def _control(mmlu: Corpus, pair: tuple[str, str], everyday: Table, folds: Folds, bootstrap: int) -> Goal:
    """A pair in which the cheap model is right wherever the dear one is: how often the cheap one is chosen.

    The dear model is where choosing starts, and its name promises more. The least share over all prices counts.
    """
    rows = spread(np.arange(len(mmlu.rows)), CONTROL_ROWS)
    part = mmlu.rows.take(rows)
    y = part.scores[:, [mmlu.models.index(m) for m in pair]]
    y = y[np.isfinite(y).all(axis=1)]
    models = ("better-and-cheap-7b", "dear-70b")
    scores = np.column_stack([y.max(axis=1), y.min(axis=1)]).astype(np.float32)
    data = assemble(replace(part, models=models, scores=scores), everyday)
    where = np.where(fold_of(part.ids, folds.settings.seed, 3) == 0, 0, -1)
    prices = Prices({models[0]: (0.1, 0.1), models[1]: (1.0, 1.0)})
    scored = evaluate.from_held(data, folds.held("a better and cheaper model", data, where), models, prices)
    cheap = evaluate.choices(scored, 1, GUARD) == 0
    figure = evaluate.figure(lambda i: float(cheap[:, i].mean(axis=1).min()), len(scored.y), bootstrap)
    return Goal("negative control", "share sent to the model both better and cheaper", figure, "at least", 0.95)


def _calibrated(found: Mapping[str, Scored], where: str, wanted: float | None, bootstrap: int) -> Iterator[Goal]:
    for name, scored in found.items():
        errors = [evaluate.calibration_error(scored, column) for column in range(len(scored.models))]
        rows = np.arange(len(scored.y))
        worst = int(np.argmax([error(rows) for error in errors]))
        figure = _centred(evaluate.figure(partial(_mean, errors), len(rows), bootstrap // 4))
        note = f"worst: {scored.models[worst]} {errors[worst](rows):.3f}"
        side: Side = "reported" if wanted is None else "at most"
        yield Goal("calibration", f"mean ECE, {name}, {where}", figure, side, wanted or float("nan"), note)


def _centred(figure: Figure) -> Figure:
    """The interval's width around the figure itself: resampling repeats rows, which an ECE takes for miscalibration."""
    half = (figure["high"] - figure["low"]) / 2
    return {"value": figure["value"], "low": max(0.0, figure["value"] - half), "high": figure["value"] + half}


def _mean(figures: Sequence[Callable[[Rows], float]], rows: Rows) -> float:
    return float(np.mean([of(rows) for of in figures]))


def domain_goal(report: Mapping[str, Any]) -> Goal:
    """The accuracy in an `evaluate.domain_report`."""
    note = f"shipped artifact, {report['rows']} rows"
    return Goal("domain", "accuracy on everyday prompts", report["accuracy"], "at least", 0.80, note)


def attacked(artifact: Artifact, static: Encoder, full: Encoder, prompts: Sequence[str]) -> Iterator[Goal]:
    """How far fixed texts before or after prompts drive them up, by style, and how many rewordings flip the choice.

    As served, by the full look with every defence on; the note has what each style does without any.
    """
    looks = attack.Remembered(static), attack.Remembered(full)
    classifier = Classifier(artifact, attack.TARGETS, static=looks[0], full=looks[1])  # type: ignore[arg-type]
    readings = dict(attack.readings_of(classifier, ("full",)))
    bare, defended = readings["full: none"], readings["full: all"]
    without = attack.driven_up(bare, prompts, gadgets.STYLES)
    low = round(len(prompts) * (1 - attack.LARGE_SHARE))
    for style, (share, worst) in attack.driven_up(defended, prompts, gadgets.STYLES).items():
        note = f"worst text {worst:.0%}; without defences {without[style][0]:.0%}, worst {without[style][1]:.0%}"
        yield Goal("gadgets, shipped artifact", f"driven up by {style}", _share(share, low), "at most", 0.10, note)
    for name, (either, up) in attack.flipped(defended, prompts).items():
        note = f"{up:.0%} go up"
        yield Goal("paraphrases, shipped artifact", f"flipped when {name}", _share(either, len(prompts)), note=note)


def _share(value: float, of: int) -> Figure:
    """A share with its exact interval, as if each prompt had been tried once."""
    low, high = metrics.clopper_pearson(round(value * of), of)
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def by_domain(scored: Scored) -> list[tuple[str, Array, Array]]:
    """Domains of benchmarks' tasks, most rows first, each with actual and predicted gains of the second model."""
    names = np.array([labels.domain_of_task(str(task)) or str(task) or "(no task)" for task in scored.tasks])
    found, counts = np.unique(names, return_counts=True)
    gains = scored.y[:, 1] - scored.y[:, 0], scored.p[:, 1] - scored.p[:, 0]
    return [(str(n), gains[0][names == n], gains[1][names == n]) for n in found[np.argsort(-counts, kind="stable")]]


def plain(goals: Sequence[Goal]) -> list[dict[str, Any]]:
    """Goals as JSON has them."""
    return [
        {
            "group": goal.group, "name": goal.name, **goal.figure, "side": goal.side,
            "wanted": None if goal.wanted != goal.wanted else goal.wanted, "reached": goal.reached, "note": goal.note,
        }
        for goal in goals
    ]  # fmt: skip
