"""Reads jobs and their slices."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import msgspec

from services.kit.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date, datetime
    from uuid import UUID

    import asyncpg

    from services.kit.db import Connection, Database

# As in mdw.ingest.v1.Backfill.State and Slice.State.
PENDING, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED = 1, 2, 3, 4, 5, 6
OPEN = frozenset({PENDING, RUNNING, PAUSED})
STATES = {1: "PENDING", 2: "RUNNING", 3: "PAUSED", 4: "SUCCEEDED", 5: "FAILED", 6: "CANCELLED"}

JOBS = """
SELECT b.backfill_id, b.kind, b.mode, b.priority, b.state, b.pause_reason, b.timeframes, b.first_date, b.last_date,
       b.totals, b.error, b.key_id, b.create_time, b.start_time, b.finish_time, clock_timestamp() AS read_time
FROM ingest.backfills b
WHERE b.backfill_id = ANY($1::uuid[])
"""

PAGE_OF_JOBS = """
SELECT b.backfill_id, b.kind, b.mode, b.priority, b.state, b.pause_reason, b.timeframes, b.first_date, b.last_date,
       b.totals, b.error, b.key_id, b.create_time, b.start_time, b.finish_time, clock_timestamp() AS read_time
FROM ingest.backfills b
WHERE ($1::smallint[] = '{}' OR b.state = ANY($1))
  AND ($2::smallint[] = '{}' OR b.kind = ANY($2))
  AND ($3::timestamptz IS NULL OR (b.create_time, b.backfill_id) < ($3, $4::uuid))
ORDER BY b.create_time DESC, b.backfill_id DESC
LIMIT $5
"""

# Days stand for sessions: the share is as good, and no calendar is needed.
PROGRESS = """
SELECT bs.backfill_id,
       count(*) AS slices_total,
       count(*) FILTER (WHERE s.state > 2) AS slices_done,
       count(*) FILTER (WHERE s.state = 4) AS slices_failed,
       count(*) FILTER (WHERE s.state = 5) AS slices_outside_plan,
       sum(coalesce(s.last_date - s.first_date + 1, 1))::bigint AS days_total,
       sum(CASE
             WHEN s.state > 2 THEN coalesce(s.last_date - s.first_date + 1, 1)
             WHEN s.cursor IS NULL OR s.first_date IS NULL THEN 0
             ELSE least(greatest((s.cursor AT TIME ZONE 'UTC')::date - s.first_date, 0), s.last_date - s.first_date + 1)
           END)::bigint AS days_done,
       sum(s.inserted)::bigint AS inserted,
       sum(s.updated)::bigint AS updated,
       sum(s.unchanged)::bigint AS unchanged,
       sum(s.rejected)::bigint AS rejected,
       sum(s.deleted)::bigint AS deleted,
       sum(s.requests)::bigint AS requests,
       bool_or(s.token > 0) AS begun,
       (array_agg(s.provider_ticker ORDER BY s.state DESC, s.fetch_time DESC)
         FILTER (WHERE s.state IN (1, 2) AND s.fetch_time IS NOT NULL))[1] AS current_ticker
FROM ingest.backfill_slices bs
JOIN ingest.slices s USING (slice_id)
WHERE bs.backfill_id = ANY($1::uuid[])
GROUP BY bs.backfill_id
"""

JOB_EXISTS = """
SELECT EXISTS (SELECT FROM ingest.backfills WHERE backfill_id = $1)
"""

PAGE_OF_SLICES = """
SELECT s.slice_id, s.kind, s.symbol_id, s.provider_ticker, s.timeframe, s.first_date, s.last_date, s.state, s.attempts,
       CASE WHEN s.reason = '' THEN s.note ELSE s.reason END AS reason, s.next_try_time, s.cursor, s.requests,
       s.inserted, s.updated, s.unchanged, s.rejected,
       s.deleted, s.subject, s.unknown
FROM ingest.backfill_slices bs
JOIN ingest.slices s USING (slice_id)
WHERE bs.backfill_id = $1
  AND bs.slice_id > $2
  AND ($3::smallint[] = '{}' OR s.state = ANY($3))
  AND ($4::int = 0 OR s.symbol_id = $4)
ORDER BY bs.slice_id
LIMIT $5
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Sums over the slices of a job; days are counted by the calendar, bars by what became of them."""

    slices_total: int = 0
    slices_done: int = 0
    slices_failed: int = 0
    slices_outside_plan: int = 0
    days_total: int = 0
    days_done: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    deleted: int = 0
    requests: int = 0
    begun: bool = False
    current_ticker: str | None = None

    @property
    def done_share(self) -> float:
        return self.days_done / self.days_total if self.days_total else 1.0

    @property
    def bars(self) -> int:
        return self.inserted + self.updated + self.unchanged + self.rejected + self.deleted

    def totals(self) -> str:
        """Returns the JSON that is stored when the job ends."""
        return msgspec.json.encode(asdict(self)).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stands, by the database's clock `read_time`."""

    backfill_id: UUID
    kind: int
    mode: int
    priority: int
    state: int
    pause_reason: str
    timeframes: Sequence[int]
    first_date: date | None
    last_date: date | None
    error: str
    key_id: UUID | None
    create_time: datetime
    start_time: datetime | None
    finish_time: datetime | None
    read_time: datetime = field(compare=False)
    progress: Progress

    @property
    def open(self) -> bool:
        return self.state in OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A slice as it stands."""

    slice_id: int
    kind: int
    symbol_id: int | None
    provider_ticker: str
    timeframe: int | None
    first_date: date | None
    last_date: date | None
    state: int
    attempts: int
    reason: str
    next_try_time: datetime | None
    cursor: datetime | None
    requests: int
    inserted: int
    updated: int
    unchanged: int
    rejected: int
    deleted: int
    subject: str
    unknown: int


class Jobs:
    """Reads ingest.backfills and ingest.slices."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, backfill_id: UUID) -> Job:
        """Returns a job; raises NotFound."""
        async with self._db.connection() as conn:
            return await read_job(conn, backfill_id)

    async def several(self, backfill_ids: Sequence[UUID]) -> dict[UUID, Job]:
        """Returns those of the jobs that exist."""
        async with self._db.connection() as conn:
            return await read_jobs(conn, backfill_ids)

    async def page(
        self, states: Sequence[int], kinds: Sequence[int], after: tuple[datetime, UUID] | None, limit: int
    ) -> list[Job]:
        """Returns jobs, newest first, older than `after`; empty filters mean any."""
        created, backfill_id = after or (None, None)
        async with self._db.connection() as conn:
            rows = await conn.fetch(PAGE_OF_JOBS, list(states), list(kinds), created, backfill_id, limit)
            return await _with_progress(conn, rows)

    async def slices(
        self, backfill_id: UUID, states: Sequence[int], symbol_id: int, after: int, limit: int
    ) -> list[Slice]:
        """Returns slices of a job with ids greater than `after`; raises NotFound if there is no such job."""
        async with self._db.connection() as conn:
            rows = await conn.fetch(PAGE_OF_SLICES, backfill_id, after, list(states), symbol_id, limit)
            if not rows and not await conn.fetchval(JOB_EXISTS, backfill_id):
                raise not_found(backfill_id)
            return [Slice(**row) for row in rows]


async def read_job(conn: Connection, backfill_id: UUID) -> Job:
    """Returns a job as its transaction sees it; raises NotFound."""
    found = await read_jobs(conn, [backfill_id])
    if backfill_id not in found:
        raise not_found(backfill_id)
    return found[backfill_id]


async def read_jobs(conn: Connection, backfill_ids: Sequence[UUID]) -> dict[UUID, Job]:
    """Returns those of the jobs that exist."""
    rows = await conn.fetch(JOBS, list(backfill_ids))
    return {job.backfill_id: job for job in await _with_progress(conn, rows)}


async def read_progress(conn: Connection, backfill_ids: Iterable[UUID]) -> dict[UUID, Progress]:
    """Returns the sums over the slices; nothing for a job without slices."""
    wanted = list(backfill_ids)
    rows = await conn.fetch(PROGRESS, wanted) if wanted else []
    return {row["backfill_id"]: _progress(row) for row in rows}


def _progress(row: asyncpg.Record) -> Progress:
    return Progress(**{name: value for name, value in row.items() if name != "backfill_id"})


def not_found(backfill_id: UUID) -> NotFound:
    return NotFound("BACKFILL_NOT_FOUND", f"no backfill has the id {backfill_id}", backfill_id=str(backfill_id))


async def _with_progress(conn: Connection, rows: Sequence[asyncpg.Record]) -> list[Job]:
    sums = await read_progress(conn, [row["backfill_id"] for row in rows if row["totals"] is None])
    return [_job(row, sums.get(row["backfill_id"], Progress())) for row in rows]


def _job(row: asyncpg.Record, sums: Progress) -> Job:
    values = dict(row)
    totals = values.pop("totals")
    progress = sums if totals is None else msgspec.json.decode(totals, type=Progress)
    if values["state"] == PENDING and progress.begun:
        # A slice it shares was begun for another job, or its own an instant ago.
        values["state"] = RUNNING
    return Job(**values, progress=progress)
