"""The days and windows of Polygon's aggregates, in the wall-clock time of the ticker's market."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from datetime import tzinfo

NEW_YORK = ZoneInfo("America/New_York")
TIMESPANS = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
MINUTES = {"minute": 1, "hour": 60}
MONTHS = {"month": 1, "quarter": 3, "year": 12}
STOCKS_OPEN = 4 * 60  # minutes after midnight: the first of the pre-market, from which long windows count


def zone_of(ticker: str) -> tzinfo:
    """Returns the zone whose days the ticker's bars follow."""
    return UTC if ticker.startswith("X:") else NEW_YORK


def session_of(instant: int, zone: tzinfo = NEW_YORK) -> date:
    """Returns the date of an instant in milliseconds since 1970."""
    return datetime.fromtimestamp(instant / 1000, zone).date()


def midnight(day: date, zone: tzinfo) -> int:
    """Returns the millisecond at which a day begins."""
    return instant_of(datetime.combine(day, time()), zone)


def day_end(day: date, zone: tzinfo) -> int:
    """Returns the last millisecond of a day."""
    return midnight(day + timedelta(days=1), zone) - 1


def instant_of(local: datetime, zone: tzinfo) -> int:
    """Returns the milliseconds since 1970 of a wall-clock time."""
    return int(local.replace(tzinfo=zone).timestamp()) * 1000


def base_timespan(timespan: str) -> str:
    """Returns which recorded bars a timespan is made of; there are none for seconds."""
    return {"second": "second", "minute": "minute", "hour": "minute"}.get(timespan, "day")


def window(instant: int, multiplier: int, timespan: str, zone: tzinfo) -> tuple[int, int]:
    """Returns the window [start, end) that holds an instant, all in milliseconds since 1970."""
    if timespan == "second":
        start = instant - instant % (multiplier * 1000)
        return start, start + multiplier * 1000
    local = datetime.fromtimestamp(instant / 1000, zone).replace(tzinfo=None)
    if timespan in MINUTES:
        anchor = timedelta(minutes=0 if zone is UTC else STOCKS_OPEN)
        return _minutes_window(local, timedelta(minutes=multiplier * MINUTES[timespan]), anchor, zone)
    first, following = _days_window(local.date(), multiplier, timespan)
    return midnight(first, zone), midnight(following, zone)


def _minutes_window(local: datetime, length: timedelta, anchor: timedelta, zone: tzinfo) -> tuple[int, int]:
    opening = datetime.combine(local.date(), time()) + anchor
    begin = opening + (local - opening) // length * length
    return instant_of(begin, zone), instant_of(begin + length, zone)


def _days_window(day: date, multiplier: int, timespan: str) -> tuple[date, date]:
    if timespan in MONTHS:
        length = multiplier * MONTHS[timespan]
        begin = (day.year * 12 + day.month - 1) // length * length
        return _month(begin), _month(begin + length)
    length = multiplier * (7 if timespan == "week" else 1)  # an ordinal that 7 divides is a Sunday
    begin = day.toordinal() // length * length
    return date.fromordinal(begin), date.fromordinal(begin + length)


def _month(index: int) -> date:
    return date(index // 12, index % 12 + 1, 1)
