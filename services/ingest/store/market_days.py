"""Plans and notes days of the whole market."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.calendar import date_of, day_of
from services.ingest.planner import MarketDay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from uuid import UUID

    from services.kit.db import Connection, Database

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
  AND ($1 = 1 OR token = 0)
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


async def note_unknown(conn: Connection, slice_id: int, count: int) -> None:
    """Notes how many rows of a day were of tickers that nobody registered."""
    await conn.execute(NOTE_UNKNOWN, slice_id, count)


async def open_days(conn: Connection, mode: int) -> dict[MarketDay, int]:
    """Returns the slices that will bring a day; where all is wanted again, those that nobody has begun."""
    rows = await conn.fetch(OPEN_DAYS, mode)
    return {MarketDay(row["asset_class"], day_of(row["first_date"])): row["slice_id"] for row in rows}


async def insert_days(
    conn: Connection, backfill_id: UUID, how: tuple[int, int, int], days: Sequence[MarketDay]
) -> None:
    """Writes a slice a day; `how` is mode, priority and turn."""
    if days:
        columns = [one.market for one in days], [date_of(one.day) for one in days]
        await conn.execute(INSERT_DAYS, backfill_id, *how, *columns)
