from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.schema import Backend, Budget, GpuPrice, TokenPrice
from policies.values import Attempt, Features, Usage
from router.ledger.budgets import Amount, Claim, Grant, account, charges, claims, window, worst_case
from router.ledger.sums import unpack_vector
from tests.router.ledger.entries import entry

BERLIN = ZoneInfo("Europe/Berlin")
PRICE = TokenPrice(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(10))


def backend(**settings: object) -> Backend:
    return Backend.model_validate({"name": "b", "kind": "openai", "model": "m", "cost": PRICE} | settings)


def budget(**settings: object) -> Budget:
    return Budget.model_validate({"name": "cap", "per": "day", "usd": "20"} | settings)


@pytest.mark.parametrize(
    ("per", "since", "until"),
    [
        ("minute", "2026-10-25T02:30:00+01:00", "2026-10-25T02:31:00+01:00"),
        ("hour", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"),
        ("day", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"),
        ("month", "2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00"),
    ],
)
def test_windows_follow_the_clock_of_their_zone_through_its_change(per: str, since: str, until: str) -> None:
    now = datetime(2026, 10, 25, 1, 30, 30, tzinfo=UTC).astimezone(BERLIN)
    assert [moment.isoformat() for moment in window(per, now)] == [since, until]


@given(st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)), st.sampled_from(["minute", "hour", "day", "month"]))
def test_a_moment_lies_in_its_window_and_the_window_in_itself(moment: datetime, per: str) -> None:
    now = moment.replace(tzinfo=UTC).astimezone(BERLIN)
    since, until = window(per, now)
    assert since.timestamp() <= now.timestamp() < until.timestamp()
    assert window(per, since) == (since, until)


def test_the_worst_case_is_the_longest_answer_that_can_come() -> None:
    asked = Features(input_tokens=1_000, max_output_tokens=500, choices=2)
    assert worst_case(backend(), asked) == Amount(1_251_000 + 2 * 500 * 10_000, 1_251 + 1_000)
    assert worst_case(backend(max_output_tokens=64), Features(input_tokens=0)).tokens == 65
    assert worst_case(backend(context_window=1_100), Features(input_tokens=1_000)).tokens == 1_251 + 100
    assert worst_case(backend(cost=None), asked).nanos == 0


def test_the_worst_case_on_a_gpu_is_to_have_it_alone() -> None:
    gpu = GpuPrice(gpu_hour_usd=Decimal("3.6"), gpus=2, tokens_per_second=50)
    asked = Features(input_tokens=0, max_output_tokens=100)
    assert worst_case(backend(cost=gpu), asked).nanos == 2 * 2 * 1_000_000


def test_claims_are_on_the_subject_of_each_scope() -> None:
    budgets = [budget(name=scope, scope=scope) for scope in ("policy", "key", "tier", "model")]
    made = claims(budgets, Features(key_id="k1"), "large", backend(), datetime.now(UTC))
    assert [claim.account.subject for claim in made] == ["", "k1", "large", "m"]
    assert [claim.account.name for claim in made] == ["policy", "key", "tier/large", "model/m"]
    assert made[0].limits == (20 * 10**9, None, None)


def test_a_tier_pays_for_its_own_attempts_and_a_policy_for_all() -> None:
    usage = Usage(10, output_tokens=5)
    attempts = (
        Attempt("a", "small", "m1", "error", usage=usage, cost_nanos=3),
        Attempt("b", "large", "m2", "ok", usage=usage, cost_nanos=40),
    )
    now = datetime.now(UTC)
    budgets = [budget(name="all"), budget(name="tiers", scope="tier")]
    granted = tuple(Claim(b, account(b, "large" if b.scope == "tier" else "", now), Amount(50, 50)) for b in budgets)
    charged = charges(Grant(granted), entry(attempts=attempts, cost=43))
    spent = {tuple(name.split("\x1f")[1:3]): unpack_vector(packed) for (_, name), packed in charged.items()}
    assert spent == {("all", ""): (0, 43, 30, 1), ("tiers", "small"): (0, 3, 15, 1), ("tiers", "large"): (0, 40, 15, 1)}


def test_a_request_that_was_refused_is_charged_nothing() -> None:
    granted = (Claim(budget(), account(budget(), "", datetime.now(UTC)), Amount(50, 50)),)
    charged = charges(Grant(granted, exceeded=("cap",)), entry(attempts=(), cost=0))
    assert [unpack_vector(packed) for packed in charged.values()] == [(0, 0, 0, 0)]


@given(st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)), st.integers(60, 90 * 86_400), st.integers(0, 26))
def test_a_window_that_rolls_is_covered_by_its_parts(moment: datetime, seconds: int, leaving: int) -> None:
    now, rolls = moment.replace(tzinfo=UTC).astimezone(BERLIN), budget(per=f"{seconds}s")
    at = account(rolls, "k", now)
    assert at.since <= now < at.until
    assert account(rolls, "k", at.since) == at
    part = (at.until - at.since).total_seconds()
    starts = [int(field.rpartition("\x1f")[2]) for field in (*at.earlier, at.field)]
    assert starts == [at.since.timestamp() - part * ago for ago in range(len(starts) - 1, -1, -1)]
    assert len(starts) <= 25
    assert starts[0] <= now.timestamp() - seconds < starts[1] + part, "no part is missing, and at most one more counts"
    assert at.field not in account(rolls, "k", at.ends).earlier, "and it is gone once it has left"
    leaving = min(leaving, len(at.earlier))
    then = account(rolls, "k", at.until + leaving * (at.until - at.since))
    assert len({at.field, *at.earlier} - {then.field, *then.earlier}) == leaving + 1, "they leave one by one"


@pytest.mark.parametrize("per", ["week", "30s", "100d", "24", ""])
def test_a_window_is_by_the_clock_or_rolls_within_bounds(per: str) -> None:
    with pytest.raises(ValueError, match="expected minute, hour, day or month, or a duration"):
        budget(per=per)
