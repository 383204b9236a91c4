"""What is legal in a policy but probably not meant. Pure: warnings only, never errors."""

from __future__ import annotations

from collections.abc import Iterator

from policies.problems import Problem
from policies.schema import Policy
from policies.source import Source


def warnings(policy: Policy, source: Source) -> Iterator[Problem]:
    """Find everything suspicious."""
    for tier, settings in policy.tiers.items():
        for index, backend in enumerate(settings.backends):
            if backend.cost is None:
                path = ("tiers", tier, "backends", index)
                yield source.problem(path, f"{backend.name} is unpriced", "state its cost")
