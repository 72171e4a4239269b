"""Reads what the planner must know of series: what was answered, refused or deleted, and what is under way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from services.ingest.calendar import day_of
from services.ingest.planner import MISSING, REFETCH, OpenSlice, Series, TickerSpan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from services.ingest.planner import Ranges
    from services.ingest.store.symbols import Symbol
    from services.kit.db import Connection

Key = tuple[int, int]

FIRST_DAY = day_of(date(2000, 1, 1))

# A slice's cursor is a time; until the day after it (its market's day), a refetch cannot count on what was fetched.
OPEN_SLICES = """
SELECT s.slice_id, s.symbol_id, s.timeframe, s.first_date, s.last_date,
       (s.cursor AT TIME ZONE
         CASE WHEN s.asset_class = 3 OR s.timeframe = 7 THEN 'UTC' ELSE 'America/New_York' END)::date AS cursor_date
FROM ingest.slices s
WHERE s.state IN (1, 2)
  AND s.kind = 1
  AND s.symbol_id = ANY($1::int[])
  AND s.timeframe = ANY($2::smallint[])
ORDER BY s.slice_id
"""

# What was answered without bars is not held, until it is given up; what is to be deleted counts as deleted.
SERIES = """
SELECT r.symbol_id, r.timeframe, r.outside_plan,
       r.deleted + coalesce(
         (SELECT range_agg(daterange(s.first_date, s.last_date + 1))
          FROM ingest.slices s
          WHERE s.symbol_id = r.symbol_id
            AND s.timeframe = r.timeframe
            AND s.kind = 4
            AND s.state IN (1, 2)), '{}') AS deleted,
       r.asked - coalesce(
         (SELECT range_agg(daterange(s.first_date, s.last_date + 1))
          FROM ingest.suspects s
          WHERE s.symbol_id = r.symbol_id
            AND s.timeframe = r.timeframe
            AND s.gave_up_reason = ''), '{}') AS asked
FROM ingest.series r
WHERE r.symbol_id = ANY($1::int[])
  AND r.timeframe = ANY($2::smallint[])
"""

# How far back the subscription was seen to reach: an answer follows the refused days within a week.
REACH = """
SELECT t.asset_class, max(upper(refused)) AS reach
FROM ingest.series s
JOIN symbols.ticker_spans t USING (symbol_id)
CROSS JOIN unnest(s.outside_plan) AS refused
WHERE s.outside_plan <> '{}'
  AND s.asked && datemultirange(daterange(upper(refused), upper(refused) + 7))
GROUP BY t.asset_class
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a backfill is asked for; days are numbered from 1970-01-01, first inclusive, end exclusive, None open."""

    symbols: Sequence[Symbol]
    timeframes: Sequence[int]
    first: int | None
    end: int | None
    mode: int
    priority: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the asked series, by symbol and timeframe; how far back the subscription reaches, by class."""

    open_slices: Mapping[Key, Sequence[OpenSlice]]
    ranges: Mapping[Key, tuple[Ranges, Ranges, Ranges]]
    reach: Mapping[int, int]

    def series(self, symbol: Symbol, timeframe: int) -> Series:
        """Returns what the planner needs of one series."""
        key = (symbol.symbol_id, timeframe)
        asked, outside_plan, deleted = self.ranges.get(key, ((), (), ()))
        if symbol.asset_class in self.reach:
            outside_plan = (*outside_plan, (FIRST_DAY, self.reach[symbol.asset_class]))
        return Series(
            symbol_id=symbol.symbol_id,
            asset_class=symbol.asset_class,
            ticker=symbol.ticker,
            timeframe=timeframe,
            listed=None if symbol.list_date is None else day_of(symbol.list_date),
            tickers=[TickerSpan(day_of(one.from_date), _end(one.to_date), one.provider_ticker) for one in symbol.spans],
            asked=asked,
            outside_plan=outside_plan,
            deleted=deleted,
            open_slices=self.open_slices.get(key, ()),
        )


async def read_known(conn: Connection, ask: Ask) -> Known:
    """Reads what is known; slices first: one that ends between the two reads is then shared, not planned again."""
    symbol_ids, timeframes = [one.symbol_id for one in ask.symbols], list(ask.timeframes)
    slices = await conn.fetch(OPEN_SLICES, symbol_ids, timeframes)
    series = await conn.fetch(SERIES, symbol_ids, timeframes)
    # Who says from where, or wants all again, is not held back by what was refused to others.
    reach = await conn.fetch(REACH) if ask.first is None and ask.mode == MISSING else []
    return Known(
        _by_series(slices, refetch=ask.mode == REFETCH),
        {(row["symbol_id"], row["timeframe"]): _known_ranges(row) for row in series},
        {row["asset_class"]: day_of(row["reach"]) for row in reach},
    )


def _by_series(rows: Sequence[asyncpg.Record], *, refetch: bool) -> dict[Key, list[OpenSlice]]:
    found: dict[Key, list[OpenSlice]] = {}
    for row in rows:
        first = row["first_date"]
        if refetch and row["cursor_date"] is not None:
            first = max(first, row["cursor_date"] + timedelta(days=1))
        one = OpenSlice(row["slice_id"], day_of(first), day_of(row["last_date"]) + 1)
        found.setdefault((row["symbol_id"], row["timeframe"]), []).append(one)
    return found


def _known_ranges(row: asyncpg.Record) -> tuple[Ranges, Ranges, Ranges]:
    return _ranges(row["asked"]), _ranges(row["outside_plan"]), _ranges(row["deleted"])


def _end(to_date: date | None) -> int:
    return day_of(to_date or date.max) + 1


def _ranges(multirange: Sequence[asyncpg.Range[date]]) -> Ranges:
    """Returns ranges of days; those of the schema are all bounded, and Postgres writes their ends exclusive."""
    return tuple((day_of(one.lower), day_of(one.upper)) for one in multirange if one.lower and one.upper)
