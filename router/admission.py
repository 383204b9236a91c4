"""Admission: a request reserves its worst case from its budgets before anyone is called (invariant 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policies.addressing import backends
from policies.case import budgets_for
from policies.decide import decide
from policies.document import Loaded
from policies.schema import Budget
from policies.values import Decision, Features, Signals, Step, View
from router.ledger.budgets import NOTHING_HELD, Amount, Claim, Grant, claims
from router.state.store import Store


class Admission:
    """Reserves under one policy."""

    def __init__(self, loaded: Loaded, store: Store) -> None:
        self._loaded = loaded
        self._store = store
        self._backends = {backend.name: backend for _, backend in backends(loaded.policy)}

    async def admit(
        self, request_id: str, features: Features, signals: Signals | None, view: View, decision: Decision
    ) -> tuple[View, Decision, Grant]:
        """Reserve for a decision's steps; where a budget stands in the way, decide again knowing it.

        When the dearest step does not fit but the first does, those dearer than the first are dropped from the plan.
        A budget that downgrades is still charged. The grant of a refused request says when the first of the plans that
        were tried would fit.
        """
        grant = NOTHING_HELD
        waits: list[float] = []
        if not self._loaded.policy.budgets:
            return view, decision, grant
        while decision.refusal is None and (due := budgets_for(self._loaded, features, signals, view)):
            amounts = {step: self._claims(due, features, view, (step,)) for step in decision.steps}
            first = _dearest(amounts[decision.steps[0]])
            affordable = tuple(step for step in decision.steps if _dearest(amounts[step]) <= first)
            for steps in dict.fromkeys((decision.steps, affordable)):
                claimed = self._claims(due, features, view, steps)
                reserved = tuple(claim for claim in claimed if claim.account.name not in view.exceeded)
                grant = await self._store.reserve(request_id, reserved, self._loaded.policy.timeouts.deadline)
                if not grant.exceeded:
                    return view, replace(decision, steps=steps), replace(grant, claims=claimed)
                waits += [grant.retry_after] if grant.retry_after is not None else []
            view = replace(view, exceeded=(*view.exceeded, *grant.exceeded))
            decision = decide(self._loaded, features, signals, view)
        return view, decision, replace(grant, retry_after=min(waits, default=None)) if grant.exceeded else grant

    def _claims(
        self, due: Sequence[Budget], features: Features, view: View, steps: Sequence[Step]
    ) -> tuple[Claim, ...]:
        """What the steps claim from each account: the most that any one of them may come to."""
        most: dict[str, Claim] = {}
        for step in steps:
            for claim in claims(due, features, step.tier, self._backends[step.backend], view.now):
                known = most.get(claim.account.field)
                most[claim.account.field] = (
                    replace(claim, amount=_larger(known.amount, claim.amount)) if known else claim
                )
        return tuple(most.values())


def _dearest(claimed: Sequence[Claim]) -> int:
    return max((claim.amount.nanos for claim in claimed), default=0)


def _larger(one: Amount, other: Amount) -> Amount:
    return Amount(max(one.nanos, other.nanos), max(one.tokens, other.tokens), max(one.requests, other.requests))
