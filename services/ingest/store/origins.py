"""Remembers, of bars that a newer answer lacks, which answer held their values: see ingest.absent_bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.ingest.quality import ABSENT
from services.ingest.store.instants import days_before, from_ms, from_us, to_ms, to_us
from services.ingest.timeframes import DAY_MS

if TYPE_CHECKING:
    from services.ingest.columns import IntArray
    from services.ingest.merge import Held, Outcome
    from services.ingest.store.rows import SeriesKey
    from services.ingest.store.slices import Claim
    from services.kit.db import Connection

READ = """
SELECT ts, fetch_time
FROM ingest.absent_bars
WHERE symbol_id = $1
  AND timeframe = $2
  AND ts >= $3
  AND ts <= $4
ORDER BY ts
"""

# A bar that was not ABSENT is that of the newest answer that covered it. One of many series answers its last day at its
# fetch_time, and each day before a day sooner.
ANSWERS = """
SELECT asked_from, asked_to, fetch_time, false AS of_many
FROM ingest.writes
WHERE symbol_id = $1
  AND timeframe = $2
  AND fetch_time < $3
  AND commit_time IS NOT NULL
  AND asked_from <= $5
  AND asked_to > $4
UNION ALL
SELECT asked_from, asked_to, fetch_time, true
FROM ingest.writes
WHERE symbol_id IS NULL
  AND timeframe = $2
  AND commit_time IS NOT NULL
  AND asked_from <= $5
  AND asked_to > $4
  AND $1 = ANY (symbol_ids)
"""

NOTE = """
INSERT INTO ingest.absent_bars (symbol_id, timeframe, ts, fetch_time)
SELECT $1, $2, u.ts, u.fetch_time
FROM unnest($3::timestamptz[], $4::timestamptz[]) AS u (ts, fetch_time)
ON CONFLICT (symbol_id, timeframe, ts) DO UPDATE
SET fetch_time = excluded.fetch_time
"""

FORGET = """
DELETE FROM ingest.absent_bars
WHERE symbol_id = $1
  AND timeframe = $2
  AND ts = ANY ($3::timestamptz[])
"""


async def read(conn: Connection, key: SeriesKey, own: Held) -> IntArray:
    """Returns for each ABSENT bar when the answer that held its values was fetched, microseconds; 0 for the others."""
    found = np.zeros(len(own), np.int64)
    absent = own.bars.ts[(own.flags & ABSENT) != 0]
    if len(absent):
        rows = await conn.fetch(READ, key.symbol_id, key.timeframe, from_ms(int(absent[0])), from_ms(int(absent[-1])))
        times = np.array([to_ms(row["ts"]) for row in rows], np.int64)
        at = np.searchsorted(own.bars.ts, times)
        found[at] = [to_us(row["fetch_time"]) for row in rows]
    return found


async def note(conn: Connection, claim: Claim, outcome: Outcome) -> None:
    """Keeps the table in step with what an answer makes ABSENT, or brings back."""
    key = (claim.key.symbol_id, claim.key.timeframe)
    if len(outcome.returned):
        await conn.execute(FORGET, *key, [from_ms(ms) for ms in outcome.returned.tolist()])
    if len(outcome.vanished):
        fetched = await _fetched(conn, claim, outcome.vanished)
        await conn.execute(NOTE, *key, [from_ms(ms) for ms in outcome.vanished.tolist()], fetched)
    if len(outcome.originated):
        times = [from_ms(ms) for ms in outcome.originated.tolist()]
        await conn.execute(NOTE, *key, times, [claim.fetch_time] * len(times))


async def _fetched(conn: Connection, claim: Claim, vanished: IntArray) -> list[object]:
    """Returns for each time when the newest earlier answer that covers it was fetched."""
    first, last = from_ms(int(vanished[0])), from_ms(int(vanished[-1]))
    key = (claim.key.symbol_id, claim.key.timeframe)
    fetched = np.zeros(len(vanished), np.int64)
    for row in await conn.fetch(ANSWERS, *key, claim.fetch_time, first, last):
        covered = (vanished >= to_ms(row["asked_from"])) & (vanished < to_ms(row["asked_to"]))
        times = np.full(len(vanished), to_us(row["fetch_time"]))
        if row["of_many"]:
            days = (to_ms(row["asked_to"]) - 1 - vanished) // DAY_MS
            times = np.array([to_us(days_before(row["fetch_time"], day)) for day in days.tolist()], np.int64)
        covered &= times < to_us(claim.fetch_time)
        fetched[covered] = np.maximum(fetched, times)[covered]
    return [from_us(us) for us in fetched.tolist()]
