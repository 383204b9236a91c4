"""What a request's ``model`` asks for: the policy's choice, a tier, or one backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from policies.problems import listing, nearest
from policies.schema import Backend, Objective, Policy
from policies.values import Refusal


@dataclass(frozen=True, slots=True)
class Target:
    """What a model name stands for. ``objective`` is given for ``auto``, ``name`` for a tier or a backend."""

    kind: Literal["auto", "tier", "backend"]
    name: str = ""
    objective: Objective | None = None


def resolve(policy: Policy, model: str) -> Target | Refusal:
    """Resolve ``auto``, ``auto:<objective>``, ``tier/<name>``, a backend or an alias; else a 404 that lists what is."""
    name, seen = model, set[str]()
    while name in policy.aliases and name not in seen:
        seen.add(name)
        name = policy.aliases[name]
    if name in ("auto", ""):
        return Target("auto", objective=policy.objective)
    if name.startswith("auto:") and name[5:] in policy.objectives:
        return Target("auto", objective=policy.objectives[name[5:]])
    if name.startswith("tier/") and name[5:] in policy.tiers:
        return Target("tier", name[5:])
    if any(backend.name == name for _, backend in backends(policy)):
        return Target("backend", name)
    known = models(policy)
    message = " ".join(
        part
        for part in (f"The model {model!r} does not exist.", nearest(model, known), f"There are: {listing(known)}.")
        if part
    )
    return Refusal(404, "model_not_found", message, "model")


def models(policy: Policy) -> list[str]:
    """List everything that a request can ask for as its model."""
    objectives, tiers = (f"auto:{name}" for name in policy.objectives), (f"tier/{name}" for name in policy.tiers)
    return ["auto", *objectives, *tiers, *(backend.name for _, backend in backends(policy)), *policy.aliases]


def backends(policy: Policy) -> Iterator[tuple[str, Backend]]:
    """Give every backend with its tier's name, in policy order."""
    return ((tier, backend) for tier, settings in policy.tiers.items() for backend in settings.backends)
