"""The ``x-tierwise-*`` response headers: what was decided, by whom it was answered, and what it cost."""

from __future__ import annotations

from policies.money import usd
from policies.values import Decision, Signals
from router.dispatch import Answer

_LONGEST_REASON = 600
_NAMES = {
    name: f"x-tierwise-{name}".encode()
    for name in (
        "request-id", "tier", "backend", "model", "reason", "attempts", "classify-ms", "overhead-ms", "domain",
        "complexity", "cost-usd", "baseline-usd",
    )
}  # fmt: skip


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
    values = {
        "request-id": request_id,
        "tier": answer.step.tier if answer else decision.tier,
        "backend": answer.step.backend if answer else None,
        "model": answer.model if answer else None,
        "reason": "; ".join(decision.reasons)[:_LONGEST_REASON],
        "attempts": str(attempts + (answer is not None and answer.whole is None)),
        "classify-ms": f"{classify_ms:.2f}",
        "overhead-ms": f"{overhead_ms:.2f}",
        "domain": signals.domain if signals else None,
        "complexity": f"{signals.complexity:.2f}" if signals and signals.complexity is not None else None,
    }
    for name, nanos in zip(("cost-usd", "baseline-usd"), costs or (), strict=False):
        values[name] = None if nanos is None else f"{usd(nanos):f}"
    return [(_NAMES[name], _printable(value)) for name, value in values.items() if value]


def _printable(value: str) -> bytes:
    """A header value that no name in a policy or a prompt can break out of."""
    if not value.isprintable():
        value = "".join(char if char.isprintable() else " " for char in value)
    return value.encode("latin-1", "replace")
