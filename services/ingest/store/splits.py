"""Reads the splits by which bars are judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.calendar import day_of
from services.ingest.quality import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.slices import SliceSpan
    from services.kit.db import Connection

SPLITS = """
SELECT symbol_id, ex_date, split_from, split_to
FROM ingest.actions
WHERE symbol_id = ANY ($1::integer[])
  AND kind = 1
  AND ended_write_id IS NULL
  AND flags & 1 = 0
ORDER BY symbol_id, ex_date, action_id
"""


async def read(conn: Connection, symbol_ids: Sequence[int], span: SliceSpan) -> dict[int, list[Split]]:
    """Returns the splits of symbols, those that have any; to be called once their series are locked."""
    found: dict[int, list[Split]] = {}
    for row in await conn.fetch(SPLITS, symbol_ids):
        effective_ms = span.start_of(day_of(row["ex_date"]))
        found.setdefault(row["symbol_id"], []).append(Split(effective_ms, row["split_from"], row["split_to"]))
    return found
