"""What a request's ``model`` asks for: the policy's choice, a tier, or one backend."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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


def resolve(policy: Policy, model: str, allowed: Collection[str] | None = None) -> Target | Refusal:
    """Resolve ``auto``, ``auto:<objective>``, ``tier/<name>``, a backend or an alias; else a 404 that lists what is.

    ``allowed`` is what the client's key may use (see `Features.allowed`); nothing else is listed.
    """
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
    known = models(policy, allowed)
    message = " ".join(
        part
        for part in (f"The model {model!r} does not exist.", nearest(model, known), f"There are: {listing(known)}.")
        if part
    )
    return Refusal(404, "model_not_found", message, "model")


def models(policy: Policy, allowed: Collection[str] | None = None) -> list[str]:
    """List everything that a request can ask for as its model, of which its key may use something."""
    objectives, tiers = (f"auto:{name}" for name in policy.objectives), (f"tier/{name}" for name in policy.tiers)
    names = ["auto", *objectives, *tiers, *(backend.name for _, backend in backends(policy)), *policy.aliases]
    return names if allowed is None else [name for name in names if _has_allowed(policy, name, allowed)]


def targets(policy: Policy) -> dict[str, Target | Refusal]:
    """What each of the `models` asks for, and who names none."""
    plain: dict[str, Target | Refusal] = {
        backend.name: Target("backend", backend.name) for _, backend in backends(policy)
    }
    others = (name for name in models(policy) if name not in plain or name == "auto" or name in policy.aliases)
    return plain | {name: resolve(policy, name) for name in ("", *others)}


def _has_allowed(policy: Policy, model: str, allowed: Collection[str]) -> bool:
    target = resolve(policy, model)
    return isinstance(target, Target) and any(
        allows(allowed, tier, backend.name)
        for tier, backend in backends(policy)
        if target.kind == "auto" or target.name == (tier if target.kind == "tier" else backend.name)
    )


def allows(allowed: Collection[str] | None, tier: str, backend: str) -> bool:
    """Say whether a key may use a backend: by its name, or as one of its tier."""
    return allowed is None or backend in allowed or f"tier/{tier}" in allowed


def backends(policy: Policy) -> Iterator[tuple[str, Backend]]:
    """Give every backend with its tier's name, in policy order."""
    return ((tier, backend) for tier, settings in policy.tiers.items() for backend in settings.backends)
