"""Plans what the schedule fetches of a series: what it lacks, the last sessions again, and sessions in doubt."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from services.ingest.planner import MISSING, Plan, estimated_bars, estimated_requests, plan_series
from services.ingest.timeframes import DAY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.ingest.planner import Range, Series, Slice

OVERLAP_SESSIONS = 3
"""The last sessions are fetched again: bars change after the close, and minutes go on after it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A slice that no worker has now and that may be made longer; it will bring the days from first to end."""

    slice_id: int
    provider_ticker: str
    first: int
    end: int


@dataclass(slots=True)
class ScheduledPlan:
    """What the schedule plans, from first to end; `lengthened` are waiting slices with their new last day."""

    plan: Plan = field(default_factory=Plan)
    lengthened: dict[int, int] = field(default_factory=dict)
    first: int | None = None
    end: int | None = None
    timeframes: set[int] = field(default_factory=set)
    series: int = 0

    def add(self, other: ScheduledPlan) -> None:
        """Takes over what another plan holds."""
        self.plan.add(other.plan)
        self.lengthened |= other.lengthened
        self.first = min((day for day in (self.first, other.first) if day is not None), default=None)
        self.end = max((day for day in (self.end, other.end) if day is not None), default=None)
        self.timeframes |= other.timeframes
        self.series += other.series


def plan_scheduled(
    series: Series, days: Sequence[int], end: int, *, asked_until: int | None = None, waiting: Sequence[Waiting] = ()
) -> ScheduledPlan:
    """Plans one series up to `end`, exclusive, over the sessions `days`, ascending.

    It begins where the series was asked last (`asked_until`, exclusive), so that days missed since come along, or
    OVERLAP_SESSIONS before the end; a series that was never asked begins there, too: its history is for backfills.
    """
    stop = bisect_left(days, end)
    first = max(0, stop - OVERLAP_SESSIONS)
    if asked_until is not None:
        first = min(first, bisect_left(days, asked_until))
    small = {one.slice_id for one in waiting}
    near = [one for one in series.open_slices if one.slice_id in small]
    planned = ScheduledPlan(
        plan_series(replace(asked_anew(series), open_slices=near), MISSING, days, days[first], end),
        first=days[first],
        end=end,
        timeframes={series.timeframe},
        series=1,
    )
    planned.plan.skipped.clear()
    _lengthen(planned, days, waiting)
    return planned


def asked_anew(series: Series) -> Series:
    """Returns a series as if it had never been asked; what was deleted stays so."""
    return replace(series, asked=(), outside_plan=())


def _lengthen(planned: ScheduledPlan, days: Sequence[int], waiting: Sequence[Waiting]) -> None:
    """Lets waiting slices take over new ones that go on where they end, as long as one request brings them."""
    rest = []
    for new in planned.plan.slices:
        longer = next((one for one in waiting if _goes_on(one, new, days)), None)
        if longer is None:
            rest.append(new)
            continue
        planned.lengthened[longer.slice_id] = new.last
        if longer.slice_id not in planned.plan.shared:
            planned.plan.shared.append(longer.slice_id)
            planned.plan.shared_requests += 1
    planned.plan.slices = rest


def _goes_on(waiting: Waiting, new: Slice, days: Sequence[int]) -> bool:
    begin, end, start = (bisect_left(days, day) for day in (waiting.first, waiting.end, new.first))
    sessions = start - begin + new.sessions
    return (
        waiting.provider_ticker == new.provider_ticker
        and end == start
        and estimated_requests(estimated_bars(new.asset_class, new.timeframe, sessions)) == 1
    )


def requests_a_day(timeframe: int, series: int) -> int:
    """Returns how many requests keep so many series of one market fresh: one each, or one for each day of it."""
    return min(series, OVERLAP_SESSIONS) if timeframe == DAY else series


def fits_one_request(asset_class: int, timeframe: int, days: int) -> bool:
    """Says whether one request brings so many days of a series."""
    return estimated_requests(estimated_bars(asset_class, timeframe, days)) == 1


def spans_to_ask(runs: Iterable[Range], asset_class: int, timeframe: int) -> list[Range]:
    """Joins runs of days in doubt as long as one request brings what lies between them, too."""
    spans: list[Range] = []
    for first, end in sorted(runs):
        if spans and fits_one_request(asset_class, timeframe, end - spans[-1][0]):
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((first, end))
    return spans
