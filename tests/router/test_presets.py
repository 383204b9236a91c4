"""Presets: each passes check with nothing set, explains itself, and does what it says."""

import pytest

from policies.decide import decide
from policies.values import Features
from router import presets
from router.settings import load_policy
from tests.policies.examples import a_view, some_signals


def test_the_six_presets_are_there() -> None:
    assert presets.names() == ("balanced", "coding", "demo", "frugal", "local-first", "quality-first")
    with pytest.raises(KeyError, match="there is no preset 'balance': expected one of balanced, coding"):
        presets.text("balance")


@pytest.mark.parametrize("name", presets.names())
def test_each_passes_check_with_nothing_set_and_without_a_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "CLOUD_API_KEY", "SMALL_URL", "CODE_URL"):
        monkeypatch.delenv(variable, raising=False)
    assert load_policy(name).warnings == ()


@pytest.mark.parametrize("name", presets.names())
def test_each_explains_itself(name: str) -> None:
    text = presets.text(name)
    assert text.startswith(f"# {name}: ")
    assert len([line for line in text.splitlines() if line.startswith("# ")]) >= 3
    assert load_policy(name).policy.description


@pytest.mark.parametrize("name", presets.names())
def test_each_prices_every_backend_and_reaches_every_tier(name: str) -> None:
    policy = load_policy(name).policy
    assert all(backend.cost is not None for tier in policy.tiers.values() for backend in tier.backends)
    assert all(backend.context_window for tier in policy.tiers.values() for backend in tier.backends)


@pytest.mark.parametrize("name", presets.names())
def test_each_takes_its_store_from_outside_but_the_demo(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo is self-contained: a REDIS_URL that happens to be set must not get made-up entries."""
    monkeypatch.setenv("REDIS_URL", "redis://store:6379/0")
    assert load_policy(name).policy.redis == ("" if name == "demo" else "redis://store:6379/0")
    monkeypatch.delenv("REDIS_URL")
    assert load_policy(name).policy.redis == ""


def served(name: str, domain: str = "chat", complexity: float = 0.2, tokens: int = 50, **success: float) -> str:
    known = some_signals(domain, complexity, error=0.01, **success)
    return decide(load_policy(name), Features(input_tokens=tokens), known, a_view()).tier


@pytest.mark.parametrize(
    ("found", "tier"),
    [
        (served("demo", small=0.93, code=0.9, large=0.94), "small"),
        (served("demo", "code", small=0.5, code=0.8, large=0.82), "code"),
        (served("demo", "math", 0.9, small=0.3, code=0.4, large=0.8), "large"),
        (served("demo", "law", tokens=12_500, small=0.93, code=0.9, large=0.94), "large"),
        (served("balanced", "math", 0.8, small=0.9, code=0.9, large=0.9), "code"),
        (served("balanced", tokens=28_500, small=0.9, code=0.9, large=0.9), "large"),
        (served("frugal", small=0.6, medium=0.7, large=0.9), "medium"),
        (served("frugal", small=0.1, medium=0.2, large=0.95), "large"),
        (served("quality-first", small=0.90, large=0.93), "large"),
        (served("quality-first", small=0.96, large=0.93), "small"),
        (served("quality-first", "chemistry", small=0.96, large=0.93), "large"),
        (served("local-first", small=0.95, local=0.95, cloud=0.99), "small"),
        (served("local-first", small=0.3, local=0.6, cloud=0.99), "local"),
        (served("local-first", tokens=29_000, small=0.9, local=0.9, cloud=0.9), "cloud"),
        (served("coding", "computer science", small=0.5, code=0.8, large=0.82), "code"),
        (served("coding", tokens=110_000, small=0.9, code=0.9, large=0.9), "large"),
    ],
)
def test_each_does_what_it_says(found: str, tier: str) -> None:
    assert found == tier


def test_without_predictions_local_first_stays_on_the_box() -> None:
    assert decide(load_policy("local-first"), Features(input_tokens=50), None, a_view()).tier == "local"


def test_the_demo_needs_no_address_and_no_key() -> None:
    for tier in load_policy("demo").policy.tiers.values():
        for backend in tier.backends:
            assert (backend.kind, backend.base_url, backend.api_key) == ("simulated", None, None)
            assert 0.02 <= backend.simulate.ttft.total_seconds() <= 0.12  # type: ignore[union-attr]
