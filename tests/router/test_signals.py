"""Signals while serving: a classifier that is missing, late or broken fails no request, and leans up (invariant 5)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from policies.decide import decide
from policies.document import Loaded, load
from policies.values import Features, Signals, Success
from router.signals import SignalReader, load_classifier
from tests.policies.examples import a_view

POLICY = """
version: 1
tiers:
  small: {backends: [{name: s, kind: vllm, model: m, cost: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.1}}]}
  large: {backends: [{name: l, kind: vllm, model: n, cost: {input_usd_per_mtok: 2, output_usd_per_mtok: 8}}]}
objective: {keep_quality: 0.9}
classifier: {deadline: 30s}
"""


class Looks:
    """A classifier whose looks the test scripts; the real one is tested in tests/classifiers."""

    looks = "full"

    def __init__(self, first: Callable[[], Signals], second: Callable[[], Signals]) -> None:
        self._first, self._second = first, second
        self.second_looks = 0

    def first_look(self, features: Features) -> Signals:
        return self._first()

    def second_look(self, features: Features) -> Signals:
        self.second_looks += 1
        return self._second()


def signals(small: float, error: float, look: Any = "static") -> Signals:
    success = {"small": Success(small, error), "large": Success(0.9, error)}
    return Signals(domain="chat", domain_probs={"chat": 1.0}, complexity=0.3, success=success, look=look)


def fails() -> Signals:
    raise RuntimeError("broken")


@pytest.fixture
def loaded() -> Loaded:
    return load(POLICY, file="policy.yaml", environ={})


async def read(loaded: Loaded, classifier: Looks | None, told: list[str] | None = None) -> Signals:
    reader = SignalReader((told if told is not None else []).append)
    if classifier is not None:
        reader.use(classifier)  # type: ignore[arg-type]
    found, took_ms = await reader.read(loaded, Features(), a_view())
    assert took_ms >= 0
    reader.close()
    return found


@pytest.mark.anyio
async def test_a_sure_first_look_decides_alone(loaded: Loaded) -> None:
    classifier = Looks(lambda: signals(0.95, 0.001), fails)
    assert (await read(loaded, classifier)).look == "static"
    assert classifier.second_looks == 0


@pytest.mark.anyio
async def test_a_doubtful_first_look_asks_for_the_second(loaded: Loaded) -> None:
    classifier = Looks(lambda: signals(0.87, 0.05), lambda: signals(0.95, 0.01, "full"))
    assert (await read(loaded, classifier)).look == "full"


@pytest.mark.anyio
async def test_a_late_second_look_is_recorded_and_the_first_stands() -> None:
    loaded = load(POLICY.replace("30s", "20ms"), file="policy.yaml", environ={})
    release = threading.Event()

    def late() -> Signals:
        release.wait(20)
        return signals(0.95, 0.01, "full")

    told: list[str] = []
    found = await read(loaded, Looks(lambda: signals(0.87, 0.05), late), told)
    release.set()
    assert told == ["late"]
    assert found.look == "static"
    assert "the second look was late" in found.missing
    assert decide(loaded, Features(), found, a_view()).tier == "large"


@pytest.mark.anyio
async def test_what_the_encoder_would_not_get_to_is_recorded_and_counted(loaded: Loaded) -> None:
    hasty = load(POLICY.replace("30s", "20ms"), file="policy.yaml", environ={})
    release = threading.Event()

    def slow() -> Signals:
        release.wait(20)
        return signals(0.95, 0.01, "full")

    told: list[str] = []
    reader = SignalReader(told.append)
    reader.use(Looks(lambda: signals(0.87, 0.05), slow))  # type: ignore[arg-type]
    await reader.read(hasty, Features(), a_view())
    release.set()
    await reader.read(loaded, Features(), a_view())
    found, _ = await reader.read(hasty, Features(text="x" * 2000), a_view())
    reader.close()
    assert told == ["late", "second", "busy"]
    assert found.look == "static"
    assert decide(loaded, Features(), found, a_view()).tier == "large"
    assert any("too busy for a second look" in reason for reason in decide(loaded, Features(), found, a_view()).reasons)


@pytest.mark.anyio
async def test_a_broken_second_look_leaves_the_first(loaded: Loaded) -> None:
    found = await read(loaded, Looks(lambda: signals(0.87, 0.05), fails))
    assert "the second look failed" in found.missing


@pytest.mark.anyio
@pytest.mark.parametrize("classifier", [None, Looks(fails, fails)])
async def test_without_a_working_classifier_the_baseline_answers(loaded: Loaded, classifier: Looks | None) -> None:
    found = await read(loaded, classifier)
    assert found.missing
    assert decide(loaded, Features(), found, a_view()).tier == "large"


def test_backends_that_state_what_they_are_have_a_success_of_their_own() -> None:
    """Through the shipped classifier: the same question, one model at three precisions."""
    policy = load(PRECISIONS, file="policy.yaml", environ={}).policy
    signals = load_classifier(policy, None, None).first_look(Features(text="What is 17 times 23?"))
    success = {name: predicted.probability for name, predicted in signals.success.items()}
    assert set(success) == {"small", "small/int4", "small/other", "large"}
    assert success["small/int4"] < success["small"] != success["small/other"]


PRECISIONS = """
version: 1
tiers:
  small:
    trained_as: qwen2.5-7b-instruct
    quality: {gsm8k: 0.86}
    backends:
      - {name: fp16, kind: vllm, model: m, precision: fp16, cost: {gpu_hour_usd: 1}}
      - {name: int4, kind: vllm, model: m-awq, precision: int4, quality: {gsm8k: 0.74}, cost: {gpu_hour_usd: 1}}
      - {name: other, kind: vllm, model: o, trained_as: llama-3.1-nemotron-51b-instruct, cost: {gpu_hour_usd: 1}}
  large: {backends: [{name: l, kind: vllm, model: n, cost: {input_usd_per_mtok: 2, output_usd_per_mtok: 8}}]}
"""
