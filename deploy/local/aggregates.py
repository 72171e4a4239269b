"""Answers Polygon's aggregates of one ticker: spans that snap to windows, limits in base bars, and paging."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from typing import TYPE_CHECKING

from deploy.local.cursors import asked_in, make_cursor, read_cursor
from deploy.local.market import BaseBar, render
from deploy.local.windows import TIMESPANS, base_timespan, day_end, midnight, window, zone_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import tzinfo

    from deploy.local.market import Market, Series

DEFAULTS = (("limit", "5000"), ("sort", "asc"), ("adjusted", "true"))
MAX_LIMIT = 50_000
MAX_INSTANT = 10**14  # the year 5138
BAD_TIME = "Could not parse the time parameter: '{}'. Use YYYY-MM-DD or Unix MS Timestamps"
TO_BEFORE_FROM = "The parameter 'to' cannot be a time that occurs before 'from'"


class BadRequestError(Exception):
    """Polygon's 400; the text is its `error`."""


@dataclass(frozen=True)
class AggregateQuery:
    """One request, its span in milliseconds, both ends inclusive as asked (not snapped yet)."""

    ticker: str
    multiplier: int
    timespan: str
    start: int
    end: int
    start_text: str
    end_text: str
    adjusted: bool = True
    descending: bool = False
    limit: int = 5000
    asked: Mapping[str, str] = field(default_factory=dict)
    continued: bool = False  # follows a next_url

    @property
    def zone(self) -> tzinfo:
        """The zone of the ticker's windows."""
        return zone_of(self.ticker)

    def window(self, instant: int) -> tuple[int, int]:
        """Returns the window [start, end) around an instant."""
        return window(instant, self.multiplier, self.timespan, self.zone)

    @property
    def key(self) -> tuple[object, ...]:
        """What two queries with the same page have in common."""
        span = (self.multiplier, self.timespan, self.start_text, self.end_text)
        return self.ticker, *span, self.adjusted, self.descending, self.limit, "adjusted" in self.asked

    @property
    def plain(self) -> bool:
        """Whether the base bars themselves are asked for."""
        return self.multiplier == 1 and self.timespan == base_timespan(self.timespan)


@dataclass
class Page:
    """One answer before it is spelled: faults may still change it."""

    ticker: str
    adjusted: bool
    bars: Sequence[bytes]
    base_count: int = 0
    next_url: str | None = None
    status: str = "OK"
    null_results: bool = False


def parse(path: Sequence[str], params: Mapping[str, str]) -> AggregateQuery:
    """Reads (ticker, multiplier, timespan, from, to) and the query, whose cursor holds what the first page asked."""
    ticker, multiplier, timespan, start_text, end_text = path
    zone = zone_of(ticker)
    start = _instant(start_text, "from", zone, end=False)
    end = _instant(end_text, "to", zone, end=True)
    if end < start:
        raise BadRequestError(TO_BEFORE_FROM)
    if timespan not in TIMESPANS or not _is_count(multiplier):
        raise BadRequestError(f"Could not parse the range '{multiplier} {timespan}'")
    try:
        asked = asked_in(params)
    except ValueError as error:
        raise BadRequestError("Could not parse the cursor") from error
    limit, sort, adjusted = (asked.get(name, default) for name, default in DEFAULTS)
    if not _is_count(limit) or sort not in ("asc", "desc") or adjusted not in ("true", "false"):
        raise BadRequestError("Could not parse the query: 'limit', 'sort' or 'adjusted'")
    return AggregateQuery(
        ticker,
        int(multiplier),
        timespan,
        start,
        end,
        start_text,
        end_text,
        adjusted=adjusted == "true",
        descending=sort == "desc",
        limit=min(int(limit), MAX_LIMIT),
        asked=asked,
        continued="cursor" in params,
    )


def answer(market: Market, query: AggregateQuery) -> Page:
    """Returns one page; a ticker without bars, or an unknown one, gives an empty one."""
    page = Page(query.ticker, query.adjusted, ())
    series = market.find(query.ticker, base_timespan(query.timespan))
    if series is None:
        return page
    first, last = series.span(query.window(query.start)[0], query.window(query.end)[1] - 1)
    begin, end = _cut(series, query, first, last)
    page.base_count = end - begin
    page.bars = _bars(series, query, begin, end)
    if query.descending and begin > first:
        page.next_url = next_url(query, to=series.starts[begin - 1])
    elif not query.descending and end < last:
        page.next_url = next_url(query, start=query.window(series.starts[end])[0])
    return page


def next_url(query: AggregateQuery, *, start: int | None = None, to: int | None = None) -> str:
    """Returns path and query of the next page: its first instant in the path, all else in the cursor."""
    from_text = query.start_text if start is None else str(start)
    to_text = query.end_text if to is None else str(to)
    cursor = {"limit": str(query.limit), "sort": "desc" if query.descending else "asc"}
    if "adjusted" in query.asked:
        cursor["adjusted"] = query.asked["adjusted"]
    span = f"{query.multiplier}/{query.timespan}/{from_text}/{to_text}"
    return f"/v2/aggs/ticker/{query.ticker}/range/{span}?cursor={make_cursor(cursor)}"


def forget_adjusted(url: str) -> str:
    """Returns a next_url whose cursor shows only limit and sort, as recorded ones do."""
    path, _, text = url.partition("?cursor=")
    kept = {name: value for name, value in read_cursor(text).items() if name != "adjusted"}
    return f"{path}?cursor={make_cursor(kept)}"


def _cut(series: Series, query: AggregateQuery, first: int, last: int) -> tuple[int, int]:
    """Returns the indexes of a page: `limit` base bars, less a window that they fill only in part."""
    if last - first <= query.limit:
        return first, last
    begin, end = (last - query.limit, last) if query.descending else (first, first + query.limit)
    if query.plain:
        return begin, end
    starts = series.starts
    if query.descending:
        whole = series.span(query.window(starts[begin - 1])[1], starts[end - 1])[0]
        return (whole if whole < end else series.span(query.window(starts[begin])[0], starts[begin])[0]), end
    whole = series.span(starts[begin], query.window(starts[end])[0] - 1)[1]
    return begin, (whole if whole > begin else series.span(starts[begin], query.window(starts[begin])[1] - 1)[1])


def _bars(series: Series, query: AggregateQuery, begin: int, end: int) -> list[bytes]:
    if query.plain:
        bars = series.rendered(adjusted=query.adjusted)[begin:end]
    else:
        base = (series.adjusted_bars if query.adjusted else series.bars)[begin:end]
        bars = [
            render(_merge(start, list(group))) for start, group in groupby(base, lambda bar: query.window(bar.start)[0])
        ]
    return bars[::-1] if query.descending else bars


def _merge(start: int, bars: Sequence[BaseBar]) -> BaseBar:
    volume = round(sum(bar.volume for bar in bars), 6)
    traded = sum(bar.vwap * bar.volume for bar in bars if bar.vwap is not None)
    complete = all(bar.vwap is not None and bar.trades is not None for bar in bars)
    return BaseBar(
        start,
        bars[0].open,
        max(bar.high for bar in bars),
        min(bar.low for bar in bars),
        bars[-1].close,
        volume,
        round(traded / volume, 4) if complete and volume else None,
        sum(bar.trades or 0 for bar in bars) if complete else None,
    )


def _instant(text: str, name: str, zone: tzinfo, *, end: bool) -> int:
    if text.isdigit() and int(text) < MAX_INSTANT:
        return int(text)
    try:
        day = date.fromisoformat(text)
        return day_end(day, zone) if end else midnight(day, zone)
    except (ValueError, OverflowError) as error:
        raise BadRequestError(BAD_TIME.format(name)) from error


def _is_count(text: str) -> bool:
    return text.isdigit() and int(text) > 0
