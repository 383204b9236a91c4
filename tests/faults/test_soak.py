"""A few seconds of the soak, which ``python -m tests.faults.soak`` runs for minutes; its audit sees what is wrong."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from policies.values import Attempt, Entry, Features, Usage
from tests.faults.audit import Audit, Said
from tests.faults.soak import PRICES, soak, summary
from tests.router.ledger import entries

SAID = {"good": [Said("10/3", (70, 30), 9)]}
RIGHT = Attempt("good", "large", "m", "ok", usage=Usage(70, output_tokens=30), cost_nanos=70 * 1_009 + 30 * 7_919)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_nothing_is_left_after_mixed_faults_and_leaving_clients(tmp_path: Path) -> None:
    random.seed(1)
    tally = await soak(4, tmp_path)
    assert tally.wrong == [], summary(tally, 4)
    assert tally.audit.requests > 50
    assert tally.audit.measured["output_tokens"] > 0
    assert tally.left_in.total() > 0


def audited(entry: Entry, said: dict[str, list[Said]]) -> list[str]:
    audit = Audit(PRICES)
    audit.entry(entry, said)
    return audit.wrong


def entry(*attempts: Attempt) -> Entry:
    total = sum(attempt.cost_nanos or 0 for attempt in attempts)
    plain = entries.entry(attempts=attempts, cost=total)
    return replace(plain, features=Features(input_tokens=9))


def test_the_audit_agrees_with_what_is_right() -> None:
    assert audited(entry(RIGHT), SAID) == []
    estimate = replace(RIGHT, usage=Usage(9, output_tokens=4, measured=False), cost_nanos=9 * 1_009 + 4 * 7_919)
    assert audited(entry(estimate), {"good": [Said("~10/4", (70, 30), 9)]}) == []
    left = replace(estimate, outcome="cancelled", error="cancelled", phase="headers")
    assert audited(entry(left), {}) == []
    assert audited(entry(left, RIGHT), SAID) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda right: replace(right, cost_nanos=right.cost_nanos + 1),
        lambda right: replace(right, usage=replace(right.usage, output_tokens=31)),
        lambda right: replace(right, usage=replace(right.usage, measured=False)),
        lambda right: replace(right, usage=None, cost_nanos=0),
        lambda right: replace(right, backend="bad-0"),
        lambda right: replace(right, phase="connect"),
    ],
)
def test_the_audit_sees_a_wrong_attempt(spoil: Callable[[Attempt], Attempt]) -> None:
    assert audited(entry(spoil(RIGHT)), SAID)


def test_the_audit_sees_calls_without_attempts_and_attempts_without_calls() -> None:
    assert audited(entry(), SAID)
    assert audited(entry(RIGHT, RIGHT), SAID)
    assert audited(entry(RIGHT), {"good": [*SAID["good"], *SAID["good"]]})
    assert audited(replace(entry(RIGHT), cost_nanos=1), SAID)
