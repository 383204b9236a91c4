"""What a request came to: the sum of its attempts, what the baseline would have cost, and the proxy's own time."""

from __future__ import annotations

from collections.abc import Sequence

from policies import money
from policies.values import Attempt, Counterfactual, Usage
from router.baseline import baseline_usage

_MS_PER_HOUR = 3_600_000


def total_nanos(attempts: Sequence[Attempt]) -> int | None:
    """Nano-dollars over all attempts, failed ones too; None (`unpriced`) as soon as one of them is."""
    total = 0
    for attempt in attempts:
        if attempt.cost_nanos is None:
            return None
        total += attempt.cost_nanos
    return total


def baseline_nanos(price: money.Price | None, usage: Usage, counterfactual: Counterfactual | None) -> int | None:
    """Nano-dollars that the baseline tier would have cost; None where it is unpriced, 0 where nothing was used."""
    if counterfactual is None:
        return None if price is None else 0
    return money.cost_nanos(baseline_usage(usage, counterfactual), price)


def proxy_nanos(hour_nanos: int, overhead_ms: float) -> int:
    """Nano-dollars of the proxy's machine, at a rate per hour, for the time that it added to a request."""
    return round(hour_nanos * overhead_ms / _MS_PER_HOUR)
