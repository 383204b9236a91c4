"""How many tokens one backend or tier uses where another uses one, learned from what both were seen to use.

Two tiers are given different requests, so their plain means would compare requests rather than tiers. Requests are
compared within strata that are alike (a domain, a complexity band), and the strata are put together by the rate ratio
of Mantel and Haenszel (1959; for sums over exposure: Greenland and Robins 1985), which needs no stratum to be large.
Little evidence is drawn towards the ratio over all domains, and that towards 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import exp, log

_FRESH = 64
"""Observations after which ratios are worked out anew."""

_WIDEST = 8.0
_MOST = 1e5
"""Multiples of the prior above which what is known of a subject is halved, so that it follows a change of model."""


class Ratios:
    """Ratios between subjects (tiers or backends), within a domain. Memory: subjects × domains × kinds of request."""

    def __init__(self, prior: float) -> None:
        """``prior`` is the exposure at which evidence and its absence weigh alike."""
        self._prior = prior
        self._seen: defaultdict[str, dict[tuple[str, str], tuple[float, float]]] = defaultdict(dict)
        self._known: dict[tuple[str, str, str], float] = {}
        self._stale = 0

    def learn(self, subject: str, domain: str, kind: str, used: float, exposure: float) -> None:
        """Take note that a subject used so much for so much of what it was given."""
        strata = self._seen[subject]
        before, given = strata.get((domain, kind), (0.0, 0.0))
        if given > _MOST * self._prior:
            before, given = before / 2, given / 2
        strata[domain, kind] = before + used, given + exposure
        self._stale += 1
        if self._stale >= _FRESH:
            self._stale = 0
            self._known.clear()

    def ratio(self, of: str, to: str, domain: str) -> float:
        """What ``of`` would use where ``to`` uses 1, in a domain; 1 where nothing is known of both."""
        if of == to:
            return 1.0
        key = of, to, domain
        if (known := self._known.get(key)) is None:
            everywhere = self._drawn(of, to, self._seen[of].keys() & self._seen[to].keys(), 0.0)
            here = [stratum for stratum in self._seen[of].keys() & self._seen[to].keys() if stratum[0] == domain]
            known = self._known[key] = exp(self._drawn(of, to, here, everywhere))
        return known

    def _drawn(self, of: str, to: str, strata: Iterable[tuple[str, str]], towards: float) -> float:
        """The logarithm of the ratio over some strata, drawn towards another by the prior."""
        above = below = weight = 0.0
        for stratum in strata:
            (used, given), (other_used, other_given) = self._seen[of][stratum], self._seen[to][stratum]
            together = given + other_given
            above += used * other_given / together
            below += other_used * given / together
            weight += given * other_given / together
        if not above or not below:
            return towards
        found = max(-log(_WIDEST), min(log(_WIDEST), log(above / below)))
        return (weight * found + self._prior * towards) / (weight + self._prior)
