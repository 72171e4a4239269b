"""The span of a slice: which instants and sessions a request covers, and from where the next one goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import days_of_minutes, keys_of_days, minutes_off_grid, start_of_day
from services.ingest.columns import NO_TIME
from services.ingest.quality import Split
from services.ingest.timeframes import DAY, DAY_MS, TIMEFRAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.ingest.calendar import Sessions
    from services.ingest.columns import BoolArray, Columns, IntArray


class NoProgressError(Exception):
    """A page after which the next request would be the same again."""


@dataclass(frozen=True, slots=True)
class SliceSpan:
    """What is still to be asked of a slice, by the times of stored bars; milliseconds, end exclusive."""

    timeframe: int
    sessions: Sessions
    start_ms: int
    end_ms: int

    @classmethod
    def of(
        cls, timeframe: int, sessions: Sessions, first_day: int, last_day: int, cursor_ms: int | None = None
    ) -> SliceSpan:
        """Makes the span of the days from first_day to last_day, inclusive, or what is left from the cursor on."""
        whole = cls(timeframe, sessions, 0, 0)
        start = whole.start_of(first_day) if cursor_ms is None else cursor_ms
        return replace(whole, start_ms=start, end_ms=whole.start_of(last_day + 1))

    @property
    def daily(self) -> bool:
        return self.timeframe == DAY

    def start_of(self, day: int) -> int:
        """Returns the time of a day's first bar."""
        return day * DAY_MS if self.daily else start_of_day(day, self.sessions.calendar)

    def days(self, ts: IntArray) -> IntArray:
        """Returns the day of each bar's session."""
        return ts // DAY_MS if self.daily else days_of_minutes(ts, self.sessions.calendar)

    def day(self, ts: int) -> int:
        """Returns the day of an instant's session."""
        return int(self.days(np.array([ts], np.int64))[0])

    def keyed(self, bars: Columns) -> tuple[Columns, BoolArray]:
        """Returns the bars with the times they are stored under, and which of them are off the timeframe's grid."""
        if not self.daily:
            return bars, minutes_off_grid(bars.ts)
        missing = bars.ts == NO_TIME
        ts, off_grid = keys_of_days(np.where(missing, 0, bars.ts), self.sessions.calendar)
        return replace(bars, ts=np.where(missing, NO_TIME, ts)), off_grid

    def reached(self, ts: IntArray, *, more: bool, next_ms: int | None) -> int:
        """Returns up to where a page answers, exclusive; ts as stored, next_ms is where the provider goes on.

        Raises NoProgressError: a slice is asked again from there, and would get the same page for ever.
        """
        if not more:
            return self.end_ms
        inside = ts[(ts >= self.start_ms) & (ts < self.end_ms)]
        if not len(inside):
            raise NoProgressError("a page without a bar of the span says that there is more")
        if next_ms is not None and self._key(next_ms) <= self.start_ms:
            raise NoProgressError("the next page begins where this one does")
        return min(int(inside.max()) + TIMEFRAMES[self.timeframe].length_ms, self.end_ms)

    def answered(self, until_ms: int) -> tuple[int, int]:
        """Returns the days, end exclusive, that are answered whole when the slice has come from its start to until_ms.

        The end reaches to the next session, so that runs of sessions join over weekends and holidays.
        """
        first = self.day(self.start_ms)
        if until_ms < self.end_ms:
            return first, max(first, self.day(until_ms))
        return first, self.session_from(self.day(until_ms - 1) + 1)

    def without_last_session(self) -> SliceSpan | None:
        """Returns what lies before the last session; None if nothing does."""
        at = int(np.searchsorted(self.sessions.days, self.day(self.end_ms - 1), "right")) - 1
        end = self.start_of(int(self.sessions.days[at])) if at >= 0 else self.start_ms
        return replace(self, end_ms=end) if end > self.start_ms else None

    def session_from(self, day: int) -> int:
        """Returns the first day with a session from this one on; beyond the calendar every day counts."""
        at = int(np.searchsorted(self.sessions.days, day))
        return int(self.sessions.days[at]) if at < len(self.sessions.days) else day

    def splits(self, known: Iterable[Sequence[float]] | None) -> list[Split]:
        """Returns splits, known by day, split_from and split_to, from when on bars of this timeframe show them."""
        return [Split(self.start_of(int(day)), before, after) for day, before, after in known or ()]

    def _key(self, ms: int) -> int:
        if not self.daily:
            return ms
        return int(keys_of_days(np.array([ms], np.int64), self.sessions.calendar)[0][0])


def runs_without(days: IntArray, held: IntArray) -> list[tuple[int, int]]:
    """Returns first and last day of each run of days, ascending, that are not among those held."""
    empty = np.concatenate([[0], ~np.isin(days, held), [0]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(empty) == 1), np.flatnonzero(np.diff(empty) == -1) - 1
    return list(zip(days[starts].tolist(), days[ends].tolist(), strict=True))
