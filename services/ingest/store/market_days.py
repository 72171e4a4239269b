"""Plans and notes days of the whole market."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

from services.ingest.calendar import calendar_of, date_of, day_of
from services.ingest.market_days import MARKETS, by_day_where_fewer
from services.ingest.planner import MarketDay
from services.ingest.timeframes import DAY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date
    from uuid import UUID

    from services.ingest.planner import Plan
    from services.kit.db import Connection, Database

FEWEST_BY_DAY = 2
"""Slices of daily bars below which a day of the market never takes fewer requests."""

# Who was ever asked for: of others a day says nothing about what they lack.
ASKED = """
SELECT r.symbol_id
FROM ingest.series r
JOIN symbols.ticker_spans t USING (symbol_id)
WHERE r.timeframe = 7
  AND t.asset_class = ANY($1::smallint[])
  AND t.from_date <= $2
  AND (t.to_date IS NULL OR t.to_date >= $2)
  AND (t.list_date IS NULL OR t.list_date <= $2)
"""

# By exact keys.
# Of several symbols: an inner SELECT without a column is a syntax error to Citus.
HAS_BARS = """
SELECT EXISTS (
  SELECT 1 FROM ingest.bars
  WHERE symbol_id = ANY($1::integer[])
    AND timeframe = 7
    AND ts = $2
)
"""

NOTE_UNKNOWN = """
UPDATE ingest.slices
SET unknown = $2
WHERE slice_id = $1
"""

OPEN_DAYS = """
SELECT slice_id, asset_class, first_date
FROM ingest.slices
WHERE kind = 2
  AND timeframe = 7
  AND state IN (1, 2)
  AND (token = 0 OR NOT $1)
  AND (mode = 2 OR NOT $2)
ORDER BY slice_id DESC
"""

INSERT_DAYS = """
WITH planned AS (
  INSERT INTO ingest.slices (kind, mode, priority, turn, timeframe, asset_class, first_date, last_date)
  SELECT 2, $2, $3, $4, 7, p.asset_class, p.day, p.day
  FROM unnest($5::smallint[], $6::date[]) WITH ORDINALITY AS p (asset_class, day, position)
  ORDER BY p.position
  RETURNING slice_id
)
INSERT INTO ingest.backfill_slices (backfill_id, slice_id)
SELECT $1, slice_id
FROM planned
"""


async def asked_symbols(db: Database, classes: Sequence[int], day: date) -> list[int]:
    """Returns the symbols of these classes that were asked for and may have traded on a day."""
    return [row["symbol_id"] for row in await db.fetch(ASKED, list(classes), day)]


async def has_bars(db: Database, symbol_ids: Sequence[int], day: date) -> bool:
    """Says whether any of these symbols has a daily bar of a day."""
    return bool(await db.fetchval(HAS_BARS, symbol_ids, datetime.combine(day, time(), UTC)))


async def note_unknown(conn: Connection, slice_id: int, count: int) -> None:
    """Notes how many rows of a day were of tickers that nobody registered."""
    await conn.execute(NOTE_UNKNOWN, slice_id, count)


async def by_day(
    conn: Connection, plan: Plan, days: Mapping[str, Sequence[int]], *, anew: bool, deleted: bool = False
) -> Plan:
    """Lets whole days of the market take the place of slices, where that takes fewer requests; days by calendar.

    Days that other jobs will bring are shared: where all is asked `anew`, those that nobody has begun, and where what
    was `deleted` is wanted, too, those that bring it back.
    """
    if sum(one.timeframe == DAY for one in plan.slices) < FEWEST_BY_DAY:
        return plan
    await asyncio.sleep(0)
    rows = await conn.fetch(OPEN_DAYS, anew, deleted)
    open_days = {MarketDay(row["asset_class"], day_of(row["first_date"])): row["slice_id"] for row in rows}
    return by_day_where_fewer(plan, {market: days[calendar_of(market)] for market in MARKETS}, open_days)


async def insert_days(
    conn: Connection, backfill_id: UUID, how: tuple[int, int, int], days: Sequence[MarketDay]
) -> None:
    """Writes a slice a day; `how` is mode, priority and turn."""
    if days:
        columns = [one.market for one in days], [date_of(one.day) for one in days]
        await conn.execute(INSERT_DAYS, backfill_id, *how, *columns)
