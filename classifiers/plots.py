"""Pictures of an evaluation: the cost–quality frontier, reliability, and where the gain is. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from classifiers import metrics
from classifiers.evaluate import Scored


def draw(scored: Scored, path: Path) -> None:
    """Write one PNG for routing between the first model and the second. Raises `ValueError` without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ValueError("--plot needs matplotlib: pip install 'tierwise[torch]'") from error
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(17, 5))
    _frontier(left, scored)
    _reliability(middle, scored)
    _gains(right, scored)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _frontier(axis: Any, scored: Scored) -> None:
    small, large = scored.y[:, 0], scored.y[:, 1]
    share = np.linspace(0, 1, len(small) + 1)
    rankings = {
        "router": scored.p[:, 1] - scored.p[:, 0],
        "length only": scored.lengths.astype(np.float32),
        "oracle": large - small,
    }
    for name, ranking in rankings.items():
        axis.plot(share, metrics.gain_curve(ranking, small, large), label=name)
    axis.plot([0, 1], [small.mean(), large.mean()], "--", color="grey", label="random")
    axis.scatter([0, 1], [small.mean(), large.mean()], color="black", zorder=3, label="single models")
    axis.set(xlabel=f"share sent to {scored.models[1]}", ylabel="share answered right", title="Frontier")
    axis.legend()


def _reliability(axis: Any, scored: Scored) -> None:
    for column, model in enumerate(scored.models[:2]):
        order = np.array_split(np.argsort(scored.honest[:, column], kind="stable"), 15)
        predicted = [scored.honest[i, column].mean() for i in order if len(i)]
        axis.plot(predicted, [scored.y[i, column].mean() for i in order if len(i)], "o-", label=model)
    axis.plot([0, 1], [0, 1], "--", color="grey")
    axis.set(xlabel="predicted success", ylabel="actual success", title="Reliability")
    axis.legend()


def _gains(axis: Any, scored: Scored) -> None:
    tasks, counts = np.unique(scored.tasks, return_counts=True)
    most = tasks[np.argsort(-counts)][:20]
    actual = [float((scored.y[scored.tasks == t, 1] - scored.y[scored.tasks == t, 0]).mean()) for t in most]
    predicted = [float((scored.p[scored.tasks == t, 1] - scored.p[scored.tasks == t, 0]).mean()) for t in most]
    at = np.arange(len(most))
    axis.barh(at - 0.2, actual, 0.4, label="actual")
    axis.barh(at + 0.2, predicted, 0.4, label="predicted")
    axis.set_yticks(at, [t.removeprefix("mmlu/") or "(no task)" for t in most])
    axis.set(xlabel=f"gain of {scored.models[1]} over {scored.models[0]}", title="Gain by task")
    axis.legend()
