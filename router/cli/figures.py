"""``tierwise evaluate --figures``: every figure that the classifier is held to, its interval, and what is wanted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from router.cli import cache_dir

if TYPE_CHECKING:
    from classifiers.artifact import Artifact
    from classifiers.classifier import Classifier
    from classifiers.figures import Goal, Judged
    from policies.values import Features, Signals

PAIR = ("mixtral-8x7b-instruct", "gpt-4-1106-preview")
TIMED = 300
ATTACKED = 60


def run(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure everything, print it unless JSON is asked for, draw it where asked; gives it as JSON has it.

    Raises what `router.cli.evaluate.run` catches.
    """
    from rich.console import Console

    from classifiers import figures
    from router.cli.train import encoders_for, progress

    pair = (args.small or PAIR[0], args.large or PAIR[1])
    encoders = encoders_for("full", None, args.weights, args.device)
    goals: list[Goal] = []
    confusion: dict[str, dict[str, int]] = {}
    with progress() as told:
        judged = None
        for found in _all(args, work, pair, encoders, told, confusion):
            if isinstance(found, figures.Judged):
                judged = found
            else:
                goals.append(found)
                _say(found)
    if args.plot and judged is not None:
        from classifiers.plots import draw_figures

        draw_figures(judged, confusion, args.plot)
    if not args.json:
        show(Console(), goals, confusion)
    return {"look": args.look, "seed": args.seed, "figures": figures.plain(goals), "confusion": confusion}


def _all(
    args: argparse.Namespace,
    work: Path,
    pair: tuple[str, str],
    encoders: dict[str, Any],
    told: Any,
    confusion: dict[str, dict[str, int]],
) -> Iterator[Goal | Judged]:
    """The quick figures first, of what is shipped; then those for which heads are trained again and again."""
    from classifiers import figures
    from classifiers.artifact import default_artifact, load
    from classifiers.datasets import read
    from classifiers.embed import tabulate
    from classifiers.evaluate import domain_report
    from classifiers.folds import Folds
    from classifiers.members import EVERYDAY, Settings
    from router.cli.evaluate import prices_in

    artifact = load(args.artifact or default_artifact())
    yield from _times(artifact, encoders, args)
    look = {name: encoder for name, encoder in encoders.items() if name == args.look}
    table = tabulate(read(args.data), look, work / "rows", told)
    if report := domain_report(artifact, args.look, table, args.bootstrap):
        confusion.update(report["confusion"])
        yield figures.domain_goal(report)
        yield from figures.attacked(artifact, encoders["static"], encoders["full"], _everyday(args.data))
    else:
        print("domains and attacks are not measured: no row of --data states its domain", file=sys.stderr)
    everyday = tabulate(read([EVERYDAY]), look, work / "everyday", told)
    space = "" if args.look == "lexical" else look[args.look].name
    folds = Folds(work / "folds", args.look, space, Settings(seed=args.seed), told)
    yield from figures.goals(table, everyday, pair, prices_in(args.prices), folds, args.bootstrap)


def _say(goal: Goal) -> None:
    """One line on standard error as soon as it is known: a run takes minutes."""
    figure = goal.figure
    verdict = {True: "reached", False: "not reached", None: "reported"}[goal.reached]
    print(
        f"{goal.group}: {goal.name}: {figure['value']:.4g} [{figure['low']:.4g}, {figure['high']:.4g}] {verdict}",
        file=sys.stderr,
    )


def _times(artifact: Artifact, encoders: dict[str, Any], args: argparse.Namespace) -> Iterator[Goal]:
    from classifiers import timing
    from classifiers.classifier import Classifier
    from classifiers.figures import Goal
    from classifiers.targets import Target

    targets = [Target(model, model) for model in ("qwen2.5-7b-instruct", "gpt-4-1106-preview")]
    classifier = Classifier(artifact, targets, static=encoders["static"], full=encoders["full"])
    group, batch = "time on one core", timing.prompts(TIMED)
    needed: list[bool] = []
    static, full, mixed = timing.quietest([
        timing.one_look(classifier, "static", batch),
        timing.one_look(classifier, "full", batch),
        timing.mixed(_served(encoders), _needs_second(), _some(args.data), needed),
    ])  # fmt: skip
    note = f"the quietest of {timing.PASSES} passes"
    about, share = f"median, 5% and 95%; CPU; {note}", sum(needed) / len(needed)
    yield Goal(group, "static look, 30 tokens, ms", static, "at most", 0.3, about)
    yield Goal(group, "full look, 30 tokens, ms", full, "at most", 7.0, about)
    yield Goal(group, "mixed prompts, ms", mixed, "at most", 1.0, f"{share:.0%} needed the second look; {note}")
    start = timing.cold_start(_COLD.format(cache=str(cache_dir())))
    yield Goal(group, "start to first second look, s", start, "at most", 3.0, "least and most of 3; CPU")


_COLD = """
from pathlib import Path
from classifiers import prepare
from classifiers.artifact import default_artifact
from classifiers.classifier import Classifier, Target
from classifiers.features import from_text
both = prepare.load(Path({cache!r}))
targets = [Target("small", "qwen2.5-7b-instruct")]
classifier = Classifier.load(default_artifact(), targets, static=both.static, full=both.full)
classifier.second_look(from_text("Hello"))
"""


def _some(paths: list[Path]) -> list[Features]:
    """Prompts from all the files, evenly."""
    from classifiers.datasets import read

    every = [row.features for path in paths for row in read([path])]
    return every[:: max(1, len(every) // TIMED)]


def _everyday(paths: list[Path]) -> list[str]:
    """Some of the prompts that state a domain: what attacks are tried on."""
    from classifiers.datasets import read

    texts = [row.features.text for row in read(paths) if row.domain]
    return Random(1).sample(texts, min(ATTACKED, len(texts)))


def _served(encoders: dict[str, Any]) -> Classifier:
    from router.settings import load_policy
    from router.signals import load_classifier

    return load_classifier(load_policy("balanced").policy, encoders["static"], encoders["full"])


def _needs_second() -> Any:
    from policies.decide import weigh
    from policies.doubts import could_flip
    from policies.values import View
    from router.settings import load_policy

    loaded, view = load_policy("balanced"), View(now=datetime.now(UTC))

    def needed(features: Features, first: Signals) -> bool:
        return could_flip(weigh(loaded, features, first, view))

    return needed


def show(console: Any, goals: list[Goal], confusion: dict[str, dict[str, int]]) -> None:
    """Print the goals as a table, and which domains are taken for which."""
    from rich.table import Table as Grid

    from router.cli.evaluate import print_confusion

    grid = Grid(title="figures, each with its 95% interval")
    for name, side in (
        ("", "left"),
        ("figure", "left"),
        ("measured", "right"),
        ("wanted", "right"),
        ("reached", "left"),
    ):
        grid.add_column(name, justify=side)  # type: ignore[arg-type]
    grid.add_column("note")
    last = ""
    for goal in goals:
        wanted = {"at least": "≥ ", "at most": "≤ ", "above": "> "}.get(goal.side, "")
        grid.add_row(
            "" if goal.group == last else goal.group,
            goal.name,
            "{value:.3f} [{low:.3f}, {high:.3f}]".format(**goal.figure),
            f"{wanted}{goal.wanted:g}" if wanted else "reported",
            {True: "yes", False: "no", None: ""}[goal.reached],
            goal.note,
        )
        last = goal.group
    console.print(grid)
    if confusion:
        print_confusion(console, confusion)
