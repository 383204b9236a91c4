"""How far fixed texts around a question move the predicted gain, and how often honest rewordings flip a choice.

What is measured of the classifier as it is served, by `tierwise evaluate --figures` and by the benchmark of attacks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from classifiers import gadgets, members
from classifiers.classifier import Classifier, Target
from classifiers.datasets import read
from classifiers.encoder import Encoder, Vectors
from classifiers.features import from_text
from policies.values import Features, Look, Signals

TARGETS = (Target("small", "acme-7b"), Target("large", "gpt-4-1106-preview"))
"""Tiers that attacks drive prompts between."""

LARGE_SHARE = 0.25
"""The share of prompts that goes large as they are."""

Gains = NDArray[np.float64]
Reading = Callable[[Sequence[str]], Gains]
"""Texts to the predicted gain of the large tier, by one set of defences."""


class Remembered:
    """An encoder that encodes each text once."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.dimension, self.runtime = encoder.name, encoder.dimension, encoder.runtime
        self._encoder = encoder
        self._known: dict[str, Vectors] = {}

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._encoder.encode([text])[0]
        return np.stack([self._known[text] for text in texts])


def readings_of(
    classifier: Classifier,
    looks: Sequence[Look] = ("static", "full"),
    uncapped: Callable[[Reading], Reading] = lambda reading: reading,
) -> Iterator[tuple[str, Reading]]:
    """Every set of defences, by name: none, each alone, and all, by look; and where both looks must agree.

    ``uncapped`` takes the cap off each fact's pull, which nothing that serves can do.
    """
    plain, rough = (from_text, classifier.read), (raw, classifier.read)
    for look in looks:
        yield f"{look}: none", uncapped(_reading(*rough, look))
        yield f"{look}: capped", _reading(*rough, look)
        yield f"{look}: normalised", uncapped(_reading(*plain, look))
        yield f"{look}: set aside", uncapped(_reading(raw, classifier.classify, look))
        yield f"{look}: all", _reading(from_text, classifier.classify, look)
    if len(looks) > 1:
        yield "both: agreed", uncapped(_agreed(*rough))
        yield "both: all, agreed", _agreed(from_text, classifier.classify)


def raw(text: str) -> Features:
    """The features of a prompt whose text is read as it is."""
    return replace(from_text(text), text=text, last_text=text)


def _gain(signals: Signals) -> float:
    return signals.success["large"].probability - signals.success["small"].probability


def _reading(reads: Callable[[str], Features], classify: Callable[..., list[Signals]], look: Look) -> Reading:
    return lambda texts: np.array([_gain(s) for s in classify([reads(text) for text in texts], look=look)])


def _agreed(reads: Callable[[str], Features], classify: Callable[..., list[Signals]]) -> Reading:
    """The lesser gain of both looks."""
    static, full = (_reading(reads, classify, look) for look in ("static", "full"))
    return lambda texts: np.minimum(static(texts), full(texts))


def searched(classifier: Classifier) -> dict[str, tuple[str, ...]]:
    """Gadgets that a white-box search finds on other prompts: against the static look, and against its defences too."""
    texts = [row.features.text for row in read([members.EVERYDAY])]
    words = sorted({word for text in texts for word in text.lower().split() if word.isalpha() and len(word) > 3})
    prompts = random.Random(2).sample(texts, 24)
    alone, defended = (_reading(from_text, classify, "static") for classify in (classifier.read, classifier.classify))
    return {
        "searched": tuple(gadgets.greedy(alone, prompts, words, seed=seed) for seed in (0, 1)),
        "searched, defences known": tuple(gadgets.greedy(defended, prompts, words, seed=seed) for seed in (0, 1)),
    }


def driven_up(
    reading: Reading, prompts: Sequence[str], styles: Mapping[str, Sequence[str]], cut: float | None = None
) -> dict[str, tuple[float, float]]:
    """By style, the share of small-bound prompts that a gadget drives up: the mean and the worst of its gadgets.

    Prompts above ``cut`` go large, by default a quarter of the clean ones.
    """
    clean = reading(prompts)
    cut = float(np.quantile(clean, 1.0 - LARGE_SHARE)) if cut is None else cut
    nothing = float("nan")
    low = [prompt for prompt, gain in zip(prompts, clean, strict=True) if gain <= cut]
    if not low:
        return dict.fromkeys(styles, (nothing, nothing))
    found = {}
    for style, texts in styles.items():
        moved = [reading([gadgets.attacked(p, text)[side] for p in low]) > cut for text in texts for side in (0, 1)]
        shares = [float(up.mean()) for up in moved]
        found[style] = float(np.mean(shares)), max(shares)
    return found


def flipped(reading: Reading, prompts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """By rewording, the share of changed prompts whose choice flips, and the share that goes up."""
    clean = reading(prompts)
    cut = np.quantile(clean, 1.0 - LARGE_SHARE)
    found = {}
    for name, reword in gadgets.PARAPHRASES.items():
        changed = [at for at, prompt in enumerate(prompts) if reword(prompt) != prompt]
        up, was = reading([reword(prompts[at]) for at in changed]) > cut, clean[changed] > cut
        found[name] = float((up != was).mean()), float((up & ~was).mean())
    return found
