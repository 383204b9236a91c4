"""The ``x-tierwise-*`` response headers: what was decided, by whom it was answered, and what it cost."""

from __future__ import annotations

from functools import lru_cache

from policies.money import NANOS_PER_USD
from policies.values import Decision, Signals
from router.dispatch import Answer

_LONGEST_REASON = 600


def served_lines(
    request_id: str,
    decision: Decision,
    signals: Signals | None,
    answer: Answer | None,
    attempts: int,
    classify_ms: float,
    overhead_ms: float,
    costs: tuple[int | None, int | None] | None,
) -> bytes:
    """The headers' lines. ``costs`` are the request's and the baseline's nano-dollars, where known by now.

    ``attempts`` counts those that have ended; the one that is still streaming is added.
    """
    if answer is None:
        named = _named(decision.tier, "", "")
    else:
        named = _named(answer.step.tier, answer.step.backend, answer.model)
        attempts += answer.whole is None
    lines = (
        b"x-tierwise-request-id: %b\r\n%bx-tierwise-attempts: %d\r\n"
        b"x-tierwise-classify-ms: %.2f\r\nx-tierwise-overhead-ms: %.2f\r\n"
    ) % (request_id.encode(), named, attempts, classify_ms, overhead_ms)
    lines += _remembered_reason(decision.reasons) if signals is None else _reason(decision.reasons)
    if signals is not None:
        if signals.domain:
            lines += b"x-tierwise-domain: %b\r\n" % printable(signals.domain)
        if signals.complexity is not None:
            lines += b"x-tierwise-complexity: %.2f\r\n" % signals.complexity
    cost, baseline = costs or (None, None)
    if cost is not None:
        lines += b"x-tierwise-cost-usd: %d.%09d\r\n" % divmod(cost, NANOS_PER_USD)
    if baseline is not None:
        lines += b"x-tierwise-baseline-usd: %d.%09d\r\n" % divmod(baseline, NANOS_PER_USD)
    return lines


@lru_cache(1024)
def _named(tier: str, backend: str, model: str) -> bytes:
    """What many answers have in common; nothing is said of what has no name."""
    told = {b"tier": tier, b"backend": backend, b"model": model}
    return b"".join([b"x-tierwise-%b: %b\r\n" % (name, printable(value)) for name, value in told.items() if value])


def _reason(reasons: tuple[str, ...]) -> bytes:
    """Why it was decided so, if anything is said; where signals speak, hardly ever the same twice."""
    told = "; ".join(reasons)[:_LONGEST_REASON]
    return b"x-tierwise-reason: %b\r\n" % printable(told) if told else b""


_remembered_reason = lru_cache(64)(_reason)


@lru_cache(64)
def content_type(value: str) -> bytes:
    """The line that says what an answer is."""
    return b"content-type: %b\r\n" % printable(value)


def printable(value: str) -> bytes:
    """A header value that no name in a policy, prompt or upstream's answer can break out of."""
    if not value.isprintable():
        value = "".join(char if char.isprintable() else " " for char in value)
    return value.encode("latin-1", "replace")
