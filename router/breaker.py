"""The circuit breaker of one backend: closed, open, half-open. Pure; times are given to it, in seconds on any clock.

Closed, everything passes. After enough failures in a row, or one that says when to come back, it opens and the backend
rests. When the rest is over, one probe is let through (half-open); its success closes the circuit, its failure opens it
again for twice as long, up to a limit. Everyone else waits for the probe's verdict, so recovery meets no stampede.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from policies.schema import Cooldown

State: TypeAlias = Literal["closed", "open", "half-open"]

LONGEST = 8
"""A rest grows with each failed probe up to this many times the policy's."""

HARMLESS: frozenset[str] = frozenset({"bad_request", "context", "full", "cooling", "cancelled", "deadline", "stopped"})
"""Kinds of failure that say nothing bad of the backend."""

AT_ONCE: frozenset[str] = frozenset({"auth"})
"""Kinds that will not mend by themselves in a moment: one is enough to rest."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """``failures`` in a row; ``until`` when it rests, None while closed; ``probing`` while a probe is out."""

    failures: int = 0
    rests: int = 0
    until: float | None = None
    probing: bool = False

    def state(self, at: float) -> State:
        """The state at a moment."""
        if self.until is None:
            return "closed"
        return "half-open" if self.probing or at >= self.until else "open"


CLOSED = Circuit()


def admit(circuit: Circuit, at: float, *, early: bool = False) -> Circuit | None:
    """The circuit with one more call let through, or None where the call must stay out.

    ``early`` lets a probe out before the rest is over: for a caller that has no other backend to go to.
    """
    if circuit.until is None:
        return circuit
    if circuit.probing or (at < circuit.until and not early):
        return None
    return replace(circuit, probing=True)


def succeeded(circuit: Circuit) -> Circuit:
    """After an answer, or a failure that was not the backend's. Late news does not end a rest, only a probe does."""
    return CLOSED if circuit.until is None or circuit.probing else circuit


def failed(circuit: Circuit, at: float, settings: Cooldown, kind: str, retry_after: float | None = None) -> Circuit:
    """After a failure of this ``kind``; ``retry_after`` is what the backend asked for, in seconds."""
    failures = circuit.failures + 1
    if circuit.until is not None and not circuit.probing:
        return replace(circuit, failures=failures)
    asked = retry_after if kind == "rate_limited" and retry_after is not None else None
    if not circuit.probing and kind not in AT_ONCE and asked is None and failures < settings.failures:
        return replace(circuit, failures=failures)
    rest = settings.rest.total_seconds()
    longest = rest * LONGEST
    length = min(longest, rest * 2**circuit.rests) if asked is None else min(longest, asked)
    return Circuit(failures, circuit.rests + 1, at + length)


def abandoned(circuit: Circuit) -> Circuit:
    """After a call that ended without a verdict: a probe that was cancelled leaves the place to the next one."""
    return replace(circuit, probing=False) if circuit.probing else circuit
