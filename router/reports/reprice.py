"""What if the prices had been another policy's: the same requests, the same tokens, billed again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from policies import money
from policies.addressing import backends
from policies.schema import Policy
from policies.values import Attempt, Entry
from router.billing import baseline_nanos, baseline_price, total_nanos
from router.ledger import codec
from router.ledger.sums import merge_packed, pack_entries

_AT_ONCE = 5_000


def repriced_sums(bodies: Iterable[bytes], policy: Policy) -> list[tuple[int, str, bytes]]:
    """The packed sums of journalled entries at a policy's prices.

    A backend is found by its name, else by its model; one that the policy does not have is unpriced. A GPU is billed as
    at full load, since who else was in flight is another question.
    """
    prices: dict[str, money.Price | None] = {}
    for _, backend in backends(policy):
        prices.setdefault(backend.model, money.price_of(backend))
    prices |= {backend.name: money.price_of(backend) for _, backend in backends(policy)}
    baseline = baseline_price(policy)
    repriced = (_repriced(codec.decode(body), baseline, prices) for body in bodies)
    sums: dict[tuple[int, str], bytes] = {}
    while chunk := list(islice(repriced, _AT_ONCE)):
        sums = merge_packed(sums, pack_entries(chunk))
    return [(hour, name, packed) for (hour, name), packed in sums.items()]


def _repriced(entry: Entry, baseline: money.Price | None, prices: dict[str, money.Price | None]) -> Entry:
    attempts = tuple(replace(attempt, cost_nanos=_cost(attempt, prices)) for attempt in entry.attempts)
    return replace(
        entry,
        attempts=attempts,
        cost_nanos=total_nanos(attempts),
        baseline_nanos=baseline_nanos(baseline, entry.usage),
    )


def _cost(attempt: Attempt, prices: dict[str, money.Price | None]) -> int | None:
    if attempt.usage is None:
        return 0
    price = prices.get(attempt.backend, prices.get(attempt.model))
    cost = money.cost(attempt.usage, price)
    return None if cost is money.UNPRICED else money.nanos(cost)
