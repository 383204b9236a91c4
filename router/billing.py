"""What a request came to: the sum of its attempts, what the baseline would have cost, and the proxy's own time."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from policies import money
from policies.values import Attempt, Counterfactual, Usage
from router.baseline import baseline_usage

_MS_PER_HOUR = 3_600_000


def total_nanos(attempts: Sequence[Attempt]) -> int | None:
    """Nano-dollars over all attempts, failed ones too; None (`unpriced`) as soon as one of them is."""
    costs = [attempt.cost_nanos for attempt in attempts]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def baseline_nanos(price: money.Price | None, usage: Usage, counterfactual: Counterfactual | None) -> int | None:
    """Nano-dollars that the baseline tier would have cost; None where it is unpriced, 0 where nothing was used."""
    if counterfactual is None:
        return None if price is None else 0
    cost = money.cost(baseline_usage(usage, counterfactual), price)
    return None if cost is money.UNPRICED else money.nanos(cost)


def proxy_nanos(hour_usd: Decimal, overhead_ms: float) -> int:
    """Nano-dollars of the proxy's machine for the time that it added to a request."""
    return round(money.nanos(hour_usd) * overhead_ms / _MS_PER_HOUR)
