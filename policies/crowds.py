"""Tiers of so many backends that a request looks at a few of them.

Most backends of a large tier are alike: nothing but how busy and how warm they are tells them apart. Of those, the best
of a few drawn at random is nearly as good as the best of all (Mitzenmacher 2001, "The power of two choices in
randomized load balancing"), and costs the same however many there are. Who was looked at stands in `View.looked_at`.
"""

from __future__ import annotations

from policies.schema import Policy

LOOKED_AT = 16
"""Backends of a tier that a request looks at; a tier of no more is looked at whole."""

_WHERE = {"name", "base_url", "api_key", "headers"}

Alike = tuple[tuple[str, ...], ...]
"""Names of a tier's backends, those alike in one tuple."""


def crowds(policy: Policy) -> dict[str, Alike]:
    """Tiers of more than `LOOKED_AT` backends, by name; a backend that a rule excludes by its name is like no other."""
    excluded = {name for rule in policy.rules if rule.exclude is not None for name in rule.exclude.backend}
    found = {}
    for tier, settings in policy.tiers.items():
        if len(settings.backends) > LOOKED_AT:
            groups: dict[tuple[str, str], list[str]] = {}
            for backend in settings.backends:
                own = backend.name if backend.name in excluded else ""
                groups.setdefault((own, backend.model_dump_json(exclude=_WHERE)), []).append(backend.name)
            found[tier] = tuple(map(tuple, groups.values()))
    return found


def share(groups: Alike) -> int:
    """How many of each group to look at: two at least, so that there is a choice."""
    return max(2, LOOKED_AT // len(groups))
