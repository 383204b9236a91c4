"""The window of time that a report is about, as people say it.

Windows are whole UTC hours, because sums are kept by them, and where the store keeps them by UTC day, whole days: what
people ask for is rounded outward to what is summed, and the report says both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo

from policies import durations

_WORDS = (
    "an ISO date or time (2026-11-01, 2026-11-01T09:00), a duration back from now (24h, 7d), today, yesterday or month"
)


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open range of whole hours, both ends in the report's time zone.

    ``asked`` is what was asked for, where that was something else, and ``days_before`` the hour since 1970 before which
    sums are known by UTC day only (0: none are).
    """

    since: datetime
    until: datetime
    asked: tuple[datetime, datetime] | None = None
    days_before: int = 0

    @property
    def hours(self) -> range:
        """The hours since 1970, UTC, that it covers."""
        return range(int(self.since.timestamp()) // 3600, int(self.until.timestamp()) // 3600)

    def over_days(self, before: int) -> Window:
        """The window where sums are kept by UTC day before an hour since 1970: an end that lies there moves outward."""
        hours = self.hours
        start = hours.start // 24 * 24 if hours.start < before else hours.start
        stop = -(-hours.stop // 24) * 24 if hours.stop < before else hours.stop
        since, until = (datetime.fromtimestamp(hour * 3600, self.since.tzinfo) for hour in (start, stop))
        asked = self.asked or (None if (start, stop) == (hours.start, hours.stop) else (self.since, self.until))
        return replace(self, since=since, until=until, asked=asked, days_before=before)

    def remarks(self, by: Sequence[str] = ()) -> tuple[str, ...]:
        """What a report by some dimensions is to say of it: how it was rounded, and what is known by day only."""
        said = []
        by_day = self.hours.start < self.days_before
        days = datetime.fromtimestamp(self.days_before * 3600, UTC)
        if self.asked is not None:
            since, until = self.asked
            units = f"UTC hours, and before {days:%Y-%m-%d} UTC days" if by_day else "UTC hours"
            said.append(
                f"asked for {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}, summed over whole {units}: {self}"
            )
        if by_day and ("hour" in by or ("day" in by and self.since.utcoffset())):
            said.append(
                f"before {days:%Y-%m-%d} sums are kept by UTC day: each day's stand at its first hour, 00:00 UTC"
            )
        return tuple(said)

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} {self.until:%Z}"


def window(since: str, until: str | None, now: datetime) -> Window:
    """Read the two ends, outward to whole hours; ``now`` carries the report's time zone and is the default end.

    What is counted back from now is counted in hours, so that rounding it needs no words.
    Raises `ValueError` that names what is accepted.
    """
    zone = now.tzinfo
    try:
        asked = _moment(since, now), _moment(until, now) if until else now
        start, end = _whole_hour(asked[0], up=False), _whole_hour(asked[1], up=True)
    except OverflowError:
        raise ValueError(f"there is no such time: {since} to {until or 'now'}") from None
    if start >= end:
        raise ValueError(f"the window ends before it begins: {since} is not before {until or 'now'}")
    named = start if _is_ago(since) else asked[0], end if _is_ago(until or "now") else asked[1]
    return Window(start.astimezone(zone), end.astimezone(zone), None if named == (start, end) else named)


def shifted(window: Window, since: datetime) -> Window:
    """A window of the same length that begins at ``since``, or with the whole hour that it lies in."""
    start = _whole_hour(since, up=False)
    return Window(start, start + (window.until - window.since))


def _moment(text: str, now: datetime) -> datetime:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": _days_before(midnight, 1), "month": midnight.replace(day=1)}
    if text in named:
        return named[text]
    try:
        return now - durations.parse(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time; expected {_WORDS}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def _is_ago(text: str) -> bool:
    try:
        durations.parse(text)
    except ValueError:
        return text == "now"
    return True


def _days_before(midnight: datetime, days: int) -> datetime:
    return midnight - timedelta(days=days)


def _whole_hour(moment: datetime, *, up: bool) -> datetime:
    """Rounded on UTC's hours, which half-hour zones do not share."""
    seconds = moment.timestamp()
    hours = -(-seconds // 3600) if up else seconds // 3600
    return datetime.fromtimestamp(hours * 3600, tz=_zone(moment))


def _zone(moment: datetime) -> tzinfo | None:
    return moment.tzinfo
