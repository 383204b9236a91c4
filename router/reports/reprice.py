"""What if the prices had been another policy's: the same requests, the same tokens, billed again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from policies import money
from policies.addressing import backends
from policies.schema import Policy
from policies.values import Attempt, Counterfactual, Entry
from router.baseline import baseline_backend
from router.billing import baseline_nanos, total_nanos
from router.ledger import codec
from router.ledger.sums import merge_packed
from router.ledger.tallying import pack_entries

_AT_ONCE = 5_000


def repriced_sums(bodies: Iterable[bytes], policy: Policy) -> list[tuple[int, str, bytes]]:
    """The packed sums of journalled entries at a policy's prices.

    A backend is found by its name, else by its model; one that the policy does not have is unpriced. A GPU is billed as
    at full load, since who else was in flight is another question. The baseline counts and writes as it did then.
    """
    prices: dict[str, money.Price | None] = {}
    for _, backend in backends(policy):
        prices.setdefault(backend.model, money.price_of(backend))
    prices |= {backend.name: money.price_of(backend) for _, backend in backends(policy)}
    baseline = money.price_of(baseline_backend(policy))
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
        baseline_nanos=baseline_nanos(baseline, entry.usage, _counterfactual(entry)),
    )


def _counterfactual(entry: Entry) -> Counterfactual | None:
    """The entry's own; for one written before there was any, the same tokens as were used."""
    if entry.counterfactual is not None or not any(attempt.usage for attempt in entry.attempts):
        return entry.counterfactual
    return Counterfactual("", cached_input_tokens=entry.usage.cached_input_tokens)


def _cost(attempt: Attempt, prices: dict[str, money.Price | None]) -> int | None:
    if attempt.usage is None:
        return 0
    price = prices.get(attempt.backend, prices.get(attempt.model))
    return money.cost_nanos(attempt.usage, price)
