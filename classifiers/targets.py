"""How a policy's tiers map to the models that were trained: the same model, stated scores, or a size class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log2, sqrt
from typing import Any, Literal, TypeAlias

import numpy as np

from classifiers.heads import Array

Source: TypeAlias = Literal["trained", "quality", "onboarded", "size"]


@dataclass(frozen=True, slots=True)
class Target:
    """A tier whose success is to be predicted, and what is known of the model behind it.

    ``quality`` holds benchmark scores, 0..1, that the user states (``mmlu``, ``gsm8k``, ...); ``size_b`` its
    parameters in billions. ``beside`` holds the scores of the model itself where ``quality`` is that of a variant of
    it, such as one of lower precision: then what is predicted of the model is shifted by how far the scores are apart.
    """

    tier: str
    model: str | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    size_b: float | None = None
    beside: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mapped:
    """Targets in terms of trained models: logit = models' logits @ ``weights``.T + ``offsets``.

    ``doubt`` is the standard deviation, in logits, that the mapping itself adds.
    """

    tiers: tuple[str, ...]
    weights: Array
    offsets: Array
    doubt: Array
    sources: tuple[Source, ...]


SMALL, MEDIUM, FRONTIER = "7b-class", "50b-class", "frontier-class"
"""Success columns that are trained on the mean of a size class's models, for models that are otherwise unknown."""
CLASSES = (SMALL, MEDIUM, FRONTIER)
"""The last columns of every artifact, in this order."""


def class_of(name: str) -> str:
    """The size class of a model by its name: up to 28B, up to 150B, and beyond or unsaid."""
    size = size_of(name)
    return FRONTIER if size is None or size > 150.0 else MEDIUM if size > 28.0 else SMALL


_DOUBT: Mapping[Source, float] = {"trained": 0.0, "onboarded": 0.0, "quality": 0.3, "size": 0.6}
_FRONTIER_B = 400.0
_NEARNESS = 0.12
"""Width of the kernel over benchmark scores: models whose scores differ by this much weigh e^-0.5."""


def map_targets(targets: Sequence[Target], models: Sequence[str], about: Mapping[str, Any]) -> Mapped:
    """Map each target by the best that is known of it; ``about`` is the artifact's manifest.

    Order: the same model, else stated benchmark scores, else its size class, marked as a guess.
    """
    rows = [_row(target, models, about) for target in targets]
    sources = tuple(source for _, _, source in rows)
    return Mapped(
        tiers=tuple(t.tier for t in targets),
        weights=np.array([w for w, _, _ in rows], np.float32).reshape(len(rows), len(models)),
        offsets=np.array([offset for _, offset, _ in rows], np.float32),
        doubt=np.array([_DOUBT[source] for source in sources], np.float32),
        sources=sources,
    )


def enough_beside(mapped: Mapped, table: Array, baseline: str) -> list[tuple[float, ...]]:
    """Each target's `Success.enough` beside the target ``baseline``, from a look's `Heads.enough`; none for itself.

    A target that is a mixture of models gets the mixture of what is enough for each.
    """
    if baseline not in mapped.tiers:
        return [()] * len(mapped.tiers)
    beside = table @ mapped.weights[mapped.tiers.index(baseline)]
    found = (mapped.weights @ beside.T / mapped.weights.sum(axis=1, keepdims=True)).tolist()
    return [
        () if tier == baseline else tuple(round(share, 4) for share in shares)
        for tier, shares in zip(mapped.tiers, found, strict=True)
    ]


_TRAILING = re.compile(
    r"[-_.:](?:awq|gptq|gguf|exl2|mlx|bnb|nf4|hf|fp16|bf16|fp8|fp4|nvfp4|int8|int4|[48]bit|w[48]a(?:8|16)|q[2-8](?:-[a-z0-9]{1,2})*"
    r"|v\d+(?:[.-]\d+)*|latest|preview|\d{4}-\d{2}-\d{2})$"
)


def normal(name: str) -> str:
    """A model's name without its owner, precision, packaging and revision: ``Qwen/Qwen2.5-7B-Instruct-AWQ`` is
    ``qwen2.5-7b-instruct``."""
    name = name.strip().lower().rsplit("/", 1)[-1].replace("_", "-").replace(" ", "-")
    while (shorter := _TRAILING.sub("", name)) != name:
        name = shorter
    return name.replace(":", "-").removeprefix("meta-")


_LIGHT = re.compile(r"mini|nano|small|haiku|flash|lite|light|tiny")


def size_of(name: str) -> float | None:
    """Billions of parameters as the name tells, None where it does not; ``mini`` and its like count as 8.

    A mixture of n experts counts as the dense model of the geometric mean of its active (two experts) and all its
    parameters, a sixth of them shared: ``8x7b`` is 23.
    """
    found = re.search(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)b(?![a-z0-9])", name.lower())
    if not found:
        return 8.0 if _LIGHT.search(name.lower()) else None
    return float(found[2]) * (sqrt(2 * int(found[1])) * 5 / 6 if found[1] else 1.0)


def _row(target: Target, models: Sequence[str], about: Mapping[str, Any]) -> tuple[Array, float, Source]:
    weights = np.zeros(len(models), np.float32)
    at = _place(target.model, models)
    if at is not None:
        weights[at] = 1.0
        if target.beside and (gap := _gap(target.quality, target.beside)) is not None:
            return weights, gap, "quality"
        return weights, 0.0, "onboarded" if models[at] in about.get("onboarded", ()) else "trained"
    stated = _by_quality(target.quality, models, about.get("benchmarks", {}))
    if stated is not None:
        return (*stated, "quality")
    size = target.size_b or (size_of(target.model) if target.model else None) or _FRONTIER_B
    return (*_by_size(size, models), "size")


def _place(model: str | None, models: Sequence[str]) -> int | None:
    """Where a model stands among those known: by its very name, else by its name without precision and packaging."""
    if not model:
        return None
    if model in models:
        return list(models).index(model)
    names = [normal(m) for m in models]
    return names.index(normal(model)) if normal(model) in names else None


def _gap(stated: Mapping[str, float], beside: Mapping[str, float]) -> float | None:
    """How far scores are above others, in logits, over the benchmarks that both have; None where there is none."""
    mine, theirs = ({_plain(k): v for k, v in scores.items()} for scores in (stated, beside))
    shared = sorted(mine.keys() & theirs.keys())
    return float(np.mean([_logit(mine[k]) - _logit(theirs[k]) for k in shared])) if shared else None


def _by_quality(
    quality: Mapping[str, float], models: Sequence[str], benchmarks: Mapping[str, Mapping[str, float]]
) -> tuple[Array, float] | None:
    stated = {_plain(k): v for k, v in quality.items()}
    weights = np.zeros(len(models), np.float32)
    gaps = np.zeros(len(models), np.float32)
    for i, model in enumerate(models):
        known = {_plain(k): v for k, v in benchmarks.get(model, {}).items()}
        shared = sorted(known.keys() & stated.keys())
        if shared:
            distance = np.mean([(stated[k] - known[k]) ** 2 for k in shared])
            weights[i] = np.exp(-distance / (2 * _NEARNESS**2)) * len(shared)
            gaps[i] = np.mean([_logit(stated[k]) - _logit(known[k]) for k in shared])
    if weights.sum() <= 0:
        return None
    weights /= weights.sum()
    return weights, float(weights @ gaps)


def _by_size(size: float, models: Sequence[str]) -> tuple[Array, float]:
    """Between 7B, 50B and the frontier, linear in the logarithm of size; below 7B half a logit lost per halving."""
    weights = np.zeros(len(models), np.float32)
    ladder = [(7.0, SMALL), (50.0, MEDIUM), (_FRONTIER_B, FRONTIER)]
    steps = [(log2(b), list(models).index(name)) for b, name in ladder if name in models]
    if not steps:
        weights[:] = 1.0 / len(models)
        return weights, 0.0
    at = log2(size)
    if at <= steps[0][0]:
        weights[steps[0][1]] = 1.0
        return weights, 0.5 * (at - steps[0][0])
    for (low, i), (high, j) in pairwise(steps):
        if at <= high:
            share = (at - low) / (high - low)
            weights[i], weights[j] = 1.0 - share, share
            return weights, 0.0
    weights[steps[-1][1]] = 1.0
    return weights, 0.0


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _logit(p: float) -> float:
    p = min(max(p, 0.02), 0.98)
    return float(np.log(p / (1 - p)))
