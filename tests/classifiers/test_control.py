"""From rows to decisions: train on made-up rows whose truth is known, decide new ones under a policy."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from classifiers.boost import Growth
from classifiers.classifier import Classifier
from classifiers.datasets import Row
from classifiers.members import Settings
from classifiers.train import train
from policies.decide import decide
from policies.document import Loaded, load
from policies.values import KEPT, View
from router.signals import targets_of
from tests.classifiers.small_world import BagEncoder, rows

POLICY = """
version: 1
tiers:
  small:
    backends: [{name: s, kind: vllm, base_url: http://s/v1, model: tiny-7b, cost: {input_usd_per_mtok: 0.05, output_usd_per_mtok: 0.1}}]
  large:
    backends: [{name: l, kind: vllm, base_url: http://l/v1, model: big-70b, cost: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}]
baseline: large
objective: {keep_quality: 0.95}
objectives: {trade: {tradeoff: 0.5}, best: {tradeoff: 0}}
"""  # noqa: E501

VIEW = View(now=datetime(2026, 1, 1, tzinfo=UTC))


def better_and_cheaper(count: int, seed: int) -> Iterator[Row]:
    """The small world's prompts, on nearly all of which the small model is right and the large one is not always."""
    random = np.random.default_rng(seed)
    for row in rows(count, seed):
        right = {"tiny-7b": float(random.random() < 0.95), "big-70b": float(random.random() < 0.8)}
        yield replace(row, scores=right)


@pytest.fixture(scope="module")
def policy() -> Loaded:
    return load(POLICY, file="policy.yaml", environ={})


def taught(known: Iterator[Row], policy: Loaded, work: Path) -> Classifier:
    settings = Settings(growth=Growth(trees=10), iterations=15)
    artifact = train(known, {"full": BagEncoder()}, work, settings)
    targets = list(targets_of(policy.policy))
    return Classifier(artifact, targets, full=BagEncoder(), baseline="large")  # type: ignore[arg-type]


def tiers(classifier: Classifier, policy: Loaded, asked: list[Row], model: str) -> list[str]:
    signals = classifier.classify([row.features for row in asked])
    return [
        decide(policy, replace(row.features, model=model), known, VIEW).tier
        for row, known in zip(asked, signals, strict=True)
    ]


def test_a_model_both_cheaper_and_better_is_chosen_nearly_always(policy: Loaded, tmp_path: Path) -> None:
    classifier = taught(better_and_cheaper(800, 0), policy, tmp_path)
    asked = list(better_and_cheaper(200, 1))
    for model in ("auto", "auto:trade", "auto:best"):
        assert tiers(classifier, policy, asked, model).count("small") >= 0.95 * len(asked)


def test_easy_prompts_go_small_and_hard_ones_large_where_that_is_what_matters(policy: Loaded, tmp_path: Path) -> None:
    classifier = taught(rows(800, 2, ("tiny-7b", "big-70b")), policy, tmp_path)
    asked = list(rows(200, 3))
    signals = classifier.classify([row.features for row in asked])
    assert all(len(known.success["small"].enough) == len(KEPT) for known in signals)
    assert all(known.success["large"].enough == () for known in signals)
    assert all(abs(s.shared) <= s.standard_error for known in signals for s in known.success.values())
    for model, least in (("auto", 0.4), ("auto:trade", 0.9)):
        chosen = tiers(classifier, policy, asked, model)
        easy = [tier for tier, row in zip(chosen, asked, strict=True) if row.task == "easy"]
        hard = [tier for tier, row in zip(chosen, asked, strict=True) if row.task == "hard"]
        assert easy.count("small") >= least * len(easy)
        assert hard.count("large") >= 0.9 * len(hard)
