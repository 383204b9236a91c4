from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.reports.window import Window, shifted, window

NOW = datetime(2026, 11, 22, 7, 30, tzinfo=UTC)
KOLKATA = ZoneInfo("Asia/Kolkata")


@pytest.mark.parametrize(
    ("since", "until", "shown"),
    [
        ("24h", None, "2026-11-21 07:00 to 2026-11-22 08:00 UTC"),
        ("7d", "1d", "2026-11-15 07:00 to 2026-11-21 08:00 UTC"),
        ("today", None, "2026-11-22 00:00 to 2026-11-22 08:00 UTC"),
        ("yesterday", "today", "2026-11-21 00:00 to 2026-11-22 00:00 UTC"),
        ("month", None, "2026-11-01 00:00 to 2026-11-22 08:00 UTC"),
        ("2026-11-01", "2026-11-02", "2026-11-01 00:00 to 2026-11-02 00:00 UTC"),
        ("2026-11-01T09:30", "now", "2026-11-01 09:00 to 2026-11-22 08:00 UTC"),
        ("2026-11-01T09:30+02:00", "now", "2026-11-01 07:00 to 2026-11-22 08:00 UTC"),
    ],
)
def test_windows_as_people_say_them(since: str, until: str | None, shown: str) -> None:
    assert str(window(since, until, NOW)) == shown


def test_a_day_is_that_of_the_zone_rounded_outward_to_whole_hours() -> None:
    found = window("2026-11-20", "2026-11-21", NOW.astimezone(KOLKATA))
    assert len(found.hours) == 25, "a zone at half past shares its first and last hour"
    assert found.since.isoformat() == "2026-11-19T23:30:00+05:30"


@pytest.mark.parametrize("text", ["tomorrow-ish", "24", "2026-13-01", ""])
def test_what_is_no_time_is_told_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected an ISO date or time .* a duration back from now"):
        window(text, None, NOW)


def test_a_window_ends_after_it_begins() -> None:
    with pytest.raises(ValueError, match="ends before it begins"):
        window("1d", "2d", NOW)


def test_a_shifted_window_is_as_long() -> None:
    one = window("24h", None, NOW)
    other = shifted(one, window("2026-10-01", None, NOW).since)
    assert str(other) == "2026-10-01 00:00 to 2026-10-02 01:00 UTC"


@pytest.mark.parametrize("since", ["999999999d", "99999999999999999999d", "9999-12-31T23:59"])
def test_a_time_beyond_the_calendar_is_refused(since: str) -> None:
    with pytest.raises(ValueError, match=r"no such time|ends before it begins"):
        window(since, None, NOW.astimezone(KOLKATA))


def test_what_was_asked_for_is_said_where_it_was_rounded() -> None:
    (said,) = window("2026-11-20T09:30", "2026-11-21T10:15", NOW).remarks()
    assert said == (
        "asked for 2026-11-20 09:30 to 2026-11-21 10:15, summed over whole UTC hours: "
        "2026-11-20 09:00 to 2026-11-21 11:00 UTC"
    )
    for since, until in (
        ("2026-11-20", "2026-11-21T10:00"),
        ("2026-11-20T09:00", None),
        ("today", "now"),
        ("24h", "1h"),
    ):
        assert window(since, until, NOW).remarks() == ()
    assert window("today", None, NOW.astimezone(KOLKATA)).remarks(), "midnight there lies within an hour of UTC"


def test_a_window_whose_end_lies_where_sums_are_kept_by_day_is_widened_to_days_and_says_so() -> None:
    before = int(datetime(2026, 10, 18, tzinfo=UTC).timestamp()) // 3600
    asked = window("2026-10-02T09:30", "2026-11-20T05:00", NOW)
    summed = asked.over_days(before)
    assert str(summed) == "2026-10-02 00:00 to 2026-11-20 05:00 UTC"
    assert summed.remarks("tier") == (
        "asked for 2026-10-02 09:30 to 2026-11-20 05:00, summed over whole UTC hours, and before 2026-10-18 UTC days: "
        "2026-10-02 00:00 to 2026-11-20 05:00 UTC",
    )
    assert "each day's stand at its first hour" in summed.remarks(("hour",))[1]
    both = window("2026-10-02T09:00", "2026-10-03T01:00", NOW).over_days(before)
    assert str(both) == "2026-10-02 00:00 to 2026-10-04 00:00 UTC"
    assert both.asked is not None
    later = window("2026-10-18", "2026-10-19T05:00", NOW)
    assert later.over_days(before).hours == later.hours
    assert later.over_days(before).remarks(("hour",)) == ()
    there = window("2026-10-02", "2026-10-03", NOW.astimezone(KOLKATA)).over_days(before)
    assert len(there.hours) == 48
    assert len(there.remarks(("day",))) == 2


@given(st.integers(0, 5_000), st.integers(1, 3_000), st.integers(0, 300))
def test_a_widened_window_covers_what_was_asked_and_cuts_no_day_that_is_whole(start: int, hours: int, day: int) -> None:
    since = datetime.fromtimestamp(start * 3600, UTC)
    asked = Window(since, since + timedelta(hours=hours))
    summed = asked.over_days(24 * day)
    assert summed.hours.start <= asked.hours.start < asked.hours.stop <= summed.hours.stop
    assert all(edge % 24 == 0 for edge in (summed.hours.start, summed.hours.stop) if edge < 24 * day)
    assert len(summed.hours) - len(asked.hours) <= 46
