"""Whom a request looks at in tiers of very many backends (see `policies.crowds`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import random, sample

from policies.crowds import Alike, share

_ASKED_AGAIN = 2
"""Of those at rest, how many are asked at each draw whether they still do."""


class Muster:
    """Draws a few backends of each group of a crowd, of those that do not rest, however many there are.

    A draw moves those that it finds resting out of the way of the next ones, and now and then one back.
    """

    def __init__(self, crowds: Mapping[str, Alike], rests: Callable[[str], bool]) -> None:
        """``rests`` says of a backend whether it rests after failures."""
        self._groups = {tier: [_Group(names, share(alike)) for names in alike] for tier, alike in crowds.items()}
        self._tier_of = {name: tier for tier, alike in crowds.items() for names in alike for name in names}
        self._rests = rests

    def draw(self, wanted: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Backends to look at, by tier: at random, and those of ``wanted`` that belong to a crowd."""
        drawn = {
            tier: [name for group in groups for name in group.draw(self._rests)]
            for tier, groups in self._groups.items()
        }
        for name in wanted:
            tier = self._tier_of.get(name)
            if tier is not None and name not in drawn[tier]:
                drawn[tier].append(name)
        return {tier: tuple(names) for tier, names in drawn.items()}


class _Group:
    """Backends alike: those that were awake when last drawn, and the others."""

    def __init__(self, names: Iterable[str], few: int) -> None:
        self._awake, self._resting, self._few = list(names), list[str](), few

    def draw(self, rests: Callable[[str], bool]) -> list[str]:
        """A few at random that do not rest; where all do, a few of them."""
        awake, resting = self._awake, self._resting
        for _ in range(min(_ASKED_AGAIN, len(resting))):
            if not rests(resting[at := int(random() * len(resting))]):
                awake.append(_out_of(resting, at))
        found = 0
        while found < min(self._few, len(awake)):
            at = found + int(random() * (len(awake) - found))
            if rests(awake[at]):
                resting.append(_out_of(awake, at))
            else:
                awake[found], awake[at] = awake[at], awake[found]
                found += 1
        return awake[:found] if found else sample(resting, min(self._few, len(resting)))


def _out_of(names: list[str], at: int) -> str:
    """Take a name out of a list whose order does not matter."""
    names[at], names[-1] = names[-1], names[at]
    return names.pop()
