"""Signals while serving: a classifier that is missing, late or broken fails no request, and leans up (invariant 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from policies.decide import conclude, decide
from policies.document import Loaded, load
from policies.values import Features, Signals, Success
from router.looks.client import Away, Busy, Failed
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
    """A classifier, and who takes its second looks, as the test scripts them; the real ones are tested elsewhere."""

    looks = "static"
    problem = ""

    def __init__(
        self, first: Callable[[], Signals], second: Callable[[], Signals], bare: Callable[[], Signals] | None = None
    ) -> None:
        """``bare`` is the first look with gadgets set aside, where there are any."""
        self._first, self._second, self._bare = first, second, bare
        self.second_looks = self.guards = 0

    def first_look(self, features: Features) -> Signals:
        return self._first()

    def guarded(self, features: Features, first: Signals) -> Signals:
        self.guards += 1
        return first if self._bare is None else self._bare()

    async def look(self, features: Features, patience: float) -> Signals:
        self.second_looks += 1
        return self._second()

    def close(self) -> None:
        """Nothing to close."""


def signals(small: float, error: float, look: Any = "static") -> Signals:
    success = {"small": Success(small, error), "large": Success(0.9, error)}
    return Signals(domain="chat", domain_probs={"chat": 1.0}, complexity=0.3, success=success, look=look)


def fails(error: Exception | None = None) -> Signals:
    raise error or RuntimeError("broken")


@pytest.fixture
def loaded() -> Loaded:
    return load(POLICY, file="policy.yaml", environ={})


async def read(loaded: Loaded, classifier: Looks | None, told: list[str] | None = None) -> Signals:
    reader = SignalReader((told if told is not None else []).append)
    if classifier is not None:
        reader.use(classifier, classifier)  # type: ignore[arg-type]
    found, weighed, took_ms = await reader.read(loaded, Features(), a_view())
    assert took_ms >= 0
    assert conclude(weighed) == decide(loaded, Features(), found, a_view())
    reader.close()
    return found


@pytest.mark.anyio
async def test_a_sure_first_look_decides_alone(loaded: Loaded) -> None:
    classifier = Looks(lambda: signals(0.95, 0.001), fails)
    assert (await read(loaded, classifier)).look == "static"
    assert classifier.second_looks == 0


@pytest.mark.anyio
async def test_a_doubtful_first_look_asks_for_the_second(loaded: Loaded) -> None:
    classifier = Looks(lambda: signals(0.88, 0.05), lambda: signals(0.95, 0.01, "full"))
    assert (await read(loaded, classifier)).look == "full"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("small", "bare", "guards", "tier", "second_looks"),
    [
        (1.00, 0.90, 0, "small", 0),  # the cheapest tier gets it as it is
        (0.10, None, 1, "large", 0),
        (0.10, 1.00, 1, "small", 0),
        (0.10, 0.88, 1, "large", 1),  # what is left of it is in doubt
        (0.88, 1.00, 1, "small", 0),
        (0.88, None, 1, "large", 1),
    ],
)
async def test_gadgets_are_set_aside_where_a_request_would_go_up_or_is_in_doubt(
    loaded: Loaded, small: float, bare: float | None, guards: int, tier: str, second_looks: int
) -> None:
    looks = Looks(
        lambda: signals(small, 0.05),
        lambda: signals(0.5, 0.05, "full"),
        None if bare is None else lambda: replace(signals(bare, 0.05), aside=40),
    )
    found = await read(loaded, looks)
    assert (looks.guards, looks.second_looks) == (guards, second_looks)
    assert decide(loaded, Features(), found, a_view()).tier == tier
    assert found.look == ("full" if second_looks else "static")
    assert found.aside == (40 if guards and bare is not None and not second_looks else 0)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "outcome", "why"),
    [
        (TimeoutError(), "late", "the second look was late"),
        (Busy(), "busy", "too busy for a second look"),
        (Away("the process ended"), "away", "no second look: the process ended"),
        (Failed("Traceback …"), "failed", "the second look failed"),
    ],
)
async def test_a_second_look_that_is_not_had_is_recorded_and_counted_and_the_first_stands(
    loaded: Loaded, error: Exception, outcome: str, why: str
) -> None:
    told: list[str] = []
    found = await read(loaded, Looks(lambda: signals(0.88, 0.05), partial(fails, error)), told)
    assert told == [outcome]
    assert found.look == "static"
    decision = decide(loaded, Features(), found, a_view())
    assert decision.tier == "large"
    assert any(why in reason for reason in decision.reasons)


@pytest.mark.anyio
async def test_a_deadline_of_nothing_asks_for_no_second_look() -> None:
    loaded = load(POLICY.replace("30s", "0s"), file="policy.yaml", environ={})
    told: list[str] = []
    assert not (await read(loaded, Looks(lambda: signals(0.88, 0.05), fails), told)).missing
    assert told == ["sure"]


def test_what_is_on_offer_is_said() -> None:
    reader, classifier = SignalReader(), Looks(fails, fails)
    assert (reader.looks, reader.problem) == ("none", "the classifier is not loaded yet")
    reader.use(classifier)  # type: ignore[arg-type]
    assert (reader.looks, reader.problem) == ("static", "")
    reader.use(classifier, classifier)  # type: ignore[arg-type]
    assert (reader.looks, reader.problem) == ("full", "")
    classifier.problem = "the process ended"
    assert (reader.looks, reader.problem) == ("static", "the process ended")
    reader.without("no artifact")
    assert (reader.looks, reader.problem) == ("none", "no artifact")


@pytest.mark.anyio
async def test_a_broken_second_look_leaves_the_first(loaded: Loaded) -> None:
    found = await read(loaded, Looks(lambda: signals(0.88, 0.05), fails))
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
