"""Starts deletions: a job with one slice, written together with who asked for it and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from services.ingest.store.jobs import read_job
from services.ingest.store.starts import HOLD_SERIES, INSERT_JOB, INSERT_SERIES, NEXT_TURN
from services.ingest.store.steering import begin_change
from services.kit.errors import Aborted

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from services.ingest.store.jobs import Job
    from services.ingest.store.starts import Original
    from services.kit.calls import Call
    from services.kit.db import Database
    from services.kit.recorder import Recorder
    from services.kit.requests import Requests

DELETE = 6
"""mdw.ingest.v1.Backfill.Kind."""

MISSING = 1

COUNT_DAYS = """
SELECT count(*)
FROM ingest.bars
WHERE symbol_id = $1
  AND timeframe = 7
  AND ts >= ($2::date)::timestamp AT TIME ZONE 'UTC'
  AND ts < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
"""

COUNT_MINUTES = """
SELECT coalesce(sum(bars), 0)
FROM ingest.minute_sessions
WHERE symbol_id = $1
  AND session_date BETWEEN $2 AND $3
"""

INSERT_SLICE = """
INSERT INTO ingest.slices (kind, mode, priority, turn, symbol_id, timeframe, asset_class, provider_ticker, first_date,
                           last_date)
VALUES (4, 1, $1, $2, $3, $4, $5, $6, $7, $8)
RETURNING slice_id
"""

LINK = """
INSERT INTO ingest.backfill_slices (backfill_id, slice_id)
VALUES ($1, $2)
"""

INSERT_DELETION = """
INSERT INTO ingest.deletions (slice_id, symbol_id, timeframe, first_date, last_date, purge, reason, key_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is to be deleted: whole sessions of one series, both dates inclusive, and why."""

    symbol_id: int
    asset_class: int
    ticker: str
    timeframe: int
    first: date
    last: date
    reason: str
    purge: bool
    priority: int


class Deletions:
    """Writes ingest.deletions, and the jobs that do them."""

    def __init__(self, db: Database, recorder: Recorder, requests: Requests) -> None:
        self._db = db
        self._recorder = recorder
        self._requests = requests

    async def count(self, ask: Ask) -> int:
        """Returns how many bars it would take away now."""
        sql = COUNT_MINUTES if ask.timeframe == 1 else COUNT_DAYS
        return int(await self._db.fetchval(sql, ask.symbol_id, ask.first, ask.last))

    async def start(self, call: Call, ask: Ask, original: Original, answer: Callable[[Job], bytes]) -> bytes:
        """Writes the job and returns the answer, or the first answer to a repeat of the request."""
        async with self._recorder.change(call) as conn:
            stored = await self._requests.claim(conn, call, original.request_id, original.body)
            if stored is not None:
                return stored
            await begin_change(conn)
            backfill_id, turn = uuid4(), await conn.fetchval(NEXT_TURN)
            span, series = (ask.first, ask.last), (ask.symbol_id, ask.timeframe)
            job = (backfill_id, DELETE, MISSING, ask.priority, [ask.timeframe])
            await conn.execute(INSERT_JOB, *job, *span, original.summary, call.key_id)
            slice_id = await conn.fetchval(
                INSERT_SLICE, ask.priority, turn, *series, ask.asset_class, ask.ticker, *span
            )
            await conn.execute(LINK, backfill_id, slice_id)
            await conn.execute(INSERT_DELETION, slice_id, *series, *span, ask.purge, ask.reason, call.key_id)
            await conn.execute(INSERT_SERIES, [ask.symbol_id], [ask.timeframe])
            if not await conn.fetch(HOLD_SERIES, [ask.symbol_id], [ask.timeframe]):
                raise Aborted("CONFLICT", "the symbol was deleted meanwhile; try again")
            reply = answer(await read_job(conn, backfill_id))
            await self._requests.store(conn, call, original.request_id, reply)
        return reply
