"""What a request came to: the sum of its attempts, and what the baseline would have cost for the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

from policies import money
from policies.schema import Policy
from policies.values import Attempt, Usage


def total_nanos(attempts: Sequence[Attempt]) -> int | None:
    """Nano-dollars over all attempts, failed ones too; None (`unpriced`) as soon as one of them is."""
    costs = [attempt.cost_nanos for attempt in attempts]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def baseline_price(policy: Policy) -> money.Price | None:
    """The price of the baseline tier: its first backend's."""
    return money.price_of(policy.tiers[policy.baseline].backends[0])


def baseline_nanos(price: money.Price | None, usage: Usage) -> int | None:
    """Nano-dollars that the baseline tier would have cost for this usage; None where it is unpriced."""
    cost = money.cost(usage, price)
    return None if cost is money.UNPRICED else money.nanos(cost)
