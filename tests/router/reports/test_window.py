from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from router.reports.window import shifted, window

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
