"""How many tokens one backend or tier uses where another uses one, as far as what both were seen to use tells.

Two tiers are given different requests, so their plain means would compare requests rather than tiers. Requests are
compared within strata that are alike (a domain, a complexity band), and the strata are put together by the rate ratio
of Mantel and Haenszel (1959; for sums over exposure: Greenland and Robins 1985), which needs no stratum to be large.
Little evidence is drawn towards the ratio over all domains, and that towards 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, log
from typing import TypeAlias

Seen: TypeAlias = Mapping[str, Mapping[tuple[str, str], tuple[float, float]]]
"""By subject, and by domain and kind of request: what was used, and out of how much that was given (the exposure)."""

_WIDEST = 8.0


class Ratios:
    """Ratios between subjects (tiers or backends), within a domain."""

    def __init__(self, prior: float, seen: Seen) -> None:
        """``prior`` is the exposure at which evidence and its absence weigh alike."""
        self._prior = prior
        self._seen = seen
        self._known: dict[tuple[str, str, str], float | None] = {}

    def ratio(self, of: str, to: str, domain: str) -> float | None:
        """What ``of`` would use where ``to`` uses 1, in a domain; None where they were never seen alike."""
        if of == to:
            return 1.0
        key = of, to, domain
        if key not in self._known:
            common = self._seen.get(of, {}).keys() & self._seen.get(to, {}).keys()
            everywhere = self._drawn(of, to, common, 0.0)
            here = self._drawn(of, to, [one for one in common if one[0] == domain], everywhere or 0.0)
            found = everywhere if here is None else here
            self._known[key] = None if found is None else exp(found)
        return self._known[key]

    def _drawn(self, of: str, to: str, strata: Iterable[tuple[str, str]], towards: float) -> float | None:
        """The logarithm of the ratio over some strata, drawn towards another by the prior; None without evidence."""
        above = below = weight = 0.0
        for stratum in sorted(strata):
            (used, given), (other_used, other_given) = self._seen[of][stratum], self._seen[to][stratum]
            together = given + other_given
            above += used * other_given / together
            below += other_used * given / together
            weight += given * other_given / together
        if not above or not below:
            return None
        found = max(-log(_WIDEST), min(log(_WIDEST), log(above) - log(below)))
        return (weight * found + self._prior * towards) / (weight + self._prior)
