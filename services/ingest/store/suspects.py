"""Reads which sessions the provider is asked for again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.calendar import day_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.kit.db import Database

SUSPECTS = """
SELECT symbol_id, first_date, last_date
FROM ingest.suspects
WHERE symbol_id = ANY($1::integer[])
  AND timeframe = $2
  AND next_ask_time IS NOT NULL
"""


async def suspect_days(db: Database, symbol_ids: Sequence[int], timeframe: int) -> list[tuple[int, int, int]]:
    """Returns symbol_id, first day and end day (exclusive) of each run of suspect sessions."""
    rows = await db.fetch(SUSPECTS, symbol_ids, timeframe)
    return [(row["symbol_id"], day_of(row["first_date"]), day_of(row["last_date"]) + 1) for row in rows]
