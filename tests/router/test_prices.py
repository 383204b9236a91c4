from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from policies import money
from policies.schema import Backend, TokenPrice
from policies.values import Usage
from router import prices


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A price map of the test's own."""
    models: dict[str, Any] = {}
    monkeypatch.setattr(prices, "_price_map", lambda: models)
    return models


def cost(model: str) -> TokenPrice | None:
    facts = prices.model_facts(model)
    assert facts is not None
    return facts.cost


@pytest.mark.parametrize("model", ["gpt-4o", "openai/gpt-4o", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-pro"])
def test_the_installed_map_has_prices_and_sizes_of_well_known_models(model: str) -> None:
    facts = prices.model_facts(model)
    assert facts is not None
    assert facts.cost is not None
    assert facts.cost.input_usd_per_mtok > 0
    assert facts.context_window
    assert facts.max_output_tokens
    assert "tools" in facts.supports


def test_every_price_in_the_installed_map_can_be_billed() -> None:
    usage = Usage(1_000_000, 1_000, 1_000, 1_000, 100, service_tier="priority")
    seen = 0
    for model in prices._price_map():
        price = cost(model)
        backend = Backend(name="b", kind="hosted", model=model, cost=price)
        billed = money.cost(usage, money.price_of(backend))
        assert (billed is money.UNPRICED) == (price is None)
        seen += price is not None
    assert seen > 2_000


def test_the_map_is_read_without_importing_litellm() -> None:
    code = "import sys; from router import prices; assert prices.model_facts('gpt-4o'); print('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_missing_price_is_not_zero_and_an_explicit_zero_is_a_price(listed: dict[str, Any]) -> None:
    listed["free"] = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    listed["half"] = {"input_cost_per_token": 1e-6}
    listed["none"] = {"max_input_tokens": 8192}
    listed["odd"] = {"input_cost_per_token": "n/a", "output_cost_per_token": -1}
    assert cost("free") == TokenPrice(input_usd_per_mtok=Decimal(0), output_usd_per_mtok=Decimal(0))
    assert [cost(name) for name in ("half", "none", "odd")] == [None, None, None]
    assert prices.model_facts("unlisted") is None


def test_prices_are_as_written_and_not_as_a_float_holds_them(listed: dict[str, Any]) -> None:
    listed["m"] = {"input_cost_per_token": 1.1e-07, "output_cost_per_token": "0.0000003"}
    price = cost("m")
    assert price is not None
    assert (str(price.input_usd_per_mtok), str(price.output_usd_per_mtok)) == ("0.11", "0.3")


def test_a_provider_in_front_counts_only_if_it_is_the_models(listed: dict[str, Any]) -> None:
    listed["gpt-x"] = {"litellm_provider": "openai", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    listed["azure/gpt-x"] = {"litellm_provider": "azure", "input_cost_per_token": 2e-6, "output_cost_per_token": 2e-6}
    found = [cost("gpt-x"), cost("openai/gpt-x"), cost("azure/gpt-x")]
    assert [price and int(price.input_usd_per_mtok) for price in found] == [1, 1, 2]
    assert prices.model_facts("bedrock/gpt-x") is None


def test_max_tokens_means_either_and_so_neither(listed: dict[str, Any]) -> None:
    listed["m"] = {"max_tokens": 4096}
    facts = prices.model_facts("m")
    assert facts is not None
    assert (facts.context_window, facts.max_output_tokens) == (None, None)


def test_ranges_lengths_and_service_tiers_are_read(listed: dict[str, Any]) -> None:
    plain = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    listed["steps"] = plain | {
        "input_cost_per_token_above_200k_tokens": 3e-6,
        "input_cost_per_token_above_1000k_tokens": 4e-6,
        "output_cost_per_token_batches": 5e-6,
        "input_cost_per_token_above_200k_tokens_priority": 9e-6,
        "input_cost_per_token_priority": 8e-6,
        "cache_creation_input_token_cost_above_1hr": 7e-6,
    }
    listed["ranges"] = {"tiered_pricing": [plain | {"range": [0, 32e3]}, plain | {"range": [32e3, 128e3]}]}
    price = cost("steps")
    assert price is not None
    assert [(step.input_tokens, step.input_usd_per_mtok) for step in price.above] == [(200_000, 3), (1_000_000, 4)]
    assert price.cache_write_1h_usd_per_mtok == 7
    assert price.service_tiers["batch"].output_usd_per_mtok == 5
    assert price.service_tiers["priority"].above[0].input_usd_per_mtok == 9
    ranged = cost("ranges")
    assert ranged is not None
    assert [step.input_tokens for step in ranged.above] == [32_000]
    listed["broken"] = {"tiered_pricing": [{"range": [0, 1], "input_cost_per_token": 1e-6}]}
    assert cost("broken") is None


LONG = "_above_200k_tokens"


@pytest.mark.parametrize(
    ("model", "usage", "billed"),
    [
        (
            "claude-sonnet-4-5",
            Usage(10_000, 1_000, 3_000, 700, cache_write_1h_tokens=2_000),
            {"input_cost_per_token": 6_000, "cache_read_input_token_cost": 1_000, "output_cost_per_token": 700,
             "cache_creation_input_token_cost": 1_000, "cache_creation_input_token_cost_above_1hr": 2_000},
        ),
        (
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
            Usage(300_000, 100_000, 50_000, 700, cache_write_1h_tokens=20_000),
            {f"input_cost_per_token{LONG}": 150_000, f"cache_read_input_token_cost{LONG}": 100_000,
             f"output_cost_per_token{LONG}": 700, f"cache_creation_input_token_cost{LONG}": 30_000,
             f"cache_creation_input_token_cost_above_1hr{LONG}": 20_000},
        ),
        (
            "gemini-2.5-pro",
            Usage(250_000, 50_000, 0, 1_000, 400, service_tier="priority"),
            {f"input_cost_per_token{LONG}_priority": 200_000, f"output_cost_per_token{LONG}_priority": 1_000,
             f"cache_read_input_token_cost{LONG}_priority": 50_000},
        ),
        (
            "gemini-2.5-flash",
            Usage(1_000, 0, 0, 500, 400, audio_input_tokens=600),
            {"input_cost_per_token": 400, "input_cost_per_audio_token": 600, "output_cost_per_token": 100,
             "output_cost_per_reasoning_token": 400},
        ),
        (
            "gemini-2.5-flash",
            Usage(1_000, 0, 0, 500, 400, audio_input_tokens=600, service_tier="priority"),
            {"input_cost_per_token_priority": 400, "input_cost_per_audio_token_priority": 600,
             "output_cost_per_token_priority": 500},
        ),
        (
            "gemini-2.5-flash",
            Usage(1_000, 200, 0, 500, 400, service_tier="flex"),
            {"input_cost_per_token_flex": 800, "cache_read_input_token_cost_flex": 200,
             "output_cost_per_token_flex": 500},
        ),
        (
            "gemini-2.5-flash",
            Usage(1_000, 0, 0, 500, service_tier="batch"),
            {"input_cost_per_token_batches": 1_000, "output_cost_per_token_batches": 500},
        ),
        (
            "gpt-audio",
            Usage(1_000, 0, 0, 800, audio_input_tokens=900, audio_output_tokens=700),
            {"input_cost_per_token": 100, "input_cost_per_audio_token": 900, "output_cost_per_token": 100,
             "output_cost_per_audio_token": 700},
        ),
        (
            "deep-research-pro-preview-12-2025",
            Usage(1_000, 0, 0, 2_000, image_output_tokens=1_120),
            {"input_cost_per_token": 1_000, "output_cost_per_token": 880, "output_cost_per_image_token": 1_120},
        ),
        (
            "amazon.nova-2-pro-preview-20251202-v1:0",
            Usage(1_000, 0, 0, 10, image_input_tokens=900),
            {"input_cost_per_token": 100, "input_cost_per_image_token": 900, "output_cost_per_token": 10},
        ),
        (
            "perplexity/sonar-small-online",
            Usage(1_000, 0, 0, 10),
            {"input_cost_per_request": 1, "input_cost_per_token": 1_000, "output_cost_per_token": 10},
        ),
    ],
)  # fmt: skip
def test_every_kind_of_token_is_billed_at_the_rate_that_the_installed_map_lists_for_it(
    model: str, usage: Usage, billed: dict[str, int]
) -> None:
    """Each expected cost is added up from the map's own numbers: (the key of a rate: how many)."""
    listed = prices._price_map()[model]
    expected = sum(Decimal(str(listed[rate])) * count for rate, count in billed.items())
    price = money.price_of(Backend(name="b", kind="hosted", model=model, cost=cost(model)))
    assert money.cost(usage, price) == expected


def test_a_service_tier_without_prices_of_long_inputs_has_them_in_proportion(listed: dict[str, Any]) -> None:
    listed["m"] = {
        "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6, "cache_read_input_token_cost": 1e-6,
        "input_cost_per_token_above_200k_tokens": 4e-6, "output_cost_per_token_above_200k_tokens": 12e-6,
        "cache_read_input_token_cost_above_200k_tokens": 3e-6,
        "input_cost_per_token_flex": 1e-6, "output_cost_per_token_flex": 4e-6,
    }  # fmt: skip
    price = cost("m")
    assert price is not None
    (step,) = price.service_tiers["flex"].above
    rates = (step.input_usd_per_mtok, step.output_usd_per_mtok, step.cached_input_usd_per_mtok)
    assert (step.input_tokens, *rates) == (200_000, 2, 6, 3)


def test_without_litellm_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise prices.PackageNotFoundError(name)

    monkeypatch.setattr(prices, "distribution", missing)
    prices._price_map.cache_clear()
    assert prices.model_facts("gpt-4o") is None
    prices._price_map.cache_clear()


@pytest.mark.parametrize(
    ("model", "provider", "fee"),
    [
        ("gpt-9-search-preview", "openai", "0.025"),
        ("gpt-9", "openai", "0"),
        ("perplexity/sonar-max", "perplexity", "0.01"),
        ("else/x-search-y", "else", "0"),
    ],
)
def test_a_model_that_searches_whatever_it_is_asked_has_its_fee_for_each_request(
    listed: dict[str, Any], model: str, provider: str, fee: str
) -> None:
    searches = {f"search_context_size_{size}": usd for size, usd in (("low", 0.01), ("medium", 0.025), ("high", 0.05))}
    rates = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    listed[model] = {**rates, "litellm_provider": provider, "search_context_cost_per_query": searches}
    price = cost(model)
    assert price is not None
    assert price.request_usd == Decimal(fee)


def test_the_searching_models_of_the_installed_map_have_a_fee() -> None:
    for model in ("gpt-4o-search-preview", "perplexity/sonar-pro"):
        price = cost(model)
        assert price is not None
        assert price.request_usd > 0
