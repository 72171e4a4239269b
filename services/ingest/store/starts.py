"""Starts backfills: reads what the planner needs, and writes a job with its slices in one transaction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from typing import TYPE_CHECKING
from uuid import uuid4

from services.ingest.calendar import EVERY_DAY, XNYS, date_of, day_of
from services.ingest.planner import (
    CRYPTO,
    MISSING,
    REFETCH,
    OpenSlice,
    Plan,
    Series,
    TickerSpan,
    estimated_seconds,
    plan_series,
)
from services.ingest.store import sessions
from services.ingest.store.endings import finish_backfill, finish_now
from services.ingest.store.jobs import read_job
from services.ingest.store.steering import begin_change

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    import asyncpg

    from services.ingest.planner import Ranges, Slice
    from services.ingest.store.jobs import Job
    from services.ingest.store.symbols import Symbol
    from services.kit.calls import Call
    from services.kit.db import Connection, Database
    from services.kit.recorder import Recorder
    from services.kit.requests import Requests

BARS = 1
"""mdw.ingest.v1.Backfill.Kind."""

FIRST_DAY = day_of(date(2000, 1, 1))

_YIELD_EVERY = 200
"""Series planned before other calls get their turn."""

# A slice's cursor is a time; until the day after it (its market's day), a refetch cannot count on what was fetched.
OPEN_SLICES = """
SELECT s.slice_id, s.symbol_id, s.timeframe, s.first_date, s.last_date,
       (s.cursor AT TIME ZONE
         CASE WHEN s.asset_class = 3 OR s.timeframe = 7 THEN 'UTC' ELSE 'America/New_York' END)::date AS cursor_date
FROM ingest.slices s
WHERE s.state IN (1, 2)
  AND s.kind = 1
  AND s.symbol_id = ANY($1::int[])
  AND s.timeframe = ANY($2::smallint[])
ORDER BY s.slice_id
"""

SERIES = """
SELECT symbol_id, timeframe, asked, outside_plan, deleted
FROM ingest.series
WHERE symbol_id = ANY($1::int[])
  AND timeframe = ANY($2::smallint[])
"""

# How far back the subscription was seen to reach: an answer follows the refused days within a week.
REACH = """
SELECT t.asset_class, max(upper(refused)) AS reach
FROM ingest.series s
JOIN symbols.ticker_spans t USING (symbol_id)
CROSS JOIN unnest(s.outside_plan) AS refused
WHERE s.outside_plan <> '{}'
  AND s.asked && datemultirange(daterange(upper(refused), upper(refused) + 7))
GROUP BY t.asset_class
"""

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
SET held = false, priority = greatest(s.priority, $2)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a backfill is asked for; days are numbered from 1970-01-01, first inclusive, end exclusive, None open."""

    symbols: Sequence[Symbol]
    timeframes: Sequence[int]
    first: int | None
    end: int | None
    mode: int
    priority: int


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
        async with self._db.connection() as conn:
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
            await _insert_plan(conn, backfill_id, ask, planned.plan)
            reply = answer(Started(await read_job(conn, backfill_id), planned))
            await self._requests.store(conn, call, original.request_id, reply)
        if planned.plan.shared:
            # A shared slice may have ended before its link to this job could be seen.
            await finish_backfill(self._db, backfill_id)
        return reply

    async def _plan(self, conn: Connection, ask: Ask) -> Planned:
        # Slices first: one that ends between the two reads is then shared, and not planned again.
        open_slices = await _open_slices(conn, ask)
        known = await _known(conn, ask)
        reach = await _reach(conn) if ask.first is None and ask.mode == MISSING else {}
        ends = {calendar: day + 1 for calendar, day in (await sessions.last_closed(conn)).items()}
        first = FIRST_DAY if ask.first is None else ask.first
        plan = Plan()
        for position, (timeframe, symbol) in enumerate(product(ask.timeframes, ask.symbols)):
            if position % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            key = (symbol.symbol_id, timeframe)
            series = _series(symbol, timeframe, known.get(key, ((), (), ())), open_slices.get(key, ()), reach)
            calendar = calendar_of(symbol.asset_class)
            end = _earlier(ask.end, ends[calendar])
            plan.add(plan_series(series, ask.mode, self._days[calendar], first, end))
        latest = max((ends[calendar_of(symbol.asset_class)] for symbol in ask.symbols), default=first)
        seconds = await self._seconds(conn, ask, plan)
        return Planned(plan=plan, first=first, end=max(first, _earlier(ask.end, latest)), seconds=seconds)

    async def _seconds(self, conn: Connection, ask: Ask, plan: Plan) -> float:
        if not plan.slices and not plan.shared:
            return 0.0
        queue = await conn.fetchval(QUEUE, ask.priority, plan.requests + plan.shared_requests)
        return estimated_seconds(
            queue + plan.requests, plan.bars, requests_per_minute=self._requests_per_minute, workers=self._workers
        )


def calendar_of(asset_class: int) -> str:
    """Returns the name of the calendar by which symbols of a class trade."""
    return EVERY_DAY if asset_class == CRYPTO else XNYS


def _earlier(asked: int | None, closed: int) -> int:
    return closed if asked is None else min(asked, closed)


async def _open_slices(conn: Connection, ask: Ask) -> dict[tuple[int, int], list[OpenSlice]]:
    found: dict[tuple[int, int], list[OpenSlice]] = {}
    for row in await conn.fetch(OPEN_SLICES, [one.symbol_id for one in ask.symbols], list(ask.timeframes)):
        first = row["first_date"]
        if ask.mode == REFETCH and row["cursor_date"] is not None:
            first = max(first, row["cursor_date"] + timedelta(days=1))
        one = OpenSlice(row["slice_id"], day_of(first), day_of(row["last_date"]) + 1)
        found.setdefault((row["symbol_id"], row["timeframe"]), []).append(one)
    return found


async def _known(conn: Connection, ask: Ask) -> dict[tuple[int, int], tuple[Ranges, Ranges, Ranges]]:
    """Returns what was asked, lies outside the plan and was deleted, by series."""
    rows = await conn.fetch(SERIES, [one.symbol_id for one in ask.symbols], list(ask.timeframes))
    return {
        (row["symbol_id"], row["timeframe"]): (
            _ranges(row["asked"]),
            _ranges(row["outside_plan"]),
            _ranges(row["deleted"]),
        )
        for row in rows
    }


async def _reach(conn: Connection) -> dict[int, int]:
    """Returns the first day that the subscription was seen to cover, by class; nothing where nothing was refused."""
    return {row["asset_class"]: day_of(row["reach"]) for row in await conn.fetch(REACH)}


def _series(
    symbol: Symbol,
    timeframe: int,
    known: tuple[Ranges, Ranges, Ranges],
    open_slices: Sequence[OpenSlice],
    reach: dict[int, int],
) -> Series:
    asked, outside_plan, deleted = known
    if symbol.asset_class in reach:
        outside_plan = (*outside_plan, (FIRST_DAY, reach[symbol.asset_class]))
    return Series(
        symbol_id=symbol.symbol_id,
        asset_class=symbol.asset_class,
        ticker=symbol.ticker,
        timeframe=timeframe,
        listed=None if symbol.list_date is None else day_of(symbol.list_date),
        tickers=[TickerSpan(day_of(one.from_date), _end(one.to_date), one.provider_ticker) for one in symbol.spans],
        asked=asked,
        outside_plan=outside_plan,
        deleted=deleted,
        open_slices=open_slices,
    )


def _end(to_date: date | None) -> int:
    return day_of(to_date or date.max) + 1


def _ranges(multirange: Sequence[asyncpg.Range[date]]) -> Ranges:
    """Returns ranges of days; those of the schema are all bounded, and Postgres writes their ends exclusive."""
    return tuple((day_of(one.lower), day_of(one.upper)) for one in multirange if one.lower and one.upper)


def _job_columns(ask: Ask, planned: Planned) -> tuple[object, ...]:
    first, last = date_of(planned.first), date_of(planned.end - 1)
    return BARS, ask.mode, ask.priority, list(ask.timeframes), first, last


async def _insert_plan(conn: Connection, backfill_id: UUID, ask: Ask, plan: Plan) -> None:
    """Writes the slices; a job without any has succeeded."""
    if plan.slices:
        turn = await conn.fetchval(NEXT_TURN)
        await conn.execute(INSERT_SLICES, backfill_id, ask.mode, ask.priority, turn, *_columns(plan.slices))
    if plan.shared:
        await conn.execute(LIFT_SHARED, plan.shared, ask.priority)
        await conn.execute(LINK_SHARED, backfill_id, plan.shared)
    if plan.slices:
        pairs = dict.fromkeys((one.symbol_id, one.timeframe) for one in plan.slices)
        await conn.execute(INSERT_SERIES, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    if not plan.slices and not plan.shared:
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
