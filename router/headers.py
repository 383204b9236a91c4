"""The ``x-tierwise-*`` response headers: what was decided, by whom it was answered, and what it cost."""

from __future__ import annotations

from functools import lru_cache

from policies.money import NANOS_PER_USD
from policies.values import Decision, Signals
from router.dispatch import Answer

_LONGEST_REASON = 600


def served_headers(
    request_id: str,
    decision: Decision,
    signals: Signals | None,
    answer: Answer | None,
    attempts: int,
    classify_ms: float,
    overhead_ms: float,
    costs: tuple[int | None, int | None] | None,
) -> list[tuple[bytes, bytes]]:
    """The headers, as ASGI has them. ``costs`` are the request's and the baseline's nano-dollars, where known by now.

    ``attempts`` counts those that have ended; the one that is still streaming is added.
    """
    if answer is None:
        named = _named(decision.tier, "", "", decision.reasons)
    else:
        named = _named(answer.step.tier, answer.step.backend, answer.model, decision.reasons)
        attempts += answer.whole is None
    headers = [
        (b"x-tierwise-request-id", request_id.encode()),
        *named,
        (b"x-tierwise-attempts", b"%d" % attempts),
        (b"x-tierwise-classify-ms", b"%.2f" % classify_ms),
        (b"x-tierwise-overhead-ms", b"%.2f" % overhead_ms),
    ]
    if signals is not None:
        if signals.domain:
            headers.append((b"x-tierwise-domain", printable(signals.domain)))
        if signals.complexity is not None:
            headers.append((b"x-tierwise-complexity", b"%.2f" % signals.complexity))
    for name, nanos in zip((b"x-tierwise-cost-usd", b"x-tierwise-baseline-usd"), costs or (), strict=False):
        if nanos is not None:
            headers.append((name, b"%d.%09d" % divmod(nanos, NANOS_PER_USD)))
    return headers


@lru_cache(1024)
def _named(tier: str, backend: str, model: str, reasons: tuple[str, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """What many answers have in common; nothing is said of what has no name."""
    told = {
        b"x-tierwise-tier": tier,
        b"x-tierwise-backend": backend,
        b"x-tierwise-model": model,
        b"x-tierwise-reason": "; ".join(reasons)[:_LONGEST_REASON],
    }
    return tuple([(name, printable(value)) for name, value in told.items() if value])


def printable(value: str) -> bytes:
    """A header value that no name in a policy, prompt or upstream's answer can break out of."""
    if not value.isprintable():
        value = "".join(char if char.isprintable() else " " for char in value)
    return value.encode("latin-1", "replace")
