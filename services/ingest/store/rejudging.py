"""Judges stored bars again where a split was learned, changed or withdrawn."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import day_of
from services.ingest.merge import Held
from services.ingest.quality import ABSENT, Context, judge, validated
from services.ingest.slices import SliceSpan
from services.ingest.store import around, parts, splits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from datetime import date

    from services.ingest.calendar import Sessions
    from services.ingest.store.rows import SeriesKey
    from services.kit.db import Connection

# A part that makes a series meanwhile waits, and then sees the new splits; without the row it would see neither.
HOLD_SERIES = """
INSERT INTO ingest.series (symbol_id, timeframe)
VALUES ($1, 1), ($1, 7)
ON CONFLICT DO NOTHING
RETURNING timeframe
"""
LOCK_SERIES = """
SELECT timeframe
FROM ingest.series
WHERE symbol_id = $1
ORDER BY timeframe
FOR NO KEY UPDATE
"""
BEGIN_BARS = """
SELECT ingest.begin_bars(ARRAY[$1::integer])
"""
LET_SERIES_GO = """
DELETE FROM ingest.series
WHERE symbol_id = $1
  AND timeframe = ANY($2::smallint[])
"""

NOTE_JUDGED = """
UPDATE ingest.series
SET validated = validated + $3, last_write_id = $4
WHERE symbol_id = $1
  AND timeframe = $2
"""


@asynccontextmanager
async def series_held(conn: Connection, symbol_id: int) -> AsyncIterator[list[int]]:
    """Locks all series of a symbol, and keeps others from being made, until the transaction ends."""
    made = [row["timeframe"] for row in await conn.fetch(HOLD_SERIES, symbol_id)]
    timeframes = [row["timeframe"] for row in await conn.fetch(LOCK_SERIES, symbol_id)]
    await conn.execute(BEGIN_BARS, symbol_id)
    yield timeframes
    if made:
        await conn.execute(LET_SERIES_GO, symbol_id, made)


async def judge_again(
    conn: Connection, key: SeriesKey, write_id: int, moments: Iterable[date], sessions: Sessions
) -> tuple[int, int] | None:
    """Judges the bars from these dates on by the splits that are known now.

    Returns the first and last time of those that got other flags, None if none did.
    """
    span = SliceSpan(key.timeframe, sessions, 0, 0)
    known = (await splits.read(conn, [key.symbol_id], span)).get(key.symbol_id, [])
    touched: list[int] = []
    good = 0
    for moment in moments:
        effective = span.start_of(day_of(moment))
        held = await around.read(conn, key, effective, effective, 0)
        at = int(np.searchsorted(held.bars.ts, effective))
        before, after = held.bars.take(slice(0, at)), held.take(slice(at, len(held)))
        flags = judge(after.bars, Context(before.ts, before.close, before.volume), known)
        flags |= after.flags & np.int16(ABSENT)
        changed = Held(after.bars, flags).take(np.flatnonzero(flags != after.flags))
        await parts.change(conn, key, write_id, changed)
        good += int(validated(flags).sum()) - int(validated(after.flags).sum())
        touched += changed.bars.ts.tolist()
    if not touched:
        return None
    await conn.execute(NOTE_JUDGED, key.symbol_id, key.timeframe, good, write_id)
    return min(touched), max(touched)
