"""Floors under README.md's figures of robustness: the shipped artifact's static look, a slice of the gadgets."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from classifiers import gadgets, prepare
from classifiers.artifact import DEFAULT
from classifiers.attack import TARGETS, driven_up, flipped, readings_of
from classifiers.classifier import Classifier
from classifiers.datasets import read
from classifiers.features import from_text
from classifiers.lexical import lexical
from tests.benchmarks.attack_classifier import EVERYDAY, uncapped

SLICE = {style: gadgets.STYLES[style][:1] for style in ("jargon", "plea", "role", "code", "symbols", "steps", "decoy")}


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return random.Random(3).sample([row.features.text for row in read([EVERYDAY])], 60)


@pytest.fixture(scope="module")
def classifier(encoder_cache: Path) -> Classifier:
    return Classifier.load(DEFAULT, TARGETS, static=prepare.load(encoder_cache).static, full=None)


def test_gadgets_drive_up_with_the_defences_off_and_not_with_them_on(
    classifier: Classifier, prompts: list[str]
) -> None:
    readings = dict(readings_of(classifier, ("static",)))
    without, defended = (driven_up(readings[f"static: {name}"], prompts, SLICE) for name in ("none", "all"))
    assert sum(mean for mean, _ in without.values()) / len(SLICE) > 0.2
    for style, (mean, worst) in defended.items():
        assert mean <= 0.1, style
        assert worst <= 0.15, style


def test_rewording_flips_few(classifier: Classifier, prompts: list[str]) -> None:
    found = flipped(dict(readings_of(classifier, ("static",)))["static: all"], prompts)
    assert found["polite"][0] <= 0.1
    assert found["mistyped"][1] <= 0.15


def test_the_benchmark_reads_facts_without_their_cap() -> None:
    stuffed = "= " * 99

    def most(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([np.abs(lexical(from_text(text))).max() for text in texts], np.float64)

    assert uncapped(most)([stuffed]) > 1.0
    assert most([stuffed]) == 1.0
