"""Reads and drops bars that were refused as impossible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from services.kit.db import Database

PAGE = """
SELECT reject_id, symbol_id, ticker, timeframe, ts, reason, raw, first_seen, last_seen
FROM ingest.rejected_bars
WHERE ($1::int = 0 OR symbol_id = $1)
  AND ($2::smallint = 0 OR timeframe = $2)
  AND ($3::text = '' OR reason = $3)
  AND ($4::bigint IS NULL OR reject_id < $4)
ORDER BY reject_id DESC
LIMIT $5
"""

DROP = """
DELETE FROM ingest.rejected_bars
WHERE reject_id IN (
  SELECT reject_id
  FROM ingest.rejected_bars
  WHERE last_seen < clock_timestamp() - make_interval(days => $1)
  LIMIT $2
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedBar:
    """A refused bar as it was received."""

    reject_id: int
    symbol_id: int | None
    ticker: str
    timeframe: int
    ts: datetime | None
    reason: str
    raw: str
    first_seen: datetime
    last_seen: datetime


class Rejects:
    """Reads ingest.rejected_bars."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(
        self, symbol_id: int, timeframe: int, reason: str, before: int | None, limit: int
    ) -> list[RejectedBar]:
        """Returns refused bars, newest first, with ids below `before`; 0 and '' mean any."""
        rows = await self._db.fetch(PAGE, symbol_id, timeframe, reason, before, limit)
        return [RejectedBar(**row) for row in rows]

    async def drop(self, days: int, batch: int) -> int:
        """Drops those last seen so many days ago, at most a batch; returns how many."""
        return int((await self._db.execute(DROP, days, batch)).rpartition(" ")[2])
