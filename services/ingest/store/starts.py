"""Starts backfills: reads what the planner needs, and writes a job with its slices in one transaction."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import TYPE_CHECKING
from uuid import uuid4

from services.ingest.calendar import calendar_of, date_of
from services.ingest.planner import REFETCH, Plan, estimated_seconds, plan_series
from services.ingest.store import market_days, sessions
from services.ingest.store.endings import finish_backfill, finish_now
from services.ingest.store.jobs import read_job
from services.ingest.store.known import FIRST_DAY, read_known
from services.ingest.store.steering import begin_change
from services.ingest.store.symbols import FEW_SYMBOLS, MANY
from services.kit.errors import Aborted, MdwError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from services.ingest.planner import Slice
    from services.ingest.store.jobs import Job
    from services.ingest.store.known import Ask
    from services.kit.calls import Call
    from services.kit.db import Connection, Database
    from services.kit.recorder import Recorder
    from services.kit.requests import Requests

BARS = 1
"""mdw.ingest.v1.Backfill.Kind."""

_YIELD_EVERY = 200
"""Series planned before other calls get their turn."""

NEXT_TURN = "SELECT nextval('ingest.job_turns')"

# Requests before the last of $2: all of higher priority, and of each job beside it as many as of its own.
# Minutes of a stock are 600 a session and 5 of 7 days have one; a request brings 50,000.
QUEUE = """
SELECT coalesce(sum(CASE WHEN q.priority > $1 THEN q.requests ELSE least(q.requests, $2) END), 0)::bigint
FROM (
  SELECT s.priority, s.turn, sum(ceil(greatest(
           CASE WHEN s.timeframe = 1 AND s.asset_class = 3 THEN 1440 WHEN s.timeframe = 1 THEN 430 ELSE 1 END
           * (s.last_date - coalesce(s.cursor::date, s.first_date) + 1), 1) / 50000.0)) AS requests
  FROM ingest.slices s
  WHERE s.state IN (1, 2)
    AND s.kind NOT IN (3, 4)
    AND NOT s.held
    AND s.priority >= $1
  GROUP BY s.priority, s.turn
) q
"""

INSERT_JOB = """
INSERT INTO ingest.backfills (backfill_id, kind, mode, priority, timeframes, first_date, last_date, request, key_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9)
"""

INSERT_SLICES = """
WITH planned AS (
  INSERT INTO ingest.slices (kind, mode, priority, turn, symbol_id, timeframe, asset_class, provider_ticker, first_date,
                             last_date)
  SELECT 1, $2, $3, $4, p.symbol_id, p.timeframe, p.asset_class, p.provider_ticker, p.first_date,
         p.last_date
  FROM unnest($5::int[], $6::smallint[], $7::smallint[], $8::text[], $9::date[], $10::date[])
       WITH ORDINALITY AS p (symbol_id, timeframe, asset_class, provider_ticker, first_date, last_date, position)
  ORDER BY p.position
  RETURNING slice_id
)
INSERT INTO ingest.backfill_slices (backfill_id, slice_id)
SELECT $1, slice_id
FROM planned
"""

# A slice that is held has only paused jobs, whose priority does not count.
# Does not wait for parts under way: what they hold is put right when the next change, or the server, settles it.
LIFT_SHARED = """
WITH lifted AS (
  SELECT slice_id
  FROM ingest.slices
  WHERE slice_id = ANY($1::bigint[])
    AND state IN (1, 2)
    AND (held OR priority < $2)
  ORDER BY slice_id
  FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE ingest.slices s
SET held = false, priority = CASE WHEN s.held THEN $2 ELSE greatest(s.priority, $2) END
FROM lifted l
WHERE s.slice_id = l.slice_id
"""

LINK_SHARED = """
INSERT INTO ingest.backfill_slices (backfill_id, slice_id)
SELECT $1, slice_id
FROM unnest($2::bigint[]) AS slice_id
ORDER BY slice_id
"""

INSERT_SERIES = """
INSERT INTO ingest.series (symbol_id, timeframe)
SELECT DISTINCT p.symbol_id, p.timeframe
FROM unnest($1::int[], $2::smallint[]) AS p (symbol_id, timeframe)
ORDER BY p.symbol_id, p.timeframe
ON CONFLICT DO NOTHING
"""

# A series that was there already is not locked by that: the registry might delete its symbol meanwhile.
HOLD_SERIES = """
SELECT 1
FROM unnest($1::int[], $2::smallint[]) AS p (symbol_id, timeframe)
JOIN ingest.series r USING (symbol_id, timeframe)
ORDER BY r.symbol_id, r.timeframe
FOR KEY SHARE OF r
"""


@dataclass(frozen=True, slots=True)
class Original:
    """The request as it came: its id, what a repeat must equal, and the JSON that the job keeps."""

    request_id: str
    body: bytes
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, the span it is for, and how long it takes behind what waits already."""

    plan: Plan
    first: int
    end: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Started:
    """A job that was started, and its plan."""

    job: Job
    planned: Planned


class Starts:
    """Plans and starts backfills of bars by range."""

    def __init__(
        self,
        db: Database,
        recorder: Recorder,
        requests: Requests,
        *,
        requests_per_minute: int,
        workers: int,
    ) -> None:
        self._db = db
        self._recorder = recorder
        self._requests = requests
        self._requests_per_minute = requests_per_minute
        self._workers = workers
        self._horizon = date.min
        self._days: dict[str, list[int]] = {}

    async def horizon(self) -> date:
        """Returns the first date that not all calendars know; reads them the first time."""
        if not self._days:
            calendars = await sessions.load(self._db)
            self._days = {name: calendar.days.tolist() for name, calendar in calendars.items()}
            self._horizon = date_of(min(calendar.horizon for calendar in calendars.values()))
        return self._horizon

    async def plan(self, ask: Ask) -> Planned:
        """Says what a backfill would take; changes nothing."""
        await self.horizon()
        async with self._db.reading() as conn:
            return await self._plan(conn, ask)

    async def start(self, call: Call, ask: Ask, original: Original, answer: Callable[[Started], bytes]) -> bytes:
        """Writes a job with its slices and returns the answer, or the first answer to a repeat of the request."""
        await self.horizon()
        async with self._recorder.change(call) as conn:
            stored = await self._requests.claim(conn, call, original.request_id, original.body)
            if stored is not None:
                return stored
            await begin_change(conn)
            planned = await self._plan(conn, ask)
            backfill_id = uuid4()
            await conn.execute(INSERT_JOB, backfill_id, *_job_columns(ask, planned), original.summary, call.key_id)
            await insert_plan(conn, backfill_id, ask, planned.plan)
            reply = answer(Started(await read_job(conn, backfill_id), planned))
            await self._requests.store(conn, call, original.request_id, reply)
        if planned.plan.shared:
            # A shared slice may have ended before its link to this job could be seen. The server looks again, too.
            with suppress(MdwError):
                await finish_backfill(self._db, backfill_id)
        return reply

    async def _plan(self, conn: Connection, ask: Ask) -> Planned:
        if len(ask.symbols) > FEW_SYMBOLS:
            await conn.execute(MANY)
        known = await read_known(conn, ask)
        ends = {calendar: day + 1 for calendar, day in (await sessions.last_closed(conn)).items()}
        first = FIRST_DAY if ask.first is None else ask.first
        plan = Plan()
        for position, (timeframe, symbol) in enumerate(product(ask.timeframes, ask.symbols)):
            if position % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            calendar = calendar_of(symbol.asset_class)
            end = _earlier(ask.end, ends[calendar])
            plan.add(plan_series(known.series(symbol, timeframe), ask.mode, self._days[calendar], first, end))
        again = ask.mode == REFETCH
        plan = await market_days.by_day(conn, plan, self._days, anew=again, deleted=again)
        latest = max((ends[calendar_of(symbol.asset_class)] for symbol in ask.symbols), default=first)
        seconds = await self._seconds(conn, ask, plan)
        return Planned(plan=plan, first=first, end=max(first, _earlier(ask.end, latest)), seconds=seconds)

    async def _seconds(self, conn: Connection, ask: Ask, plan: Plan) -> float:
        if not plan.requests and not plan.shared:
            return 0.0
        queue = await conn.fetchval(QUEUE, ask.priority, plan.requests + plan.shared_requests)
        return estimated_seconds(
            queue + plan.requests, plan.bars, requests_per_minute=self._requests_per_minute, workers=self._workers
        )


def _earlier(asked: int | None, closed: int) -> int:
    return closed if asked is None else min(asked, closed)


def _job_columns(ask: Ask, planned: Planned) -> tuple[object, ...]:
    first, last = date_of(planned.first), date_of(planned.end - 1)
    return BARS, ask.mode, ask.priority, list(ask.timeframes), first, last


async def insert_plan(conn: Connection, backfill_id: UUID, ask: Ask, plan: Plan) -> None:
    """Writes the slices; a job without any has succeeded."""
    if plan.requests:
        turn = await conn.fetchval(NEXT_TURN)
        await conn.execute(INSERT_SLICES, backfill_id, ask.mode, ask.priority, turn, *_columns(plan.slices))
        await market_days.insert_days(conn, backfill_id, (ask.mode, ask.priority, turn), plan.days)
    if plan.shared:
        await conn.execute(LIFT_SHARED, plan.shared, ask.priority)
        await conn.execute(LINK_SHARED, backfill_id, plan.shared)
    if plan.slices or plan.by_day:
        pairs = dict.fromkeys((one.symbol_id, one.timeframe) for one in (*plan.slices, *plan.by_day))
        columns = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        await conn.execute(INSERT_SERIES, *columns)
        if len(await conn.fetch(HOLD_SERIES, *columns)) != len(pairs):
            raise Aborted("CONFLICT", "a symbol was deleted meanwhile; try again")
    if not plan.requests and not plan.shared:
        await finish_now(conn, backfill_id)


def _columns(slices: Sequence[Slice]) -> tuple[list[object], ...]:
    return (
        [one.symbol_id for one in slices],
        [one.timeframe for one in slices],
        [one.asset_class for one in slices],
        [one.provider_ticker for one in slices],
        [date_of(one.first) for one in slices],
        [date_of(one.last) for one in slices],
    )
