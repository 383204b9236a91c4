from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.values import Counterfactual, Entry, Usage
from router.ledger.sums import RARE_TOKENS, REALS, held, merge_packed
from router.ledger.tallying import pack_entries, spent
from router.reports import DIMENSIONS, Report, report, window
from router.reports.comparison import change, compared, pairs
from tests.router.ledger.entries import NOON, entries, entry

WINDOW = window("2026-11-22T12:00", "2026-11-22T16:00", datetime(2026, 11, 23, tzinfo=UTC))


def made(entries: Sequence[Entry], *by: str, extra: object = None) -> Report:
    packed = merge_packed(pack_entries(entries), extra or {})  # type: ignore[arg-type]
    return report([(hour, name, sums) for (hour, name), sums in packed.items()], WINDOW, by or ("tier",))


@settings(max_examples=30, deadline=None)
@given(st.lists(entries, max_size=4), st.lists(st.sampled_from(DIMENSIONS), min_size=1, max_size=3, unique=True))
def test_rows_add_up_to_the_total_and_the_total_to_the_entries(recorded: list[Entry], by: list[str]) -> None:
    found = made(recorded, *by)
    assert found.total.cost_nanos == sum(map(spent, recorded))
    assert found.total.requests == len(recorded)
    for name in (
        "requests",
        "cost_nanos",
        "saving_nanos",
        "baseline_nanos",
        "wasted_nanos",
        "output_tokens",
        "attempts",
    ):
        assert sum(getattr(row, name) for row in found.rows) == getattr(found.total, name)


def test_percentiles_are_those_of_all_entries_whatever_they_are_grouped_by() -> None:
    random.seed(5)
    times = [random.lognormvariate(5, 1) for _ in range(2_000)]
    recorded = [entry(str(i), at=NOON + i, key=f"k{i % 7}", total_ms=ms) for i, ms in enumerate(times)]
    found = made(recorded, "hour").total.latencies["total"]
    assert found is not None
    for share, value in zip((0.5, 0.95, 0.99), found, strict=True):
        assert value == pytest.approx(sorted(times)[ceil(share * len(times)) - 1], rel=0.01)


def test_the_dearest_come_first_and_time_goes_forward() -> None:
    recorded = [entry("a", cost=1, tier="small"), entry("b", cost=9, tier="large"), entry("c", at=NOON + 3600, cost=50)]
    assert [row.group for row in made(recorded, "tier").rows] == [("small",), ("large",)]
    assert [row.group[0] for row in made(recorded, "hour").rows] == ["2026-11-22 12:00", "2026-11-22 13:00"]
    assert [row.group for row in made(recorded, "day", "tier").rows] == [
        ("2026-11-22", "large"),
        ("2026-11-22", "small"),
    ]


def test_what_lies_outside_the_window_is_not_in_it() -> None:
    recorded = [entry("before", at=NOON - 1), entry("in", at=NOON), entry("after", at=NOON + 4 * 3600)]
    assert made(recorded).total.requests == 1


def test_a_negative_saving_is_negative() -> None:
    found = made([entry(cost=9_000, baseline=1_000)])
    assert found.total.saving_nanos == -8_000
    assert found.total.saving_share == -8
    assert found.total.interval is None or found.total.interval.low_nanos <= -8_000


def test_unpriced_and_estimated_requests_are_stated_by_count_and_share() -> None:
    guessed = replace(entry("g"), usage=replace(entry().usage, measured=False))
    found = made([entry("a"), entry("u", cost=None), guessed, entry("b")])
    assert found.total.cost_nanos == 3_000
    assert found.notes == (
        "1 requests (25.0%) are unpriced: their cost is unknown, not in these sums",
        "1 requests (25.0%) are billed on estimated, not measured, tokens",
    )


def test_nothing_recorded_is_a_report_of_nothing() -> None:
    found = made([])
    assert (found.rows, found.total.requests, found.total.saving_share, found.total.interval) == ((), 0, None, None)
    assert found.total.latencies["total"] is None


def test_a_dimension_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="cannot report by 'colour'; expected one of tier, model"):
        made([], "colour")


def test_the_interval_of_a_saving_covers_it_and_narrows_with_more_requests() -> None:
    random.seed(11)

    def recorded(count: int) -> list[Entry]:
        costs = (random.randint(1_000_000, 9_000_000) for _ in range(count))
        return [entry(str(i), cost=cost, baseline=10_000_000) for i, cost in enumerate(costs)]

    few, many = made(recorded(50)), made(recorded(3_000))
    for found in (few, many):
        assert found.total.interval is not None
        assert found.total.interval.low_nanos < found.total.saving_nanos < found.total.interval.high_nanos
        assert found.total.interval.low_share < (found.total.saving_share or 0) < found.total.interval.high_share
    assert few.total.interval is not None
    assert many.total.interval is not None
    width = many.total.interval.high_share - many.total.interval.low_share
    assert width < (few.total.interval.high_share - few.total.interval.low_share) / 4


def test_the_interval_covers_the_true_saving_about_95_times_in_100() -> None:
    """Each trial draws its own requests; the true expected saving share is (10 − 5) / 10."""
    random.seed(3)
    covered = 0
    for _ in range(200):
        costs = [random.choice([1_000_000, 9_000_000]) for _ in range(150)]
        found = made([entry(str(i), cost=cost, baseline=10_000_000) for i, cost in enumerate(costs)]).total.interval
        assert found is not None
        covered += found.low_share <= 0.5 <= found.high_share
    assert 0.89 <= covered / 200 <= 0.99


def test_a_row_s_interval_is_what_the_bootstrap_s_tends_to() -> None:
    """The one row of a report by nothing is its total, whose interval the bootstrap gives."""
    random.seed(2)
    drawn = ((random.randint(1, 9_000_000), random.choice([10_000_000, 30_000_000])) for _ in range(4_000))
    found = made([entry(str(i), cost=cost, baseline=baseline) for i, (cost, baseline) in enumerate(drawn)])
    (row,), total = found.rows, found.total
    assert row.interval is not None
    assert total.interval is not None
    for name in ("low_nanos", "high_nanos", "low_share", "high_share"):
        width = getattr(total.interval, name.replace("low", "high")) - getattr(
            total.interval, name.replace("high", "low")
        )
        assert getattr(row.interval, name) == pytest.approx(getattr(total.interval, name), abs=0.15 * width)


def test_a_row_s_interval_covers_the_true_saving_about_95_times_in_100() -> None:
    random.seed(4)
    covered = 0
    for _ in range(300):
        costs = [random.choice([1_000_000, 9_000_000]) for _ in range(40)]
        (row,) = made([entry(str(i), cost=cost, baseline=10_000_000) for i, cost in enumerate(costs)]).rows
        assert row.interval is not None
        covered += row.interval.low_share <= 0.5 <= row.interval.high_share
    assert 0.91 <= covered / 300 <= 0.98


def test_a_row_of_few_requests_or_of_one_that_outweighs_all_others_has_no_interval() -> None:
    few = [entry(f"f{i}", tier="few") for i in range(9)]
    many = [entry(f"m{i}", tier="many") for i in range(10)]
    heavy = [entry(f"h{i}", tier="heavy", baseline=10**9 if i else 10**12) for i in range(50)]
    rows = {row.group[0]: row for row in made(few + many + heavy).rows}
    assert {name: row.interval is not None for name, row in rows.items()} == {
        "few": False,
        "many": True,
        "heavy": False,
    }


def test_rare_kinds_of_tokens_are_added_up_too_and_tallies_from_before_them_hold_none() -> None:
    usage = Usage(900, 10, 20, 800, 5, cache_write_1h_tokens=8, audio_input_tokens=30, audio_output_tokens=40,
                  image_input_tokens=50, image_output_tokens=60)  # fmt: skip
    sums = list(pack_entries([entry(str(i), usage=usage) for i in range(3)]).items())
    older = [(hour, name, packed[: -8 * len(REALS) - 1]) for (hour, name), packed in sums if name[0] != "="]
    found = report([*older, *((hour, name, packed) for (hour, name), packed in sums)], WINDOW, ("tier",))
    assert found.total.output_tokens == 2 * 3 * 800
    assert [getattr(found.total, name) for name in RARE_TOKENS] == [3 * 8, 3 * 30, 3 * 40, 3 * 50, 3 * 60]


def test_requests_that_were_compared_at_ratio_1_for_want_of_evidence_are_counted() -> None:
    assumed = [replace(entry(str(i)), counterfactual=Counterfactual("gpt", assumed=True)) for i in range(3)]
    unpriced = replace(entry("u", cost=None), counterfactual=Counterfactual("gpt", assumed=True))
    found = made([*assumed, unpriced, replace(entry("k"), counterfactual=Counterfactual("gpt", output_ratio=1.5))])
    assert found.total.assumed == 3
    assert any("3 requests (60.0%) are compared at ratio 1" in note for note in found.notes)


def test_the_gpu_bill_closes_over_any_window() -> None:
    recorded = [entry(str(i), at=NOON + i * 60, cost=10**7, backend="gpu-1") for i in range(90)]
    rate = 1_100_000_007
    extra = merge_packed(held("gpu-1", rate, NOON, NOON + 5_399), held("gpu-1", rate, NOON + 1_800, NOON + 7_000))
    (bill,) = made(recorded, extra=extra).gpus
    assert bill.seconds == 7_001
    assert bill.billed_nanos == rate * 7_001 // 3600
    assert bill.paid_nanos == 90 * 10**7
    assert bill.paid_nanos + bill.idle_nanos == bill.billed_nanos
    assert bill.nanos_per_mtok(busy=True) == 90 * 10**7 * 10**6 // (90 * 20)
    assert bill.nanos_per_mtok(busy=False) == bill.billed_nanos * 10**6 // (90 * 20)


def test_a_gpu_that_nobody_used_is_all_idle() -> None:
    (bill,) = made([], extra=held("gpu-1", 3_600_000_000, NOON, NOON + 9)).gpus
    assert (bill.idle_nanos, bill.nanos_per_mtok(busy=True)) == (10_000_000, None)


def test_two_windows_side_by_side() -> None:
    before = made([entry("a", cost=100, tier="small"), entry("b", cost=50, tier="code")])
    now = made([entry("c", cost=150, tier="small"), entry("d", cost=7, tier="large")])
    plain = compared(before, now)
    groups: dict[str, object] = defaultdict(dict, {row["tier"]: row["cost_nanos"] for row in plain["rows"]})
    assert groups == {
        "small": {"before": 100, "now": 150},
        "large": {"before": 0, "now": 7},
        "code": {"before": 50, "now": 0},
    }
    assert plain["total"]["cost_nanos"] == {"before": 150, "now": 157}
    assert pairs(before, now)[-1].numbers("requests") == (2, 2)
    assert [change(100, 150), change(0, 7), change(50, 0), change(1, 1)] == ["+50.0%", "new", "-100.0%", ""]
