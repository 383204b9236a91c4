"""What a look costs on one core, in milliseconds of CPU, so that other work on the machine does not count."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from resource import RUSAGE_CHILDREN, getrusage
from typing import TypeAlias

import numpy as np

from classifiers.classifier import Classifier
from classifiers.evaluate import Figure
from classifiers.features import from_text
from policies.values import Features, Look, Signals

TOKENS = 30

PASSES = 7
"""Times that a batch is gone through; the quietest pass counts, since what else the machine does comes and goes."""

_WORDS = ("river", "stone", "house", "light", "paper", "green", "train", "music")
"""One word piece each."""


def prompts(count: int, tokens: int = TOKENS) -> list[Features]:
    """Different prompts of that many word pieces, the encoder's two markers included."""
    texts = (" ".join(_WORDS[(number * 7 + n * n) % len(_WORDS)] for n in range(tokens - 3)) for number in range(count))
    return [from_text(f"{text} {_WORDS[number % len(_WORDS)]}") for number, text in enumerate(texts)]


Work: TypeAlias = "tuple[Callable[[Features], object], Sequence[Features]]"
"""What is timed, and the requests that it is done for."""


def one_look(classifier: Classifier, look: Look, batch: Sequence[Features]) -> Work:
    """One look at one request."""
    return lambda features: classifier.classify([features], look=look), batch


def mixed(
    classifier: Classifier,
    needs_second: Callable[[Features, Signals], bool],
    batch: Sequence[Features],
    needed: list[bool],
) -> Work:
    """The first look, and the second where it is needed; whether it was goes into ``needed``."""

    def both(features: Features) -> None:
        needed.append(needs_second(features, classifier.classify([features], look="static")[0]))
        if needed[-1]:
            classifier.classify([features], look="full")

    return both, batch


def quietest(works: Sequence[Work]) -> list[Figure]:
    """The median milliseconds of each, from the 5th to the 95th percentile, in its quietest pass.

    They take turns, so that the passes of each are seconds apart.
    """
    passes: list[list[list[float]]] = [[] for _ in works]
    for work, batch in works:
        work(batch[0])
    for _ in range(PASSES):
        for found, (work, batch) in zip(passes, works, strict=True):
            found.append([_milliseconds(work, features) for features in batch])
    quantiles = (np.quantile(min(found, key=np.median), [0.05, 0.5, 0.95]).tolist() for found in passes)
    return [{"value": middle, "low": low, "high": high} for low, middle, high in quantiles]


def cold_start(code: str, runs: int = 3) -> Figure:
    """Seconds of CPU that a fresh interpreter takes to run ``code``, the median of some runs, and the extremes."""
    found = []
    for _ in range(runs):
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = getrusage(RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"value": float(np.median(found)), "low": min(found), "high": max(found)}


def _milliseconds(work: Callable[[Features], object], features: Features) -> float:
    began = time.thread_time()
    work(features)
    return (time.thread_time() - began) * 1e3
