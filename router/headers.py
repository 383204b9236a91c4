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
    headers = [(b"x-tierwise-request-id", request_id.encode()), (b"x-tierwise-tier", _name(decision.tier))]
    if answer is not None:
        step, begun = answer.step, answer.whole is None
        headers[1:] = [
            (b"x-tierwise-tier", _name(step.tier)),
            (b"x-tierwise-backend", _name(step.backend)),
            (b"x-tierwise-model", _name(answer.model)),
        ]
        attempts += begun
    headers += [
        (b"x-tierwise-reason", printable("; ".join(decision.reasons)[:_LONGEST_REASON])),
        (b"x-tierwise-attempts", b"%d" % attempts),
        (b"x-tierwise-classify-ms", b"%.2f" % classify_ms),
        (b"x-tierwise-overhead-ms", b"%.2f" % overhead_ms),
    ]
    if signals is not None:
        headers.append((b"x-tierwise-domain", _name(signals.domain)))
        if signals.complexity is not None:
            headers.append((b"x-tierwise-complexity", b"%.2f" % signals.complexity))
    for name, nanos in zip((b"x-tierwise-cost-usd", b"x-tierwise-baseline-usd"), costs or (), strict=False):
        if nanos is not None:
            headers.append((name, b"%d.%09d" % divmod(nanos, NANOS_PER_USD)))
    return [header for header in headers if header[1]]


@lru_cache(1024)
def _name(value: str) -> bytes:
    return printable(value)


def printable(value: str) -> bytes:
    """A header value that no name in a policy, prompt or upstream's answer can break out of."""
    if not value.isprintable():
        value = "".join(char if char.isprintable() else " " for char in value)
    return value.encode("latin-1", "replace")
