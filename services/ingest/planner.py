"""Plans a backfill: which sessions of a series are fetched, in which slices, and what that takes.

Days are numbered from 1970-01-01; a range of days is (first, end), end exclusive. Inside, ranges are of positions in
the calendar's list of sessions, so that days without a session neither cut a slice nor make one.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from services.ingest.timeframes import DAY, MINUTE
from services.kit.tickers import CRYPTO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MISSING, REFETCH = 1, 2

Range = tuple[int, int]
Ranges = tuple[Range, ...]

PAGE_BARS = 50_000
"""The most bars that one request brings."""

_MINUTES_STOCK, _MINUTES_CRYPTO = 600, 1440
"""Minutes with a trade in a session: of a stock that trades well, extended hours included; crypto, all of them."""

BYTES_PER_BAR = 140
"""133 to 135 in the table and its index (measured), and a little for what is kept about it."""

SECONDS_PER_REQUEST = 0.3
BARS_PER_SECOND = 150_000
"""What the work takes where no limit of requests holds it back."""

LIMITER_SECONDS = 62.0
"""A slot of the limiter is granted again after so long."""


@dataclass(frozen=True, slots=True)
class TickerSpan:
    """What the provider calls a symbol during these days."""

    first: int
    end: int
    provider_ticker: str


@dataclass(frozen=True, slots=True)
class OpenSlice:
    """Says which days an unfinished slice of another job will still bring."""

    slice_id: int
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What the planner knows of a series."""

    symbol_id: int
    asset_class: int
    ticker: str
    timeframe: int
    tickers: Sequence[TickerSpan]
    listed: int | None = None
    """The first day on which it traded, where that is known."""
    asked: Ranges = ()
    outside_plan: Ranges = ()
    deleted: Ranges = ()
    open_slices: Sequence[OpenSlice] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """A span of one series, under one provider ticker; first and last are days with a session.

    `sessions` are those in which it may have traded.
    """

    symbol_id: int
    asset_class: int
    timeframe: int
    provider_ticker: str
    first: int
    last: int
    sessions: int

    @property
    def bars(self) -> int:
        return estimated_bars(self.asset_class, self.timeframe, self.sessions)

    @property
    def requests(self) -> int:
        return estimated_requests(self.bars)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A series of which something is not planned, and why."""

    symbol_id: int
    ticker: str
    timeframe: int
    reason: str
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class MarketDay:
    """A session of a whole market: 1 is that of stocks, ETFs included; 3 that of crypto."""

    market: int
    day: int


@dataclass(slots=True)
class Plan:
    """What a backfill takes."""

    slices: list[Slice] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)
    shared_requests: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    sessions_held: int = 0
    by_day: list[Slice] = field(default_factory=list)
    """What whole days of the market bring instead of slices of its own."""
    days: list[MarketDay] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(planned.requests for planned in self.slices) + len(self.days)

    @property
    def bars(self) -> int:
        return sum(planned.bars for planned in self.slices) + sum(planned.bars for planned in self.by_day)

    @property
    def bytes(self) -> int:
        return self.bars * BYTES_PER_BAR

    def add(self, other: Plan) -> None:
        """Takes over what another plan holds."""
        self.slices += other.slices
        self.shared += other.shared
        self.shared_requests += other.shared_requests
        self.skipped += other.skipped
        self.sessions_held += other.sessions_held


def plan_series(series: Series, mode: int, days: Sequence[int], first: int, end: int) -> Plan:
    """Plans one series over the sessions (`days`, ascending) from first, inclusive, to end, exclusive."""
    plan = Plan()
    span = _positions([(first, end)], days)
    if not span:
        _skip(plan, series, "no closed session in the span")
        return plan
    wanted = intersect(span, _positions([(one.first, one.end) for one in series.tickers], days))
    _skip_sessions(plan, series, "no ticker of the symbol is known", subtract(span, wanted), days)
    if mode == MISSING:
        wanted = _without_known(plan, series, wanted, days)
    for one in series.open_slices:
        covered = intersect(wanted, _positions([(one.first, one.end)], days))
        if covered:
            plan.shared.append(one.slice_id)
            bars = estimated_bars(series.asset_class, series.timeframe, _length(covered))
            plan.shared_requests += estimated_requests(bars)
            wanted = subtract(wanted, covered)
    plan.slices = list(_cut(series, wanted, days))
    return plan


def _without_known(plan: Plan, series: Series, wanted: list[Range], days: Sequence[int]) -> list[Range]:
    """Takes away what was deleted, is held or lies outside the plan, and says so."""
    # Before what was asked: it was asked once, and its answer is gone.
    deleted = intersect(wanted, _positions(series.deleted, days))
    rest = subtract(wanted, deleted)
    held = intersect(rest, _positions(series.asked, days))
    plan.sessions_held = _length(held)
    rest = subtract(rest, held)
    if held and not rest:
        _skip_sessions(plan, series, "held", held, days)
    outside = intersect(rest, _positions(series.outside_plan, days))
    _skip_sessions(plan, series, "outside the plan", outside, days)
    _skip_sessions(plan, series, "deleted", deleted, days)
    return subtract(rest, outside)


def _cut(series: Series, wanted: list[Range], days: Sequence[int]) -> Iterable[Slice]:
    """Yields a slice for each run of sessions under one provider ticker."""
    listed = bisect_left(days, series.listed) if series.listed is not None else 0
    for ticker in series.tickers:
        for first, end in intersect(wanted, _positions([(ticker.first, ticker.end)], days)):
            yield Slice(
                series.symbol_id,
                series.asset_class,
                series.timeframe,
                ticker.provider_ticker,
                days[first],
                days[end - 1],
                max(0, end - max(first, listed)),
            )


def _skip_sessions(plan: Plan, series: Series, reason: str, ranges: list[Range], days: Sequence[int]) -> None:
    if ranges:
        _skip(plan, series, reason, days[ranges[0][0]], days[ranges[-1][1] - 1])


def _skip(plan: Plan, series: Series, reason: str, first: int | None = None, last: int | None = None) -> None:
    plan.skipped.append(Skipped(series.symbol_id, series.ticker, series.timeframe, reason, first, last))


def estimated_bars(asset_class: int, timeframe: int, sessions: int) -> int:
    """Returns about how many bars the sessions of a stored timeframe hold."""
    if timeframe == DAY:
        return sessions
    return sessions * (_MINUTES_CRYPTO if asset_class == CRYPTO else _MINUTES_STOCK)


def estimated_requests(bars: int) -> int:
    """Returns about how many requests bring so many bars of one slice."""
    return max(1, ceil(bars / PAGE_BARS))


def estimated_seconds(requests: int, bars: int, *, requests_per_minute: int, workers: int = 1) -> float:
    """Returns about how long so many requests take, at the limit (0: none) or at the speed of the workers."""
    work = (requests * SECONDS_PER_REQUEST + bars / BARS_PER_SECOND) / max(1, workers)
    if requests_per_minute == 0:
        return work
    return max(work, max(0, requests - requests_per_minute) * LIMITER_SECONDS / requests_per_minute)


def _positions(ranges: Iterable[Range], days: Sequence[int]) -> list[Range]:
    """Turns ranges of days into disjoint ascending ranges of positions, joined where no session lies between."""
    joined: list[Range] = []
    for first, end in sorted((bisect_left(days, first), bisect_left(days, end)) for first, end in ranges):
        if first >= end:
            continue
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return joined


def intersect(left: Sequence[Range], right: Sequence[Range]) -> list[Range]:
    """Returns what lies in both of two lists of disjoint ascending ranges."""
    found: list[Range] = []
    i = j = 0
    while i < len(left) and j < len(right):
        first, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first < end:
            found.append((first, end))
        if left[i][1] <= right[j][1]:
            i += 1
        else:
            j += 1
    return found


def subtract(left: Sequence[Range], right: Sequence[Range]) -> list[Range]:
    """Returns what lies in the first of two lists of disjoint ascending ranges and not in the second."""
    gaps: list[Range] = []
    start = min((ranges[0][0] for ranges in (left, right) if ranges), default=0)
    for first, end in right:
        gaps.append((start, first))
        start = end
    if left:
        gaps.append((start, max(start, left[-1][1])))
    return intersect(left, [gap for gap in gaps if gap[0] < gap[1]])


def _length(ranges: Sequence[Range]) -> int:
    return sum(end - first for first, end in ranges)


STORED = (DAY, MINUTE)
"""In the order of work: days are cheap and what people look at first."""
