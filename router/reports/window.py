"""The window of time that a report is about, as people say it. Windows are whole hours, because rollups are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from policies import durations

_WORDS = (
    "an ISO date or time (2026-11-01, 2026-11-01T09:00), a duration back from now (24h, 7d), today, yesterday or month"
)


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open range of whole hours, both ends in the report's time zone."""

    since: datetime
    until: datetime

    @property
    def hours(self) -> range:
        """The hours since 1970, UTC, that it covers."""
        return range(int(self.since.timestamp()) // 3600, int(self.until.timestamp()) // 3600)

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} {self.until:%Z}"


def window(since: str, until: str | None, now: datetime) -> Window:
    """Read the two ends, outward to whole hours; ``now`` carries the report's time zone and is the default end.

    Raises `ValueError` that names what is accepted.
    """
    zone = now.tzinfo
    try:
        start = _whole_hour(_moment(since, now), up=False)
        end = _whole_hour(_moment(until, now) if until else now, up=True)
    except OverflowError:
        raise ValueError(f"there is no such time: {since} to {until or 'now'}") from None
    if start >= end:
        raise ValueError(f"the window ends before it begins: {since} is not before {until or 'now'}")
    return Window(start.astimezone(zone), end.astimezone(zone))


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


def _days_before(midnight: datetime, days: int) -> datetime:
    return midnight - timedelta(days=days)


def _whole_hour(moment: datetime, *, up: bool) -> datetime:
    """Rounded on UTC's hours, which half-hour zones do not share."""
    seconds = moment.timestamp()
    hours = -(-seconds // 3600) if up else seconds // 3600
    return datetime.fromtimestamp(hours * 3600, tz=_zone(moment))


def _zone(moment: datetime) -> tzinfo | None:
    return moment.tzinfo
