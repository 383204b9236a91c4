"""What is publicly known of models, filled into backends that do not say it themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from policies.schema import Backend, Capability, Policy, TokenPrice

_OPENAI = "api.openai.com"

UNTOLD: tuple[Capability, ...] = ("logprobs",)
"""Abilities that catalogues do not speak of: taken for given."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A hosted model's price, sizes and abilities; None or empty where not known."""

    cost: TokenPrice | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    supports: tuple[Capability, ...] = ()


def fill(policy: Policy, catalogue: Mapping[str, ModelFacts]) -> Policy:
    """Complete every hosted backend from the catalogue; what the policy states is kept.

    A backend of your own is never completed: its model may have the name of a hosted one, but neither its price nor the
    window that it was started with.
    """
    tiers = {
        name: tier.model_copy(update={"backends": tuple(_completed(backend, catalogue) for backend in tier.backends)})
        for name, tier in policy.tiers.items()
    }
    return policy.model_copy(update={"tiers": tiers})


def is_hosted(backend: Backend) -> bool:
    """Say whether a backend is a public API whose list price applies."""
    by_openai = backend.kind == "openai" and (
        backend.base_url is None or urlsplit(backend.base_url).hostname == _OPENAI
    )
    return backend.kind == "hosted" or by_openai


def _completed(backend: Backend, catalogue: Mapping[str, ModelFacts]) -> Backend:
    facts = catalogue.get(backend.model)
    if facts is None or not is_hosted(backend):
        return backend
    known: dict[str, Any] = {
        "cost": facts.cost,
        "context_window": facts.context_window,
        "max_output_tokens": facts.max_output_tokens,
        "supports": (*facts.supports, *UNTOLD) if facts.supports else None,
    }
    stated = {name for name in backend.model_fields_set if getattr(backend, name) is not None}
    return backend.model_copy(
        update={name: value for name, value in known.items() if value is not None and name not in stated}
    )
