"""Sessions and wall clocks: which session a bar belongs to, and where bars may start.

Instants are milliseconds since 1970 UTC. Wall times are the reading of a New York clock, counted the same way. Days are
numbered from 1970-01-01, so that day * DAY_MS is the key of that session's daily bar.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from services.ingest.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from services.kit.tickers import CRYPTO

if TYPE_CHECKING:
    from services.ingest.columns import BoolArray, IntArray

# The names of calendars in ingest.sessions.
XNYS = "XNYS"
EVERY_DAY = "24/7"

_NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = date(1970, 1, 1)
_FIRST_YEAR, _LAST_YEAR = 1970, 2060


def calendar_of(asset_class: int) -> str:
    """Returns the name of the calendar by which symbols of a class trade."""
    return EVERY_DAY if asset_class == CRYPTO else XNYS


def day_of(day: date) -> int:
    """Returns the number of a date."""
    return (day - _EPOCH).days


def date_of(day: int) -> date:
    """Returns the date with this number."""
    return _EPOCH + timedelta(days=day)


def weekday(day: int) -> int:
    """Returns how many days have passed since Monday; 1970-01-01 was a Thursday."""
    return (day + 3) % 7


def _offset_ms(ts: int) -> int:
    """Returns how far New York's clock is ahead of UTC at an instant: a negative whole number of hours."""
    offset = datetime.fromtimestamp(ts / 1000, UTC).astimezone(_NEW_YORK).utcoffset() or timedelta()
    return round(offset.total_seconds()) * 1000


@cache
def _changes() -> tuple[IntArray, IntArray]:
    """Returns the instants at which New York's clock is set, and its offset from each on (the first from always)."""
    first = day_of(date(_FIRST_YEAR, 1, 1)) * DAY_MS
    instants, offsets = [first], [_offset_ms(first)]
    for week in range(first, day_of(date(_LAST_YEAR, 1, 1)) * DAY_MS, WEEK_MS):
        if _offset_ms(week + WEEK_MS) != offsets[-1]:
            hours = range(week, week + WEEK_MS + 1, HOUR_MS)
            instants.append(next(hour for hour in hours if _offset_ms(hour) != offsets[-1]))
            offsets.append(_offset_ms(instants[-1]))
    return np.array(instants, np.int64), np.array(offsets, np.int64)


def to_wall(ts: IntArray) -> IntArray:
    """Reads New York's clock at these instants."""
    instants, offsets = _changes()
    return ts + offsets[np.maximum(np.searchsorted(instants, ts, "right") - 1, 0)]


def from_wall(wall: IntArray) -> IntArray:
    """Returns the instants of wall times; of two with one reading (a clock set back) the earlier one."""
    instants, offsets = _changes()
    later = instants[1:] + np.maximum(offsets[:-1], offsets[1:])
    return wall - offsets[np.searchsorted(later, wall, "right")]


def days_of_minutes(ts: IntArray, calendar: str) -> IntArray:
    """Returns the day of each minute's session: New York's date (extended hours, too), or UTC's for crypto."""
    days: IntArray = (ts if calendar == EVERY_DAY else to_wall(ts)) // DAY_MS
    return days


def start_of_day(day: int, calendar: str) -> int:
    """Returns the instant at which the minutes of a day begin; the day before ends there."""
    return int(starts_of_days(np.array([day], np.int64), calendar)[0])


def starts_of_days(days: IntArray, calendar: str) -> IntArray:
    """Returns the instants at which the minutes of these days begin."""
    wall = days * DAY_MS
    return wall if calendar == EVERY_DAY else from_wall(wall)


def keys_of_days(ts: IntArray, calendar: str) -> tuple[IntArray, BoolArray]:
    """Returns 00:00Z of the session date for daily bars that are timed by midnight of their market, and who is not."""
    wall = ts if calendar == EVERY_DAY else to_wall(ts)
    off_grid: BoolArray = wall % DAY_MS != 0
    return wall - wall % DAY_MS, off_grid


def minutes_off_grid(ts: IntArray) -> BoolArray:
    """Says which instants are no start of a minute."""
    off_grid: BoolArray = ts % MINUTE_MS != 0
    return off_grid


@dataclass(frozen=True, slots=True, eq=False)
class Sessions:
    """Holds all sessions of a calendar, ascending: days, and instants of opening (inclusive) and close (exclusive)."""

    calendar: str
    days: IntArray
    open_ms: IntArray
    close_ms: IntArray

    @property
    def horizon(self) -> int:
        """Returns the first day that the calendar knows nothing about."""
        return int(self.days[-1]) + 1

    def count(self, first_day: int, end_day: int) -> int:
        """Counts sessions from first_day, inclusive, to end_day, exclusive."""
        first, end = np.searchsorted(self.days, [first_day, max(first_day, end_day)])
        return int(end - first)

    def held(self, days: IntArray) -> int:
        """Counts the sessions among these days, each once."""
        return int(np.isin(self.days, days).sum())

    def held_of_distinct(self, days: IntArray) -> int:
        """Counts the sessions among days of which no two are the same; a fifth of the time of `held` for a few."""
        return int((np.searchsorted(self.days, days, "right") - np.searchsorted(self.days, days)).sum())

    def days_within(self, start_ms: int, end_ms: int, *, daily: bool) -> tuple[int, int]:
        """Returns the first day and the end day (exclusive) of the sessions that a span of bars touches.

        Of daily bars these are the sessions whose dates lie in it, of minutes those whose regular hours it meets.
        """
        if daily:
            return start_ms // DAY_MS, -(-end_ms // DAY_MS)
        first = int(np.searchsorted(self.close_ms, start_ms, "right"))
        end = int(np.searchsorted(self.open_ms, end_ms))
        if first >= end:
            return 0, 0
        return int(self.days[first]), int(self.days[end - 1]) + 1

    def regular(self, ts: IntArray) -> BoolArray:
        """Says which instants lie in the regular hours of a session."""
        index = np.searchsorted(self.open_ms, ts, "right") - 1
        inside: BoolArray = (index >= 0) & (ts < self.close_ms[index])
        return inside

    def bounds(self, ts: IntArray) -> tuple[IntArray, IntArray]:
        """Returns opening and close of the sessions that these regular instants lie in."""
        index = np.searchsorted(self.open_ms, ts, "right") - 1
        return self.open_ms[index], self.close_ms[index]
