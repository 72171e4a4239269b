"""Reads which spans of which series were written between two instants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.ingest.store.instants import to_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Database

# A write of many series has no symbol_id: its span then stands for all of them.
WRITTEN = """
SELECT symbol_id, range_agg(tstzrange(min_ts, max_ts, '[]')) AS spans
FROM ingest.writes
WHERE commit_time > $1
  AND commit_time <= $2
  AND (symbol_id IS NULL OR symbol_id = ANY($3::integer[]))
  AND (timeframe IS NULL OR timeframe = $4)
  AND min_ts IS NOT NULL
GROUP BY symbol_id
"""

Spans = tuple[tuple[int, int], ...]
"""Times of the first and the last bar of each span, both inclusive, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Holds what was written, by symbol_id, and what writes of many series touched."""

    by_symbol: dict[int, Spans] = field(default_factory=dict)
    of_all: Spans = ()

    def of(self, symbol_id: int) -> Spans:
        """Returns all spans in which a series may have changed."""
        return self.by_symbol.get(symbol_id, ()) + self.of_all


async def changes_between(
    db: Database, old: Snapshot, new: Snapshot, symbol_ids: Sequence[int], timeframe: int
) -> Changes:
    """Returns what was written after `old` and up to `new`."""
    found: dict[int | None, Spans] = {}
    for row in await db.fetch(WRITTEN, old.as_of, new.as_of, symbol_ids, timeframe):
        found[row["symbol_id"]] = tuple((to_ms(each.lower), to_ms(each.upper)) for each in row["spans"])
    of_all = found.pop(None, ())
    return Changes({symbol_id: spans for symbol_id, spans in found.items() if symbol_id is not None}, of_all)
