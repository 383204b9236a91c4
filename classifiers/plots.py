"""Pictures of an evaluation: cost against quality, reliability, and where the gain is. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from classifiers import metrics
from classifiers.evaluate import Scored, choices
from classifiers.figures import GUARD, Judged, by_domain
from classifiers.heads import Array
from policies.values import DOMAINS

_LONGEST_NAME = 26


def draw(scored: Scored, path: Path) -> None:
    """Write one PNG for routing between the first model and the second. Raises `ValueError` without matplotlib."""
    with _canvas(path, 1, 3) as (left, middle, right):
        _pair(left, scored)
        _reliability(middle, scored)
        _gains(right, scored)


def draw_figures(judged: Judged, confusion: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """Write one PNG for the pair, all other models, and domains. Raises `ValueError` without matplotlib."""
    with _canvas(path, 2, 3) as axes:
        _pair(axes[0], judged.pair)
        _reliability(axes[1], judged.pair)
        _gains(axes[2], judged.pair)
        _fleet(axes[3], judged.fleet)
        _reliability(axes[4], judged.fleet)
        _confusion(axes[5], confusion)


@contextmanager
def _canvas(path: Path, rows: int, columns: int) -> Iterator[Any]:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ValueError("--plot needs matplotlib: pip install 'tierwise[torch]'") from error
    figure, axes = pyplot.subplots(rows, columns, figsize=(6 * columns, 5.2 * rows), squeeze=False)
    yield axes.ravel()
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _pair(axis: Any, scored: Scored) -> None:
    """Cost against quality as ever more prompts go to the large model, by several rankings."""
    small, large = scored.y[:, 0], scored.y[:, 1]
    rankings = {
        "oracle": large - small,
        "router": scored.p[:, 1] - scored.p[:, 0],
        "length only": scored.lengths.astype(np.float32),
    }
    for name, ranking in rankings.items():
        axis.plot(*_along(scored.cost, np.argsort(-ranking, kind="stable"), small, large), label=name)
    ends = scored.cost.mean(axis=0)[:2] / scored.cost[:, 1].mean()
    axis.plot(ends, [small.mean(), large.mean()], "--", color="grey", label="random")
    best = int(large.mean() >= small.mean())
    axis.scatter(ends[best], max(small.mean(), large.mean()), color="black", zorder=3, label="best single")
    axis.set(xlabel=f"cost, of {_short(scored.models[1])} for all", ylabel="answered right", title="Cost and quality")
    axis.legend()


def _along(cost: Array, order: Any, small: Array, large: Array) -> tuple[Any, Any]:
    """Mean cost (in means of the second column) and quality as prompts move from small to large in ``order``."""
    spent = np.concatenate([[0.0], np.cumsum((cost[:, 1] - cost[:, 0])[order])]) / len(order) + cost[:, 0].mean()
    right = np.concatenate([[0.0], np.cumsum((large - small)[order])]) / len(order) + small.mean()
    return spent / cost[:, 1].mean(), right


def _fleet(axis: Any, scored: Scored) -> None:
    """Cost against quality of choosing among all models, beside every single one."""
    means, price = scored.y.mean(axis=0), scored.cost.mean(axis=0)
    best, cheapest = int(means.argmax()), int(price.argmin())
    unit = price[best]
    points = np.arange(len(scored.y))
    routed = {
        "oracle": _swept(lambda rate, cost: (scored.y - rate * cost).argmax(axis=1), scored),
        "router": choices(scored, best, GUARD),
    }
    for name, chosen in routed.items():
        cost, quality = (np.array([values[points, c].mean() for c in chosen]) for values in (scored.cost, scored.y))
        x, y = metrics.hull(cost, quality)
        axis.plot(x / unit, y, label=name)
    order = np.argsort(-scored.lengths, kind="stable")
    two = scored.cost[:, [cheapest, best]]
    axis.plot(*_along(two, order, scored.y[:, cheapest], scored.y[:, best]), label="length only")
    x, y = metrics.hull(price, means)
    axis.plot(x / unit, y, "--", color="grey", label="random between singles")
    axis.scatter(price / unit, means, color="grey", zorder=3, s=15, label="single models")
    axis.scatter(1.0, means[best], color="black", zorder=3, label="best single")
    axis.set(xlabel=f"cost, of {_short(scored.models[best])} for all", ylabel="answered right")
    axis.set(title=f"Choosing among {len(scored.models)} models", xlim=(0.0, 1.3))
    axis.legend(fontsize="small", loc="lower right")


def _swept(choose: Callable[[float, Array], Any], scored: Scored) -> Any:
    cost = scored.cost / scored.cost.max()
    return [choose(rate, cost) for rate in np.geomspace(1e-4, 50, 40)]


def _reliability(axis: Any, scored: Scored) -> None:
    for column, model in enumerate(scored.models):
        order = [i for i in np.array_split(np.argsort(scored.honest[:, column], kind="stable"), 15) if len(i)]
        predicted = [scored.honest[i, column].mean() for i in order]
        axis.plot(predicted, [scored.y[i, column].mean() for i in order], "o-", markersize=3, label=_short(model))
    axis.plot([0, 1], [0, 1], "--", color="grey")
    axis.set(xlabel="predicted success", ylabel="actual success", title=f"Reliability, {len(scored.models)} models")
    axis.legend(fontsize="small" if len(scored.models) > 3 else None)


def _gains(axis: Any, scored: Scored) -> None:
    """What the second model gains in each domain, with 95% intervals, beside what was predicted."""
    found = [part for part in by_domain(scored) if len(part[1]) >= 5][:17][::-1]
    at = np.arange(len(found))
    error = [1.96 * float(actual.std()) / len(actual) ** 0.5 for _, actual, _ in found]
    axis.barh(at + 0.2, [float(actual.mean()) for _, actual, _ in found], 0.4, xerr=error, label="actual")
    axis.barh(at - 0.2, [float(predicted.mean()) for *_, predicted in found], 0.4, label="predicted")
    axis.set_yticks(at, [f"{name} ({len(actual)})" for name, actual, _ in found])
    axis.set(xlabel=f"gain of {_short(scored.models[1])} over {_short(scored.models[0])}", title="Gain by domain")
    axis.legend()


def _confusion(axis: Any, confusion: Mapping[str, Mapping[str, int]]) -> None:
    names = [name for name in DOMAINS if name in confusion]
    counts = np.array([[confusion[row].get(column, 0) for column in DOMAINS] for row in names]).reshape(
        -1, len(DOMAINS)
    )
    axis.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axis.text(column, row, str(count), ha="center", va="center", fontsize=7)
    axis.set_xticks(range(len(DOMAINS)), DOMAINS, rotation=90)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="labelled", title="Domains of everyday prompts")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
