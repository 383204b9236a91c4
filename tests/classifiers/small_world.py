"""A small world to train in: encoders without weights, and rows whose truth is known."""

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np

from classifiers.datasets import Row
from classifiers.features import from_text
from classifiers.heads import Array

TOPICS = {
    "easy": "elephant mountain kitchen strawberry holiday umbrella bread butterfly sandwich chocolate",
    "hard": "integral manifold tensor eigenvalue homology lemma entropy quark isomorphism gradient",
}


class BagEncoder:
    """A vector per word by its checksum, averaged: deterministic, and each text's vector is its own."""

    def __init__(self, name: str = "bag", dimension: int = 24) -> None:
        self.name, self.dimension, self.runtime = name, dimension, "words"
        self.calls = 0

    def encode(self, texts: Sequence[str]) -> Array:
        self.calls += len(texts)
        out = np.empty((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            words = text.lower().split() or [""]
            out[row] = sum(np.random.default_rng(crc32(w.encode())).standard_normal(self.dimension) for w in words)
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def rows(count: int = 400, seed: int = 0, models: Sequence[str] = ("tiny-7b", "big-70b")) -> Iterator[Row]:
    """Prompts of two topics: every model is right on easy ones, only the last one on hard ones, nine times in ten."""
    random = np.random.default_rng(seed)
    for number in range(count):
        topic = "hard" if random.random() < 0.5 else "easy"
        words = random.choice(TOPICS[topic].split(), 6)
        right = {m: float(random.random() < (0.9 if topic == "easy" or m == models[-1] else 0.1)) for m in models}
        yield Row(f"{seed}-{number}", from_text(f"what about {' '.join(words)}?"), task=topic, scores=right)
