"""Brings jobs to their end as their slices end, and drops what is kept no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.store.jobs import FAILED, SUCCEEDED, Progress, read_progress
from services.ingest.store.steering import begin_change, hold_back, settle

if TYPE_CHECKING:
    from uuid import UUID

    from services.kit.db import Connection, Database

BEGIN = """
WITH waiting AS (
  SELECT b.backfill_id
  FROM ingest.backfill_slices bs
  JOIN ingest.backfills b USING (backfill_id)
  WHERE bs.slice_id = $1
    AND b.state = 1
  ORDER BY b.backfill_id
  FOR NO KEY UPDATE OF b
)
UPDATE ingest.backfills b
SET state = 2, start_time = clock_timestamp()
FROM waiting w
WHERE b.backfill_id = w.backfill_id
  AND b.state = 1
"""

JOBS_OF_SLICE = """
SELECT b.backfill_id
FROM ingest.backfill_slices bs
JOIN ingest.backfills b USING (backfill_id)
WHERE bs.slice_id = $1
  AND b.state IN (1, 2, 3)
ORDER BY b.backfill_id
"""

OPEN_JOBS = """
SELECT backfill_id
FROM ingest.backfills
WHERE state IN (1, 2, 3)
ORDER BY backfill_id
"""

# From the end: claims go upward, so that the last slices are open longest and the first look mostly finds one. A
# subquery that cannot become a join keeps it at that: a join read all 20,000 slices of a job each time one ended.
HAS_OPEN_SLICE = """
SELECT true
FROM ingest.backfill_slices bs
WHERE bs.backfill_id = $1
  AND (SELECT s.state IN (1, 2) FROM ingest.slices s WHERE s.slice_id = bs.slice_id)
ORDER BY bs.slice_id DESC
LIMIT 1
"""

LOCK_OPEN_JOB = """
SELECT true
FROM ingest.backfills
WHERE backfill_id = $1
  AND state IN (1, 2, 3)
FOR UPDATE
"""

FIRST_FAILURE = """
SELECT s.reason
FROM ingest.backfill_slices bs
JOIN ingest.slices s USING (slice_id)
WHERE bs.backfill_id = $1
  AND s.state = 4
ORDER BY bs.slice_id
LIMIT 1
"""

FINISH = """
UPDATE ingest.backfills
SET state = $2, totals = $3::text::jsonb, error = $4, pause_reason = '', finish_time = clock_timestamp(),
    start_time = coalesce(start_time, create_time)
WHERE backfill_id = $1
"""

UNCLOSED_WRITES = """
SELECT slice_id
FROM ingest.slices
WHERE end_time > clock_timestamp() - interval '1 day'
  AND state = 6
  AND write_id IS NOT NULL
LIMIT 500
"""

TAKE_WRITE = """
WITH ended AS (
  SELECT slice_id, write_id
  FROM ingest.slices
  WHERE slice_id = $1
    AND state = 6
    AND write_id IS NOT NULL
  FOR NO KEY UPDATE
)
UPDATE ingest.slices s
SET write_id = NULL
FROM ended e
WHERE s.slice_id = e.slice_id
RETURNING e.write_id
"""

CLOSE_WRITE = """
SELECT ingest.finish($1, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""

DROP_SLICES = """
DELETE FROM ingest.slices
WHERE slice_id IN (
  SELECT s.slice_id
  FROM ingest.slices s
  WHERE s.end_time < clock_timestamp() - make_interval(days => $1)
    AND NOT EXISTS (
      SELECT FROM ingest.backfill_slices bs
      JOIN ingest.backfills b USING (backfill_id)
      WHERE bs.slice_id = s.slice_id
        AND (b.finish_time IS NULL OR b.finish_time >= clock_timestamp() - make_interval(days => $1))
    )
  LIMIT $2
)
"""


async def begin_backfills(db: Database, slice_id: int) -> None:
    """Notes that work has begun on the jobs of a slice; called after its first claim."""
    await db.execute(BEGIN, slice_id)


async def finish_backfills(db: Database, slice_id: int) -> None:
    """Ends each job of a slice that has no open slice left; called after the slice ended."""
    for row in await db.fetch(JOBS_OF_SLICE, slice_id):
        await finish_backfill(db, row["backfill_id"])


async def finish_backfill(db: Database, backfill_id: UUID) -> bool:
    """Ends a job if it is open and none of its slices is; of several callers one does it."""
    if await db.fetchval(HAS_OPEN_SLICE, backfill_id):
        return False
    async with db.transaction() as conn:
        if not await conn.fetchval(LOCK_OPEN_JOB, backfill_id):
            return False
        # Again, now that no retry can come between.
        if await conn.fetchval(HAS_OPEN_SLICE, backfill_id):
            return False
        await finish_now(conn, backfill_id)
    return True


async def finish_all(db: Database) -> int:
    """Ends all jobs that are done and were not ended, because a process died between; returns how many."""
    return sum([await finish_backfill(db, row["backfill_id"]) for row in await db.fetch(OPEN_JOBS)])


async def settle_all(db: Database) -> None:
    """Puts right what a change could not reach, because a part held its slice."""
    for row in await db.fetch(OPEN_JOBS):
        async with db.transaction() as conn:
            await begin_change(conn)
            await settle(conn, row["backfill_id"])


async def pause_backfills(db: Database, slice_id: int, reason: str) -> None:
    """Pauses all open jobs of a slice, because nobody could get on with it: a full disk, a refused key."""
    async with db.transaction() as conn:
        await begin_change(conn)
        for row in await conn.fetch(JOBS_OF_SLICE, slice_id):
            await hold_back(conn, row["backfill_id"], reason)


async def close_writes(db: Database) -> int:
    """Closes the announced writes of cancelled slices, so that later ones need not list them; returns how many.

    In transactions of their own: the commit lock comes last, after the audit's.
    """
    closed = 0
    for row in await db.fetch(UNCLOSED_WRITES):
        async with db.transaction() as conn:
            write_id = await conn.fetchval(TAKE_WRITE, row["slice_id"])
            if write_id is not None:
                await conn.fetchval(CLOSE_WRITE, write_id)
                closed += 1
    return closed


async def drop_slices(db: Database, days: int, batch: int) -> int:
    """Drops slices whose last job ended so many days ago, at most a batch; returns how many."""
    return int((await db.execute(DROP_SLICES, days, batch)).rpartition(" ")[2])


async def finish_now(conn: Connection, backfill_id: UUID) -> None:
    """Stores state and totals of a job that the transaction has locked or made, and that has no open slice."""
    progress = (await read_progress(conn, [backfill_id])).get(backfill_id, Progress())
    error = await conn.fetchval(FIRST_FAILURE, backfill_id) if progress.slices_failed else ""
    state = FAILED if progress.slices_failed else SUCCEEDED
    await conn.execute(FINISH, backfill_id, state, progress.totals(), error)
