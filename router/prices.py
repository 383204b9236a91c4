"""List prices of hosted models, from litellm's price map, read as data: litellm itself is never imported for it.

The map's traps: a missing price is not 0 while an explicit 0 is a price; a model may be listed with or without its
provider's name in front; ``max_tokens`` may mean either limit and is not used; reasoning that is listed at the output's
price follows the output's in service tiers, which do not list it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import orjson

from policies.catalogue import ModelFacts, is_hosted
from policies.schema import Capability, Policy, RatesAbove, ServiceRates, TokenPrice

_FILE = "model_prices_and_context_window_backup.json"
_RATES = {
    "input_usd_per_mtok": "input_cost_per_token",
    "output_usd_per_mtok": "output_cost_per_token",
    "cached_input_usd_per_mtok": "cache_read_input_token_cost",
    "cache_write_usd_per_mtok": "cache_creation_input_token_cost",
    "cache_write_1h_usd_per_mtok": "cache_creation_input_token_cost_above_1hr",
    "reasoning_usd_per_mtok": "output_cost_per_reasoning_token",
    "audio_input_usd_per_mtok": "input_cost_per_audio_token",
    "audio_output_usd_per_mtok": "output_cost_per_audio_token",
    "image_input_usd_per_mtok": "input_cost_per_image_token",
    "image_output_usd_per_mtok": "output_cost_per_image_token",
}
_SERVICE_TIERS: Mapping[Literal["batch", "flex", "priority"], str] = {
    "batch": "_batches",
    "flex": "_flex",
    "priority": "_priority",
}
_ALWAYS_SEARCH = re.compile(r"-search-|(?:^|/)sonar")
_SEARCH_SIZES: Mapping[str, str] = {"openai": "medium", "perplexity": "low"}
"""The size of context that a search has where none is asked for, by provider (their API references)."""

_ABOVE = re.compile(r"_above_(\d+)k_tokens")
_CAPABILITIES: Mapping[Capability, str] = {
    "tools": "supports_function_calling",
    "json_mode": "supports_response_schema",
    "json_schema": "supports_response_schema",
    "vision": "supports_vision",
    "audio": "supports_audio_input",
}

_UNLISTED: tuple[Capability, ...] = ("logprobs",)
"""What the map does not speak of, and so cannot deny."""


def facts(policy: Policy) -> Mapping[str, ModelFacts]:
    """What the map knows of a policy's hosted models, by the model's name as the policy has it."""
    models = {backend.model for tier in policy.tiers.values() for backend in tier.backends if is_hosted(backend)}
    known = {model: model_facts(model) for model in models}
    return {model: found for model, found in known.items() if found is not None}


def model_facts(model: str) -> ModelFacts | None:
    """What the map knows of one model, such as ``gpt-4o``, ``openai/gpt-4o`` or ``gemini/gemini-2.5-pro``."""
    listed = _listed(model)
    if listed is None:
        return None
    supports = (*(name for name, key in _CAPABILITIES.items() if listed.get(key) is True), *_UNLISTED)
    return ModelFacts(
        _price(listed, model),
        _tokens(listed.get("max_input_tokens")),
        _tokens(listed.get("max_output_tokens")),
        supports,
    )


def _listed(model: str) -> Mapping[str, Any] | None:
    prices = _price_map()
    if model in prices:
        return prices[model]
    provider, slash, name = model.partition("/")
    listed = prices.get(name) if slash else None
    return listed if listed is not None and listed.get("litellm_provider") == provider else None


def litellm_file(name: str) -> Path | None:
    """A file that comes with litellm; None where there is none. litellm is not imported."""
    try:
        files = distribution("litellm").files or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


@lru_cache(maxsize=1)
def _price_map() -> Mapping[str, Mapping[str, Any]]:
    """The map, or an empty one where litellm is not installed."""
    found = litellm_file(_FILE)
    if found is None:
        return {}
    prices: dict[str, Mapping[str, Any]] = orjson.loads(found.read_bytes())
    prices.pop("sample_spec", None)
    return prices


def _price(listed: Mapping[str, Any], model: str) -> TokenPrice | None:
    """The price, where both input and output have one: half a price would make the other half free."""
    if steps := listed.get("tiered_pricing"):
        return _stepped(steps)
    plain = _rates(listed)
    if not {"input_usd_per_mtok", "output_usd_per_mtok"} <= plain.keys():
        return None
    if plain.get("reasoning_usd_per_mtok") == plain["output_usd_per_mtok"]:
        del plain["reasoning_usd_per_mtok"]
    above = _above(listed)
    tiers = {
        name: ServiceRates(**found, above=_above(listed, suffix) or _scaled(above, plain, found))
        for name, suffix in _SERVICE_TIERS.items()
        if (found := _rates(listed, suffix=suffix))
    }
    return TokenPrice(
        **plain,
        above=above,
        service_tiers=tiers,
        request_usd=_per_request(listed, model),
    )


def _per_request(listed: Mapping[str, Any], model: str) -> Decimal:
    """Dollars for each request, with the one search of a model that makes one whatever it is asked."""
    size = _SEARCH_SIZES.get(str(listed.get("litellm_provider")))
    searches = listed.get("search_context_cost_per_query")
    search = None
    if size and isinstance(searches, Mapping) and _ALWAYS_SEARCH.search(model):
        search = _decimal(searches.get(f"search_context_size_{size}"))
    return (_decimal(listed.get("input_cost_per_request")) or Decimal(0)) + (search or Decimal(0))


def _stepped(steps: Sequence[Mapping[str, Any]]) -> TokenPrice | None:
    """A price that is listed whole for each range of input lengths."""
    ranges = [(int(step["range"][0]), _rates(step)) for step in steps if step.get("range")]
    if not ranges or not all({"input_usd_per_mtok", "output_usd_per_mtok"} <= rates.keys() for _, rates in ranges):
        return None
    above = tuple(RatesAbove(input_tokens=start, **rates) for start, rates in ranges[1:])
    return TokenPrice(**ranges[0][1], above=above)


def _above(listed: Mapping[str, Any], suffix: str = "") -> tuple[RatesAbove, ...]:
    lengths = {found[1] for name in listed if (found := _ABOVE.search(name))}
    steps = {int(length): _rates(listed, f"_above_{length}k_tokens", suffix) for length in lengths}
    return tuple(RatesAbove(input_tokens=1_000 * length, **rates) for length, rates in sorted(steps.items()) if rates)


def _scaled(
    above: Sequence[RatesAbove], plain: Mapping[str, Decimal], tier: Mapping[str, Decimal]
) -> tuple[RatesAbove, ...]:
    """What a service tier asks for long inputs where none is listed: as much more or less as it does for others."""
    factors = {name: rate / plain[name] for name, rate in tier.items() if plain.get(name)}
    steps = ((step, step.model_dump(exclude={"input_tokens"}, exclude_none=True)) for step in above)
    return tuple(
        RatesAbove(
            input_tokens=step.input_tokens, **{name: rate * factors.get(name, 1) for name, rate in rates.items()}
        )
        for step, rates in steps
    )


def _rates(listed: Mapping[str, Any], above: str = "", suffix: str = "") -> dict[str, Any]:
    """The rates that are listed for a length of input and a service tier, as `policies.schema.Rates` names them."""
    found = {name: _per_mtok(listed.get(f"{key}{above}{suffix}")) for name, key in _RATES.items()}
    return {name: rate for name, rate in found.items() if rate is not None}


def _per_mtok(per_token: object) -> Decimal | None:
    price = _decimal(per_token)
    return None if price is None else (price * 1_000_000).normalize() + 0


def _decimal(number: object) -> Decimal | None:
    """A price in the map as it is written there, not as a binary float holds it."""
    if isinstance(number, bool) or not isinstance(number, int | float | str):
        return None
    try:
        price = Decimal(str(number))
    except ArithmeticError:
        return None
    return price if price.is_finite() and price >= 0 else None


def _tokens(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None
