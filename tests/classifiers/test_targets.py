"""How a tier maps to what was trained."""

import numpy as np
import pytest

from classifiers.targets import CLASSES, FRONTIER, MEDIUM, SMALL, Target, class_of, map_targets, normal, size_of

MODELS = ("qwen2.5-7b-instruct", "gpt-4-1106-preview", "mixtral-8x7b-instruct", SMALL, MEDIUM, FRONTIER)
ABOUT = {
    "benchmarks": {
        "qwen2.5-7b-instruct": {"mmlu": 0.70, "gsm8k": 0.83},
        "gpt-4-1106-preview": {"mmlu": 0.81, "gsm8k": 0.86},
        "mixtral-8x7b-instruct": {"mmlu": 0.68, "gsm8k": 0.60},
    },
    "onboarded": ["mixtral-8x7b-instruct"],
}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b-instruct"),
        ("openai/gpt-4-1106-preview", "gpt-4-1106"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b-instruct"),
        ("Qwen2.5-7B-Instruct-Q4_K_M.gguf", "qwen2.5-7b-instruct"),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b-instruct"),
    ],
)
def test_names(name: str, plain: str) -> None:
    assert normal(name) == plain


@pytest.mark.parametrize(
    ("name", "size", "kind"),
    [
        ("llama-3.1-8b-instruct", 8.0, SMALL),
        ("llama-3.3-nemotron-super-49b-v1", 49.0, MEDIUM),
        ("mixtral-8x7b-instruct", pytest.approx(23.3, abs=0.1), SMALL),
        ("gpt-4o-mini", 8.0, SMALL),
        ("gpt-4o", None, FRONTIER),
        ("qwen2.5-0.5b", 0.5, SMALL),
    ],
)
def test_sizes(name: str, size: float | None, kind: str) -> None:
    assert size_of(name) == size
    assert class_of(name) == kind


def test_the_same_model_is_used_as_it_was_trained() -> None:
    mapped = map_targets(
        [Target("a", "Qwen/Qwen2.5-7B-Instruct-AWQ"), Target("b", "Mixtral-8x7B-Instruct-v0.1")], MODELS, ABOUT
    )
    assert mapped.sources == ("trained", "onboarded")
    assert mapped.weights[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert mapped.doubt.tolist() == [0.0, 0.0]


def test_stated_scores_pick_models_like_it() -> None:
    mapped = map_targets([Target("a", "secret", {"MMLU": 0.82, "GSM-8K": 0.88})], MODELS, ABOUT)
    assert mapped.sources == ("quality",)
    assert mapped.weights[0].argmax() == 1
    assert mapped.weights[0].sum() == pytest.approx(1.0)
    better = map_targets([Target("a", "secret", {"mmlu": 0.95, "gsm8k": 0.97})], MODELS, ABOUT)
    assert better.offsets[0] > mapped.offsets[0]


def test_a_variant_is_the_same_model_shifted_by_what_its_scores_lose() -> None:
    """One model at a lower precision: the same profile, less right by as much as the same benchmarks say."""
    whole, same, lower, other = (
        Target("a", "Qwen/Qwen2.5-7B-Instruct", {"mmlu": 0.74, "gsm8k": 0.88}),
        Target("a/8", "Qwen/Qwen2.5-7B-Instruct", {"mmlu": 0.74}, beside={"MMLU": 0.74}),
        Target("a/4", "Qwen/Qwen2.5-7B-Instruct", {"mmlu": 0.70, "gsm8k": 0.80}, beside={"mmlu": 0.74, "gsm8k": 0.88}),
        Target("a/x", "Qwen/Qwen2.5-7B-Instruct", {"mbpp": 0.70}, beside={"mmlu": 0.74}),
    )
    mapped = map_targets([whole, same, lower, other], MODELS, ABOUT)
    assert mapped.weights.tolist() == [mapped.weights[0].tolist()] * 4
    assert mapped.offsets.tolist()[:2] == [0, pytest.approx(0, abs=1e-6)]
    assert mapped.offsets[2] == pytest.approx((np.log(0.7 / 0.3 * 0.26 / 0.74) + np.log(4 * 0.12 / 0.88)) / 2, abs=1e-5)
    assert mapped.offsets[3] == 0
    assert mapped.sources == ("trained", "quality", "quality", "trained")


def test_a_model_trained_at_two_precisions_is_two_models() -> None:
    models = ("acme-7b", "acme-7b-int4", *CLASSES)
    mapped = map_targets([Target("a", "acme-7b-int4"), Target("b", "acme/acme-7b-awq")], models, {})
    assert mapped.weights.argmax(axis=1).tolist() == [1, 0]


def test_size_is_a_guess_and_says_so() -> None:
    small, between, frontier, tiny = map_targets(
        [Target("a", size_b=7), Target("b", "acme-18b"), Target("c", "acme-ultra"), Target("d", "acme-0.5b")],
        MODELS,
        ABOUT,
    ).weights
    assert small.tolist() == tiny.tolist() == [0, 0, 0, 1, 0, 0]
    assert 0 < between[3] < 1
    assert between[3] + between[4] == pytest.approx(1.0)
    assert frontier.tolist() == [0, 0, 0, 0, 0, 1]
    mapped = map_targets([Target("d", "acme-0.5b")], MODELS, ABOUT)
    assert mapped.offsets[0] < -1
    assert mapped.doubt[0] > 0
