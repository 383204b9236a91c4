"""What to do after an attempt: call again, call another, pass on what came, or give up. Pure.

The caller makes an attempt, appends it, and asks again; it never holds more than one answer. Kinds of failure are those
of `Attempt.error`, listed in ``router.errors``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from policies.schema import Retries
from policies.values import Attempt, Decision, Step

OURS: frozenset[str] = frozenset({"full", "cooling"})
"""Failures of our own making: the backend was never called, so another one is asked at once."""

REFUSED: frozenset[str] = frozenset({"bad_request", "cancelled", "deadline"})
"""Failures that no other backend would mend: the request is at fault, or nobody waits for the answer."""

ELSEWHERE: frozenset[str] = frozenset({"auth", "not_found", "context", *OURS})
"""Failures that the same backend would repeat but another one may not."""

POOR = "poor"
"""How the error of an attempt begins whose answer came but failed a check of its tier (``poor:json``)."""

SPARED: frozenset[str] = frozenset({"timeout", "connect", "dns", "tls"})
"""Failures that take long or last long: another backend first, the same one again only where there is no other."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The world at this moment, read by the caller.

    ``draw`` is a uniform number in [0, 1) for jitter. ``retry_after`` and ``remaining`` are in seconds: what the
    backend asked for, and what is left of the deadline over all attempts. ``cooling`` names backends that rest.
    ``windows`` has context windows in tokens by backend, where known.
    """

    draw: float = 1.0
    retry_after: float | None = None
    remaining: float | None = None
    cooling: frozenset[str] = frozenset()
    windows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Try:
    """Call this step after waiting ``delay`` seconds. ``why`` is a sentence for logs and reasons."""

    step: Step
    delay: float
    kind: Literal["first", "retry", "fallback", "escalate"]
    why: str


@dataclass(frozen=True, slots=True)
class Accept:
    """The last attempt answered: pass it on."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further call can help. ``reason`` is a sentence."""

    reason: str


Next: TypeAlias = Try | Accept | GiveUp


def next_step(decision: Decision, attempts: Sequence[Attempt], retries: Retries, moment: Moment | None = None) -> Next:
    """Choose what follows the attempts made so far, oldest first; with none, the first step of the decision.

    The same backend is called again only where it may help and at most ``retries.attempts`` times; after that, and for
    failures that it would repeat, the next step not yet tried follows. A request that is itself refused, or an answer
    that has begun to reach the client, ends it.
    """
    moment = moment or Moment()
    if not attempts:
        return _first(decision, moment)
    last = attempts[-1]
    if last.outcome == "ok":
        return Accept()
    if last.phase == "stream":
        return GiveUp("the answer had begun: no other backend may speak")
    if last.outcome == "cancelled" or last.error in REFUSED or (not last.error and last.status in (400, 422)):
        return GiveUp(f"{_told(last)}: no other backend would answer it")
    if moment.remaining is not None and moment.remaining <= 0:
        return GiveUp(f"{_told(last)}, and the deadline over all attempts has passed")
    onward = _untried(decision, attempts, moment)
    if last.error.startswith(POOR):
        higher = [step for step in onward if step.tier != last.tier]
        return Try(higher[0], 0.0, "escalate", f"{_told(last)}: {higher[0].backend} next") if higher else Accept()
    made = sum(attempt.backend == last.backend for attempt in attempts)
    spent = made > retries.attempts or _repeats(last) or (bool(onward) and last.error in SPARED)
    delay = None if spent else _delay(retries, made, moment, patient=not onward)
    if delay is not None and (moment.remaining is None or delay < moment.remaining):
        return Try(Step(last.tier, last.backend), delay, "retry", f"{_told(last)}: the same again in {delay:.2f} s")
    if onward:
        return Try(onward[0], 0.0, "fallback", f"{_told(last)}: {onward[0].backend} next")
    return GiveUp(f"{_told(last)}, and nothing is left to try")


def first_step(decision: Decision, cooling: frozenset[str]) -> Step | None:
    """Choose the step to begin with: the first whose backend does not rest, where any does not."""
    first = decision.steps[0] if decision.steps else None
    return next((step for step in decision.steps if step.backend not in cooling), first) if cooling else first


def _first(decision: Decision, moment: Moment) -> Next:
    step = first_step(decision, moment.cooling)
    if step is None:
        return GiveUp(decision.refusal.message if decision.refusal else "the decision has no step")
    return Try(step, 0.0, "first", "first choice")


def _untried(decision: Decision, attempts: Sequence[Attempt], moment: Moment) -> list[Step]:
    """Give the steps left to try, resting backends last, and after a context error only those with more room."""
    tried = {attempt.backend for attempt in attempts}
    left = [step for step in decision.steps if step.backend not in tried]
    if attempts[-1].error == "context":
        outgrown = max(
            (moment.windows.get(attempt.backend, 0) for attempt in attempts if attempt.error == "context"), default=0
        )
        left = [step for step in left if moment.windows.get(step.backend, outgrown + 1) > outgrown]
    return sorted(left, key=lambda step: step.backend in moment.cooling)


def _repeats(attempt: Attempt) -> bool:
    if attempt.error:
        return attempt.error in ELSEWHERE
    return attempt.status in (401, 402, 403, 404)


def _delay(retries: Retries, made: int, moment: Moment, *, patient: bool) -> float | None:
    """Seconds to wait before calling the same backend again; None where another should be called instead.

    Exponential backoff with full jitter (Brooker, AWS Architecture Blog, 2015), never before a Retry-After. One that
    asks for more than the cap is waited for, up to the cap, only if there is nowhere else to go.
    """
    cap = retries.cap.total_seconds()
    asked = moment.retry_after or 0.0
    if asked > cap and not patient:
        return None
    backoff = min(cap, retries.base.total_seconds() * 2.0 ** (made - 1)) * moment.draw
    return min(cap, max(backoff, asked))


def _told(attempt: Attempt) -> str:
    status = f" ({attempt.status})" if attempt.status else ""
    return f"{attempt.backend}: {attempt.error or attempt.outcome}{status}"
