"""Backends of one tier whose answers differ: the same model at two precisions, each with a success of its own.

The backends of a tier are interchangeable unless one states what it is (``trained_as``, ``quality``). Then the
objective is asked within the tier as it is among tiers, and those serve that are predicted to be right at least as
often as its choice; the others are left for when all else has failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policies.problems import listing
from policies.schema import Backend
from policies.values import Signals

Variants = Mapping[str, Sequence[Backend]]
"""Backends of one tier by the name under which `Signals.success` has what is predicted of them."""


def name_of(tier: str, backend: str) -> str:
    """The name in `Signals.success` of a backend that states what it is; no tier is called so."""
    return f"{tier}/{backend}"


def variants(tier: str, backends: Sequence[Backend], signals: Signals) -> Variants:
    """Tell a tier's backends apart; those of which nothing is predicted by themselves go by the tier's name."""
    found: dict[str, list[Backend]] = {}
    for backend in backends:
        own = name_of(tier, backend.name)
        found.setdefault(own if own in signals.success else tier, []).append(backend)
    return found


def serving(found: Variants, signals: Signals, chosen: str) -> list[Backend]:
    """Give the backends that are predicted to be right at least as often as the chosen variant, in their order."""
    least = _predicted(signals, chosen)
    return [backend for name, some in found.items() if _predicted(signals, name) >= least for backend in some]


def why(tier: str, found: Variants, signals: Signals, chosen: str) -> str:
    """Say which backends are left out, and by how much; nothing where all serve."""
    least = _predicted(signals, chosen)
    out = {name: some for name, some in found.items() if _predicted(signals, name) < least}
    if not out:
        return ""
    names = listing([backend.name for some in out.values() for backend in some])
    best = max(_predicted(signals, name) for name in out)
    return f"{names} of {tier} would be right too seldom: predicted {best:.2f} against {least:.2f}"


def _predicted(signals: Signals, name: str) -> float:
    success = signals.success.get(name)
    return 0.0 if success is None else success.probability
