"""Which backends could serve a request at all, and what stands in the way of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import inf

from policies.addressing import allows, backends
from policies.schema import Backend, Exclude, Policy, Rule
from policies.values import Features, Refusal, View

ROOM_FOR_ANSWER = 256
"""Tokens of the context window kept for an answer whose length the request does not limit."""


class Kind(IntEnum):
    """What can stand in the way, in the order in which it is looked at."""

    FORBIDDEN = 1
    CAPABILITY = 2
    OUTPUT_CAP = 3
    CONTEXT = 4
    EXCLUDED = 5
    BUDGET = 6
    COOLDOWN = 7


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that keeps a backend from serving a request, as a phrase that follows its name."""

    kind: Kind
    why: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One backend's standing for one request: nothing in the way, resting only, or worse."""

    tier: str
    backend: Backend
    obstacles: tuple[Obstacle, ...]

    @property
    def able(self) -> bool:
        """Whether the request could be sent there, resting or not."""
        return not self.obstacles or all(obstacle.kind is Kind.COOLDOWN for obstacle in self.obstacles)

    @property
    def ready(self) -> bool:
        """Whether nothing at all stands in the way."""
        return not self.obstacles

    @property
    def forbidden(self) -> bool:
        """Whether the client's key may not use it."""
        return any(obstacle.kind is Kind.FORBIDDEN for obstacle in self.obstacles)


@dataclass(frozen=True, slots=True)
class Open:
    """How all backends of a policy stand for a request that finds nothing in the way of any, and which requests do.

    Most do: so this is worked out with the policy. ``by_tier`` has the same by tier, ``named`` by tier and backend.
    ``window`` and ``answer`` are the smallest context window and output cap that the policy states of any backend,
    ``supports`` what all of them support.
    """

    standings: tuple[Standing, ...]
    by_tier: Mapping[str, tuple[Standing, ...]]
    named: Mapping[str, Mapping[str, Standing]]
    window: float
    answer: float
    supports: frozenset[str]

    @classmethod
    def of(cls, policy: Policy) -> Open:
        """Work it out."""
        every = [backend for _, backend in backends(policy)]
        named = {
            tier: {backend.name: Standing(tier, backend, ()) for backend in settings.backends}
            for tier, settings in policy.tiers.items()
        }
        return cls(
            tuple(standing for within in named.values() for standing in within.values()),
            {tier: tuple(within.values()) for tier, within in named.items()},
            named,
            min((backend.context_window for backend in every if backend.context_window is not None), default=inf),
            min((backend.max_output_tokens for backend in every if backend.max_output_tokens is not None), default=inf),
            frozenset.intersection(*(frozenset(backend.supports) for backend in every)),
        )

    def seen(self, view: View) -> tuple[Standing, ...]:
        """The standings of those that were looked at; of a tier of which the view names none that is there, of all."""
        if not view.looked_at:
            return self.standings
        found: list[Standing] = []
        for tier, within in self.named.items():
            some = [within[name] for name in view.looked_at.get(tier, ()) if name in within]
            found += some or within.values()
        return tuple(found)

    def to(self, features: Features, view: View) -> bool:
        """Say whether nothing stands in the way of a request, budgets and rules aside."""
        asked = features.max_output_tokens
        needed = features.input_tokens + (ROOM_FOR_ANSWER if asked is None else asked)
        return (
            not view.cooling
            and features.allowed is None
            and needed <= self.window
            and (asked is None or asked <= self.answer)
            and features.requires <= self.supports
            and (not view.windows or needed <= min(view.windows.values()))
        )


def standings(
    all_open: Open, features: Features, view: View, excluding: Sequence[Rule], spent: Mapping[str, str]
) -> tuple[Standing, ...]:
    """Judge every backend of the policy that was looked at, tiers in policy order.

    ``excluding`` are the matching rules that exclude; ``spent`` names exhausted budgets by the tier, backend or model
    that they limit.
    """
    if not excluding and not spent and all_open.to(features, view):
        return all_open.seen(view)
    return tuple(
        Standing(one.tier, one.backend, tuple(_obstacles(one.tier, one.backend, features, view, excluding, spent)))
        for one in all_open.seen(view)
    )


def _obstacles(
    tier: str, backend: Backend, features: Features, view: View, excluding: Sequence[Rule], spent: Mapping[str, str]
) -> Iterator[Obstacle]:
    if not allows(features.allowed, tier, backend.name):
        yield Obstacle(Kind.FORBIDDEN, "is not allowed to this key")
    lacking = sorted(features.requires.difference(backend.supports))
    if lacking:
        yield Obstacle(Kind.CAPABILITY, f"does not support {' or '.join(lacking)}")
    asked, cap = features.max_output_tokens, backend.max_output_tokens
    if asked is not None and cap is not None and asked > cap:
        yield Obstacle(Kind.OUTPUT_CAP, f"answers at most {cap:,} tokens, {asked:,} were asked for")
    needed = features.input_tokens + (ROOM_FOR_ANSWER if asked is None else asked)
    window = backend.context_window if backend.context_window is not None else view.windows.get(backend.name)
    if window is not None and needed > window:
        yield Obstacle(Kind.CONTEXT, f"has a window of {window:,} tokens, {needed:,} are needed")
    for rule in excluding:
        if rule.exclude is not None and (why := excluded_by(rule.exclude, tier, backend)) is not None:
            yield Obstacle(Kind.EXCLUDED, f"is excluded by rule {rule.name!r} ({why})")
    for limited in (tier, backend.name, backend.model):
        if limited in spent:
            yield Obstacle(Kind.BUDGET, f"has spent its budget {spent[limited]!r}")
    if backend.name in view.cooling:
        yield Obstacle(Kind.COOLDOWN, "rests after failures")


def excluded_by(exclude: Exclude, tier: str, backend: Backend) -> str | None:
    """Say by what a rule excludes a backend, such as ``precision int4``; None where it does not."""
    facts = (("tier", tier), ("backend", backend.name), ("precision", backend.precision), ("kind", backend.kind))
    return next((f"{what} {fact}" for what, fact in facts if fact in getattr(exclude, what)), None)


_REFUSALS: Mapping[Kind, tuple[int, str, str | None]] = {
    Kind.FORBIDDEN: (403, "model_not_allowed", "model"),
    Kind.CAPABILITY: (400, "unsupported_capability", None),
    Kind.OUTPUT_CAP: (400, "max_tokens_exceeded", "max_tokens"),
    Kind.CONTEXT: (400, "context_length_exceeded", "messages"),
    Kind.EXCLUDED: (403, "excluded_by_policy", "model"),
    Kind.BUDGET: (429, "budget_exceeded", None),
}


def refusal(unable: Sequence[Standing]) -> Refusal:
    """Say why none of these can serve the request; the one that came furthest decides the error's code.

    What the key may not use is not named where there is anything else.
    """
    unable = [standing for standing in unable if not standing.forbidden] or unable
    first = [
        next(obstacle for obstacle in standing.obstacles if obstacle.kind is not Kind.COOLDOWN) for standing in unable
    ]
    status, code, param = _REFUSALS[max(obstacle.kind for obstacle in first)]
    each = [f"{standing.backend.name} {obstacle.why}" for standing, obstacle in zip(unable, first, strict=True)]
    return Refusal(status, code, f"No backend can serve this request: {'; '.join(each)}.", param)
