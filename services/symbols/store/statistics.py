"""Reads what is held, from figures that ingest keeps up with the bars: no statement here reads a bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.symbols.store import lookups
from services.symbols.store.rows import SeriesFigures, SeriesState, SymbolFigures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from services.kit.db import Database
    from services.symbols.store.rows import Key

ONE = """
SELECT s.symbol_id, s.asset_class, t.ticker, f.timeframe, f.state, f.last_error, f.last_success_time, f.watermark,
       f.bars, f.first_ts, f.last_ts, f.validated, f.rejected, f.sessions_present,
       f.first_ordinal, f.last_ordinal, f.closed_ordinal
FROM symbols.symbols s
CROSS JOIN LATERAL (
  SELECT each.ticker
  FROM symbols.tickers each
  WHERE each.symbol_id = s.symbol_id
  ORDER BY each.from_date > (statement_timestamp() AT TIME ZONE 'UTC')::date,
           abs(each.from_date - (statement_timestamp() AT TIME ZONE 'UTC')::date)
  LIMIT 1
) t
LEFT JOIN ingest.series_figures f USING (symbol_id)
WHERE s.symbol_id = $1
ORDER BY f.timeframe
"""

PAGE = """
WITH page AS MATERIALIZED (
  SELECT t.symbol_id, t.asset_class, t.ticker
  FROM symbols.tickers t
  JOIN symbols.symbols s USING (symbol_id)
  CROSS JOIN LATERAL (
    SELECT each.from_date
    FROM symbols.tickers each
    WHERE each.symbol_id = s.symbol_id
    ORDER BY each.from_date > (statement_timestamp() AT TIME ZONE 'UTC')::date,
             abs(each.from_date - (statement_timestamp() AT TIME ZONE 'UTC')::date)
    LIMIT 1
  ) shown
  WHERE t.from_date = shown.from_date
    AND (t.asset_class, t.ticker COLLATE "C", t.symbol_id) > ($1::smallint, $2::text COLLATE "C", $3::int)
    AND t.asset_class <= $4::smallint
    AND (NOT $5::bool OR s.active)
  ORDER BY t.asset_class, t.ticker COLLATE "C", t.symbol_id
  LIMIT $6
)
SELECT p.symbol_id, p.asset_class, p.ticker, f.timeframe, f.state, f.last_error, f.last_success_time, f.watermark,
       f.bars, f.first_ts, f.last_ts, f.validated, f.rejected, f.sessions_present,
       f.first_ordinal, f.last_ordinal, f.closed_ordinal
FROM page p
LEFT JOIN LATERAL (
  SELECT *
  FROM ingest.series_figures
  WHERE symbol_id = p.symbol_id
  OFFSET 0 -- each symbol by itself: planned as one join, it would work out the figures of all symbols for every page
) f ON true
ORDER BY p.asset_class, p.ticker COLLATE "C", p.symbol_id, f.timeframe
"""

CLASSES = """
SELECT asset_class, count(*) AS symbols, count(*) FILTER (WHERE active) AS active
FROM symbols.symbols
GROUP BY asset_class
ORDER BY asset_class
"""

# One statement, so that all figures are of one moment.
SERIES = """
WITH series AS MATERIALIZED (
  SELECT s.symbol_id, s.asset_class, s.active, coalesce(f.timeframe, kept.timeframe) AS timeframe,
         coalesce(f.state, 1::smallint) AS state, coalesce(f.bars, 0) AS bars, coalesce(f.validated, 0) AS validated,
         greatest(f.closed_ordinal - f.last_ordinal, 0) AS behind
  FROM (
    SELECT symbol_id, unnest(timeframes) AS timeframe
    FROM symbols.symbols
  ) kept
  FULL JOIN ingest.series_figures f USING (symbol_id, timeframe)
  JOIN symbols.symbols s ON s.symbol_id = coalesce(f.symbol_id, kept.symbol_id)
)
SELECT
  (SELECT array_agg((timeframe, state, series) ORDER BY timeframe, state)
   FROM (SELECT timeframe, state, count(*) AS series FROM series WHERE active GROUP BY timeframe, state) x) AS states,
  (SELECT array_agg((timeframe, series, bars, validated) ORDER BY timeframe)
   FROM (SELECT timeframe, count(*) FILTER (WHERE bars > 0) AS series, sum(bars)::bigint AS bars,
                sum(validated)::bigint AS validated
         FROM series GROUP BY timeframe) x) AS timeframes,
  (SELECT array_agg((symbol_id, ticker, asset_class, timeframe, behind) ORDER BY behind DESC, symbol_id, timeframe)
   FROM (SELECT symbol_id, asset_class, timeframe, behind
         FROM series
         WHERE active AND bars > 0
         ORDER BY behind DESC, symbol_id, timeframe
         LIMIT $1) x
   CROSS JOIN LATERAL (
     SELECT each.ticker
     FROM symbols.tickers each
     WHERE each.symbol_id = x.symbol_id
     ORDER BY each.from_date > (statement_timestamp() AT TIME ZONE 'UTC')::date,
              abs(each.from_date - (statement_timestamp() AT TIME ZONE 'UTC')::date)
     LIMIT 1
   ) t) AS stalest
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryFigures:
    """Counts of the registry, as plain rows in the order of their messages' fields."""

    classes: tuple[tuple[int, int, int], ...]
    """Asset class, symbols, active ones."""
    states: tuple[tuple[int, int, int], ...]
    """Timeframe, state, series of active symbols."""
    timeframes: tuple[tuple[int, int, int, int], ...]
    """Timeframe, series with bars, bars, validated ones."""
    stalest: tuple[tuple[int, str, int, int, int], ...]
    """Symbol, ticker, asset class, timeframe, sessions behind."""


class Statistics:
    """Reads figures of symbols and of the registry."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def one(self, key: Key) -> SymbolFigures:
        """Returns what is held of one symbol; raises SYMBOL_NOT_FOUND or SYMBOL_AMBIGUOUS."""
        async with self._db.connection() as conn:
            symbol_id = (await lookups.find(conn, key)).symbol_id
            symbols = _by_symbol(await conn.fetch(ONE, symbol_id))
        if not symbols:
            raise lookups.no_such_id(symbol_id)
        return symbols[0]

    async def page(
        self, asset_class: int | None, after: Sequence[Any] | None, size: int, *, active_only: bool
    ) -> tuple[list[SymbolFigures], lookups.Position | None]:
        """Returns a page of symbols, and the position of its last one if there are more."""
        bounds = (*(after or lookups.start(asset_class)), asset_class or lookups.LAST_CLASS)
        async with lookups.planned_anew(self._db) as conn:
            rows = await conn.fetch(PAGE, *bounds, active_only, size + 1)
        symbols = _by_symbol(rows)
        last = symbols[size - 1] if len(symbols) > size else None
        return symbols[:size], (last.asset_class, last.ticker, last.symbol_id) if last else None

    async def registry(self, stalest: int) -> RegistryFigures:
        """Returns the counts, and so many of the series that lie furthest behind."""
        async with self._db.connection() as conn:
            classes = await conn.fetch(CLASSES)
            series = (await conn.fetch(SERIES, stalest))[0]
        return RegistryFigures(
            classes=tuple((row["asset_class"], row["symbols"], row["active"]) for row in classes),
            **{name: tuple(map(tuple, series[name] or ())) for name in ("states", "timeframes", "stalest")},
        )


def _by_symbol(rows: list[asyncpg.Record]) -> list[SymbolFigures]:
    """Gathers rows of series, ordered by symbol; a symbol without any has one row without a timeframe."""
    symbols: list[SymbolFigures] = []
    series: list[SeriesFigures] = []
    for position, row in enumerate(rows):
        if row["timeframe"] is not None:
            series.append(_series(row))
        if position + 1 == len(rows) or rows[position + 1]["symbol_id"] != row["symbol_id"]:
            symbols.append(
                SymbolFigures(
                    symbol_id=row["symbol_id"],
                    asset_class=row["asset_class"],
                    ticker=row["ticker"],
                    series=tuple(series),
                )
            )
            series = []
    return symbols


def _series(row: asyncpg.Record) -> SeriesFigures:
    return SeriesFigures(
        state=SeriesState(
            timeframe=row["timeframe"],
            state=row["state"],
            last_error=row["last_error"],
            last_success_time=row["last_success_time"],
            watermark=row["watermark"],
        ),
        bars=row["bars"],
        first_ts=row["first_ts"],
        last_ts=row["last_ts"],
        validated=row["validated"],
        rejected=row["rejected"],
        sessions_present=row["sessions_present"],
        first_ordinal=row["first_ordinal"],
        last_ordinal=row["last_ordinal"],
        closed_ordinal=row["closed_ordinal"],
    )
