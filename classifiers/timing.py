"""What a look costs on one core, in milliseconds of CPU, so that other work on the machine does not count."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from resource import RUSAGE_CHILDREN, getrusage

import numpy as np

from classifiers.classifier import Classifier
from classifiers.evaluate import Figure
from classifiers.features import from_text
from policies.values import Features, Look, Signals

TOKENS = 30

PASSES = 5
"""Times that a batch is gone through; the quietest pass counts, since what else the machine does comes and goes."""

_WORDS = ("river", "stone", "house", "light", "paper", "green", "train", "music")
"""One word piece each."""


def prompts(count: int, tokens: int = TOKENS) -> list[Features]:
    """Different prompts of that many word pieces, the encoder's two markers included."""
    texts = (" ".join(_WORDS[(number * 7 + n * n) % len(_WORDS)] for n in range(tokens - 3)) for number in range(count))
    return [from_text(f"{text} {_WORDS[number % len(_WORDS)]}") for number, text in enumerate(texts)]


def one_look(classifier: Classifier, look: Look, batch: Sequence[Features]) -> Figure:
    """The median milliseconds of one look at one request, in the quietest pass; from the 5th to the 95th percentile."""
    return _timed(lambda features: classifier.classify([features], look=look), batch)


def mixed(
    classifier: Classifier, needs_second: Callable[[Features, Signals], bool], batch: Sequence[Features]
) -> tuple[Figure, float]:
    """The same where the second look is taken only when it is needed; and the share of requests that needed it."""
    seconds = []

    def both(features: Features) -> None:
        needed = needs_second(features, classifier.classify([features], look="static")[0])
        seconds.append(needed)
        if needed:
            classifier.classify([features], look="full")

    return _timed(both, batch), float(np.mean(seconds))


def cold_start(code: str, runs: int = 3) -> Figure:
    """Seconds of CPU that a fresh interpreter takes to run ``code``, the median of some runs, and the extremes."""
    found = []
    for _ in range(runs):
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = getrusage(RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"value": float(np.median(found)), "low": min(found), "high": max(found)}


def _timed(work: Callable[[Features], object], batch: Sequence[Features]) -> Figure:
    work(batch[0])
    passes = [[_milliseconds(work, features) for features in batch] for _ in range(PASSES)]
    low, middle, high = np.quantile(min(passes, key=np.median), [0.05, 0.5, 0.95])
    return {"value": float(middle), "low": float(low), "high": float(high)}


def _milliseconds(work: Callable[[Features], object], features: Features) -> float:
    began = time.thread_time()
    work(features)
    return (time.thread_time() - began) * 1e3
