"""Admission: what is reserved, and what a plan becomes when a budget stands in the way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from policies.decide import decide
from policies.document import load
from policies.values import Decision, Features
from router.admission import Admission
from router.ledger.budgets import Claim, Grant
from tests.policies.examples import a_view

POLICY = """
version: 1
tiers:
  small: {{backends: [{{name: s, kind: vllm, model: m, cost: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}}]}}
  large: {{backends: [{{name: l, kind: vllm, model: n, cost: {{input_usd_per_mtok: 10, output_usd_per_mtok: 10}}}}]}}
fallback: {{small: [large]}}
budgets: [{{name: all, per: day, usd: 1, on_exceeded: {on_exceeded}}}]
"""
REQUEST = Features(model="tier/small", input_tokens=1000, max_output_tokens=1000)


class Purse:
    """A store that has so many nano-dollars left, and more by one each microsecond, but never more than so many.

    The real one is tested in tests/contracts.
    """

    def __init__(self, nanos: int, never_above: int = 10**9) -> None:
        self.nanos, self.never_above = nanos, never_above
        self.asked: list[int] = []

    async def reserve(self, request_id: str, claims: Sequence[Claim], patience: timedelta) -> Grant:
        (most,) = {claim.amount.nanos for claim in claims} or {0}
        self.asked.append(most)
        over = tuple(claim.account.name for claim in claims if claim.amount.nanos > self.nanos)
        wait = most / 1e6 if most < self.never_above else None
        return Grant(tuple(claims), exceeded=over, retry_after=wait if over else 0.0)


async def admitted(
    left_usd: float, on_exceeded: str = "reject", never_above: int = 10**9
) -> tuple[Decision, Grant, Purse]:
    loaded = load(POLICY.format(on_exceeded=on_exceeded), file="policy.yaml", environ={})
    purse = Purse(round(left_usd * 1e9), never_above)
    decision = decide(loaded, REQUEST, None, a_view())
    _, decision, grant = await Admission(loaded, purse).admit("r1", REQUEST, None, a_view(), decision)  # type: ignore[arg-type]
    return decision, grant, purse


@pytest.mark.anyio
async def test_the_dearest_step_is_what_is_reserved() -> None:
    decision, grant, purse = await admitted(1.0)
    assert [step.backend for step in decision.steps] == ["s", "l"]
    assert len(purse.asked) == 1
    assert purse.asked[0] > 10 * 2000 * 1000
    assert grant.claims


@pytest.mark.anyio
async def test_where_only_the_first_step_fits_the_dearer_fallback_is_dropped() -> None:
    decision, grant, purse = await admitted(0.01)
    assert [step.backend for step in decision.steps] == ["s"]
    assert purse.asked[1] < purse.asked[0]
    assert not grant.exceeded


@pytest.mark.anyio
async def test_where_nothing_fits_the_request_is_refused_until_the_first_of_its_plans_would() -> None:
    decision, grant, purse = await admitted(0.0001)
    assert decision.refusal is not None
    assert decision.refusal.status == 429
    assert len(purse.asked) == 2
    assert grant.retry_after == min(purse.asked) / 1e6
    _, grant, purse = await admitted(0.0001, never_above=min(purse.asked) + 1)
    assert grant.retry_after == min(purse.asked) / 1e6, "the dearer plan never would"
    _, grant, _ = await admitted(0.0001, never_above=min(purse.asked))
    assert grant.retry_after is None


@pytest.mark.anyio
async def test_a_budget_that_downgrades_is_still_charged() -> None:
    decision, grant, _ = await admitted(0.0001, "downgrade")
    assert decision.tier == "small"
    assert [claim.budget.name for claim in grant.claims] == ["all"]
