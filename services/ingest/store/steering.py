"""Steers jobs: pause, resume, priority, cancel, retry; one change of jobs at a time, so that each sees those before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from services.ingest.store.jobs import (
    CANCELLED,
    FAILED,
    OPEN,
    PAUSED,
    STATES,
    Progress,
    not_found,
    read_job,
    read_progress,
)
from services.kit.errors import FailedPrecondition

if TYPE_CHECKING:
    from uuid import UUID

    from services.ingest.store.jobs import Job
    from services.kit.calls import Call
    from services.kit.db import Connection
    from services.kit.recorder import Recorder

# Whether a slice is held hangs on all its jobs: two changes at once would each see the other job as it was. A process
# that stops in the middle must not stop the others for long, and nobody waits longer than a command may take.
BEGIN_CHANGE = """
SELECT set_config('idle_in_transaction_session_timeout', '15s', true), set_config('lock_timeout', '4s', true),
       pg_advisory_xact_lock(1833046)
"""

LOCK_JOB = """
SELECT state
FROM ingest.backfills
WHERE backfill_id = $1
FOR UPDATE
"""

# Waits for the parts under way, so that what is told is what holds.
LOCK_SLICES = """
SELECT coalesce(array_agg(locked.slice_id), '{}')
FROM (
  SELECT s.slice_id
  FROM ingest.slices s
  JOIN ingest.backfill_slices bs USING (slice_id)
  WHERE bs.backfill_id = $1
    AND s.state IN (1, 2, 4)
  ORDER BY s.slice_id
  FOR NO KEY UPDATE OF s
) locked
"""

# Behind a process that stopped in the middle of a part nobody waits: the next claim of its slice looks at the jobs.
LOCK_IDLE_SLICES = """
SELECT coalesce(array_agg(locked.slice_id), '{}')
FROM (
  SELECT s.slice_id
  FROM ingest.slices s
  JOIN ingest.backfill_slices bs USING (slice_id)
  WHERE bs.backfill_id = $1
    AND s.state IN (1, 2, 4)
  ORDER BY s.slice_id
  FOR NO KEY UPDATE OF s SKIP LOCKED
) locked
"""

TRY_LOCK = """
SELECT set_config('lock_timeout', '1s', true)
"""

PAUSE = """
UPDATE ingest.backfills
SET state = 3, pause_reason = $2
WHERE backfill_id = $1
  AND state IN (1, 2, 3)
"""

RESUME = """
UPDATE ingest.backfills
SET state = CASE WHEN start_time IS NULL THEN 1 ELSE 2 END, pause_reason = ''
WHERE backfill_id = $1
"""

TRY_NOW = """
UPDATE ingest.slices
SET next_try_time = NULL
WHERE slice_id = ANY($1::bigint[])
  AND state = 1
  AND next_try_time IS NOT NULL
"""

SET_PRIORITY = """
UPDATE ingest.backfills
SET priority = $2
WHERE backfill_id = $1
"""

SETTLE = """
WITH wanted AS (
  SELECT bs.slice_id,
         bool_and(b.state = 3) AS held,
         coalesce(max(b.priority) FILTER (WHERE b.state <> 3), max(b.priority)) AS priority
  FROM ingest.backfill_slices bs
  JOIN ingest.backfills b USING (backfill_id)
  WHERE bs.slice_id = ANY($1::bigint[])
    AND b.state IN (1, 2, 3)
  GROUP BY bs.slice_id
)
UPDATE ingest.slices s
SET held = w.held, priority = w.priority
FROM wanted w
WHERE s.slice_id = w.slice_id
  AND s.state IN (1, 2)
  AND (s.held, s.priority) IS DISTINCT FROM (w.held, w.priority)
"""

# The new token refuses the part of a worker that has its answer and has not begun to write.
CANCEL_SLICES = """
UPDATE ingest.slices s
SET state = 6, token = s.token + 1, lease_owner = NULL, lease_until = NULL, next_try_time = NULL, held = false,
    reason = 'cancelled', end_time = clock_timestamp()
WHERE s.slice_id = ANY($1::bigint[])
  AND s.state IN (1, 2)
  AND ingest.slice_wanted(s.slice_id) IS NULL
"""

CANCEL = """
UPDATE ingest.backfills
SET state = 6, pause_reason = '', finish_time = clock_timestamp()
WHERE backfill_id = $1
"""

SET_TOTALS = """
UPDATE ingest.backfills
SET totals = $2::text::jsonb
WHERE backfill_id = $1
"""

RETRY_SLICES = """
UPDATE ingest.slices
SET state = 1, attempts = 0, reason = '', next_try_time = NULL, end_time = NULL, held = false, token = token + 1
WHERE slice_id = ANY($1::bigint[])
  AND state = 4
"""

REOPEN = """
UPDATE ingest.backfills
SET state = CASE WHEN state = 3 THEN 3 ELSE 2 END, start_time = coalesce(start_time, clock_timestamp()),
    finish_time = NULL, totals = NULL, error = ''
WHERE backfill_id = $1
"""


class Steering:
    """Changes jobs under way; each change commits together with its call's row."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def set_priority(self, call: Call, backfill_id: UUID, priority: int) -> Job:
        """Moves a job's open slices to another priority; raises BACKFILL_FINISHED."""
        async with self._recorder.change(call) as conn:
            await _lock_open(conn, backfill_id)
            await conn.execute(SET_PRIORITY, backfill_id, priority)
            await settle(conn, backfill_id)
            return await read_job(conn, backfill_id)

    async def pause(self, call: Call, backfill_id: UUID, reason: str) -> Job:
        """Holds back the slices that no other job wants; raises BACKFILL_FINISHED."""
        async with self._recorder.change(call) as conn:
            await _lock_open(conn, backfill_id)
            await hold_back(conn, backfill_id, reason)
            return await read_job(conn, backfill_id)

    async def resume(self, call: Call, backfill_id: UUID) -> Job:
        """Lets a paused job go on, at once; raises BACKFILL_FINISHED."""
        async with self._recorder.change(call) as conn:
            if await _lock_open(conn, backfill_id) == PAUSED:
                await conn.execute(RESUME, backfill_id)
                await conn.execute(TRY_NOW, await settle(conn, backfill_id))
            return await read_job(conn, backfill_id)

    async def cancel(self, call: Call, backfill_id: UUID) -> Job:
        """Ends a job and the slices that no other job wants; raises BACKFILL_FINISHED unless it was cancelled."""
        async with self._recorder.change(call) as conn:
            state = await _lock(conn, backfill_id)
            if state in OPEN:
                await _cancel(conn, backfill_id)
            elif state != CANCELLED:
                raise _finished(backfill_id, state)
            return await read_job(conn, backfill_id)

    async def retry(self, call: Call, backfill_id: UUID) -> tuple[Job, int]:
        """Sets the failed slices of a job to work again and says how many; raises BACKFILL_STATE, NOTHING_TO_DO."""
        async with self._recorder.change(call) as conn:
            state = await _lock(conn, backfill_id)
            if state not in OPEN and state != FAILED:
                raise FailedPrecondition(
                    "BACKFILL_STATE",
                    f"the backfill is {STATES[state]}, only one that is open or FAILED can be tried again",
                    backfill_id=str(backfill_id),
                    state=STATES[state],
                )
            slices = await _retry(conn, backfill_id)
            if slices:
                await conn.execute(REOPEN, backfill_id)
                await settle(conn, backfill_id)
            elif state == FAILED:
                raise FailedPrecondition(
                    "NOTHING_TO_DO", "its failed slices are kept no longer: start a new backfill", skipped="0"
                )
            return await read_job(conn, backfill_id), slices


async def begin_change(conn: Connection) -> None:
    """Waits until no other change of jobs is under way; the first statement of each but the claim of a request_id."""
    await conn.execute(BEGIN_CHANGE)


async def hold_back(conn: Connection, backfill_id: UUID, reason: str) -> None:
    """Pauses an open job inside a change."""
    await conn.execute(PAUSE, backfill_id, reason)
    await settle(conn, backfill_id)


async def _lock(conn: Connection, backfill_id: UUID) -> int:
    await begin_change(conn)
    state = await conn.fetchval(LOCK_JOB, backfill_id)
    if state is None:
        raise not_found(backfill_id)
    return int(state)


async def _lock_open(conn: Connection, backfill_id: UUID) -> int:
    state = await _lock(conn, backfill_id)
    if state not in OPEN:
        raise _finished(backfill_id, state)
    return state


async def settle(conn: Connection, backfill_id: UUID) -> list[int]:
    """Gives each open slice of a job what all its jobs make of it: held or not, and the highest priority."""
    slice_ids = await _lock_slices(conn, backfill_id)
    await conn.execute(SETTLE, slice_ids)
    return slice_ids


async def _lock_slices(conn: Connection, backfill_id: UUID) -> list[int]:
    """Locks the open and failed slices of a job, in order; those of a part that does not end are left out."""
    await conn.execute("SAVEPOINT locking")
    await conn.execute(TRY_LOCK)
    try:
        return list(await conn.fetchval(LOCK_SLICES, backfill_id))
    except asyncpg.LockNotAvailableError:
        await conn.execute("ROLLBACK TO SAVEPOINT locking")
        return list(await conn.fetchval(LOCK_IDLE_SLICES, backfill_id))


async def _retry(conn: Connection, backfill_id: UUID) -> int:
    slice_ids = await _lock_slices(conn, backfill_id)
    return int((await conn.execute(RETRY_SLICES, slice_ids)).rpartition(" ")[2])


async def _cancel(conn: Connection, backfill_id: UUID) -> None:
    await conn.execute(CANCEL, backfill_id)
    slice_ids = await _lock_slices(conn, backfill_id)
    await conn.execute(CANCEL_SLICES, slice_ids)
    await conn.execute(SETTLE, slice_ids)
    progress = (await read_progress(conn, [backfill_id])).get(backfill_id, Progress())
    await conn.execute(SET_TOTALS, backfill_id, progress.totals())


def _finished(backfill_id: UUID, state: int) -> FailedPrecondition:
    return FailedPrecondition(
        "BACKFILL_FINISHED",
        f"the backfill has ended: {STATES[state]}",
        backfill_id=str(backfill_id),
        state=STATES[state],
    )
