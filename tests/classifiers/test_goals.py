"""The figures' command: every goal is measured, on rows made for it, and pictures are drawn of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classifiers import evaluate, figures, members
from classifiers.boost import Growth
from classifiers.datasets import Row
from classifiers.embed import Table, tabulate
from classifiers.evaluate import EvaluationError, Prices
from classifiers.features import from_text
from classifiers.figures import Goal, Judged, goals
from classifiers.folds import Folds
from tests.classifiers.small_world import TOPICS

QUICK = members.Settings(growth=Growth(trees=25), iterations=20)
PAIR = ("tiny-7b", "big-70b")
FLEET = {"cheap-7b": 0.1, "middle-30b": 0.5, "dear-70b": 1.0}
PRICES = Prices({name: (price, price) for name, price in {**FLEET, "tiny-7b": 0.1, "big-70b": 1.0}.items()})


def made(seed: int, count: int, task: str, models: tuple[str, ...]) -> Iterator[Row]:
    """The first model is right on easy prompts, the last on hard ones and mostly on easy ones, others at even odds."""
    random = np.random.default_rng(seed)
    for number in range(count):
        topic = "hard" if random.random() < 0.5 else "easy"
        words = " ".join(random.choice(TOPICS[topic].split(), int(random.integers(4, 12))))
        odds = dict.fromkeys(models, 0.5) | {models[0]: 0.95 if topic == "easy" else 0.1}
        odds[models[-1]] = 0.75 if topic == "easy" else 0.9
        scores = {m: float(random.random() < p) for m, p in odds.items()}
        yield Row(f"{task}-{number}", from_text(f"what about {words}?"), task=task, scores=scores)


def world() -> Iterator[Row]:
    for subject in range(6):
        yield from made(subject, 60, f"mmlu/subject-{subject}", PAIR)
    yield from made(20, 80, "gsm8k", PAIR)
    for task in range(3):
        yield from made(30 + task, 80, f"task-{task}", tuple(FLEET))
    yield Row("joke", from_text("tell me a joke"), domain="chat")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, Table]:
    from classifiers.datasets import read

    work = tmp_path_factory.mktemp("work")
    return tabulate(world(), {}, work / "rows"), tabulate(read([members.EVERYDAY]), {}, work / "everyday")


@pytest.fixture(scope="module")
def found(tables: tuple[Table, Table], tmp_path_factory: pytest.TempPathFactory) -> list[Goal | Judged]:
    folds = Folds(tmp_path_factory.mktemp("folds"), "lexical", "", QUICK)
    return list(goals(*tables, PAIR, PRICES, folds, bootstrap=40))


def named(found: list[Goal | Judged], group: str, name: str) -> Goal:
    (goal,) = [g for g in found if isinstance(g, Goal) and g.group == group and g.name == name]
    return goal


def test_every_goal_of_heads_is_there(found: list[Goal | Judged]) -> None:
    groups = {g.group for g in found if isinstance(g, Goal)}
    assert groups == {
        "MMLU, 5 folds", "MMLU, 1,500 labels", "MMLU, unseen subjects", "GSM8K, 5 folds", "GSM8K, never trained on",
        "3 models, 5 folds", "3 models, a task left out", "negative control", "calibration", "standard errors",
    }  # fmt: skip
    for goal in found:
        if isinstance(goal, Goal):
            assert goal.figure["low"] <= goal.figure["value"] + 1e-9
            assert goal.figure["value"] <= goal.figure["high"] + 1e-9
    assert isinstance(found[-1], Judged)


def test_what_can_be_learnt_is_reached(found: list[Goal | Judged]) -> None:
    for group in ("MMLU, 5 folds", "MMLU, unseen subjects", "GSM8K, 5 folds"):
        assert named(found, group, "APGR").figure["value"] > 0.66
        assert named(found, group, "APGR above length alone").reached
    assert named(found, "GSM8K, never trained on", "APGR").reached is None
    assert named(found, "3 models, 5 folds", "share of its price for the best single's accuracy").figure["value"] < 0.8
    assert named(found, "3 models, a task left out", "the same on the worst task").figure["value"] > -0.06
    assert named(found, "negative control", "share sent to the model both better and cheaper").reached


def test_goals_say_whether_they_are_reached() -> None:
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert [Goal("g", "n", value, "at least", x).reached for x in (0.5, 0.51)] == [True, False]
    assert [Goal("g", "n", value, "at most", x).reached for x in (0.5, 0.49)] == [True, False]
    assert [Goal("g", "n", value, "above", x).reached for x in (0.39, 0.45)] == [True, False]
    assert Goal("g", "n", value).reached is None
    assert figures.plain([Goal("g", "n", value)])[0]["wanted"] is None


def test_rows_that_are_missing_are_named(tables: tuple[Table, Table], tmp_path: Path) -> None:
    table, everyday = tables
    folds = Folds(tmp_path, "lexical", "", QUICK)
    with pytest.raises(EvaluationError, match="no row names the model 'gpt-9'"):
        next(iter(goals(table, everyday, ("tiny-7b", "gpt-9"), PRICES, folds, 10)))
    few = table.take(np.flatnonzero(np.array(table.tasks) != "gsm8k"))
    with pytest.raises(EvaluationError, match="tiny-7b and big-70b with a task of gsm8k"):
        next(iter(goals(few, everyday, PAIR, PRICES, folds, 10)))


def test_standard_errors_cover_or_do_not(found: list[Goal | Judged]) -> None:
    judged = found[-1]
    assert isinstance(judged, Judged)
    fair = judged.fleet
    off = np.where(fair.tasks == "task-0", 0.25, -0.25).astype(np.float32)[:, None]
    wrong = replace(fair, honest=np.clip(fair.honest + off, 0.01, 0.99), errors=np.full_like(fair.errors, 0.001))
    assert evaluate.coverage(wrong, 10)["value"] < 0.4
    wide = replace(wrong, errors=np.full_like(fair.errors, 0.25))
    assert evaluate.coverage(wide, 10)["value"] > 0.9


def test_the_table_says_what_is_wanted_and_reached(found: list[Goal | Judged]) -> None:
    from io import StringIO

    from rich.console import Console

    from router.cli.figures import show

    out = StringIO()
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    made = [Goal("one", "first", value, "at least", 0.7), Goal("one", "second", value, "above", 0.1, "of 9 rows")]
    show(Console(file=out, width=160), [*made, *(g for g in found if isinstance(g, Goal))], {"chat": {"chat": 3}})
    lines = [line.split("│") for line in out.getvalue().splitlines()]
    first, second = (next(line for line in lines if len(line) > 4 and name in line[2]) for name in ("first", "second"))
    assert [cell.strip() for cell in first[1:6]] == ["one", "first", "0.500 [0.400, 0.600]", "≥ 0.7", "no"]
    assert [cell.strip() for cell in second[1:7]] == ["", "second", "0.500 [0.400, 0.600]", "> 0.1", "yes", "of 9 rows"]
    assert "negative control" in out.getvalue()
    assert "confusion" in out.getvalue()


def test_pictures(found: list[Goal | Judged], tmp_path: Path) -> None:
    from classifiers.plots import draw, draw_figures

    judged = found[-1]
    assert isinstance(judged, Judged)
    draw(judged.pair, tmp_path / "pair.png")
    draw_figures(judged, {"chat": {"chat": 3, "other": 1}}, tmp_path / "all.png")
    for name in ("pair.png", "all.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "all.png").stat().st_size > 2 * (tmp_path / "pair.png").stat().st_size - 100_000
