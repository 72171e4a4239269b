"""Reads where purging has ended the history of a series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.calendar import date_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.kit.db import Database

# A deletion goes on part by part; its row has the newest write of them.
PURGED = """
SELECT d.symbol_id, max(w.commit_time) AS commit_time
FROM ingest.deletions d
JOIN ingest.writes w ON w.write_id = d.write_id
WHERE d.purge
  AND d.symbol_id = ANY($1::integer[])
  AND d.timeframe = $2
  AND d.first_date < $4
  AND d.end_date > $3
  AND w.commit_time > $5
GROUP BY d.symbol_id
"""


async def purged_since(
    db: Database, symbol_ids: Sequence[int], timeframe: int, days: tuple[int, int], as_of: datetime
) -> dict[int, datetime]:
    """Returns, by symbol_id, until when a span of days (end exclusive) was purged after an instant."""
    first, end = date_of(days[0]), date_of(days[1])
    rows = await db.fetch(PURGED, symbol_ids, timeframe, first, end, as_of)
    return {row["symbol_id"]: row["commit_time"] for row in rows}
