"""Plans and writes the jobs of the schedule, inside a change of jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from services.ingest.calendar import calendar_of, date_of, day_of
from services.ingest.planner import MISSING, REFETCH, plan_series
from services.ingest.scheduled_plans import (
    ScheduledPlan,
    Waiting,
    asked_anew,
    fits_one_request,
    plan_scheduled,
    spans_to_ask,
)
from services.ingest.store import market_days
from services.ingest.store.known import Ask, read_known
from services.ingest.store.starts import INSERT_JOB, insert_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from services.ingest.planner import Range
    from services.ingest.store.symbols import Symbol
    from services.kit.db import Connection

SCHEDULE = 2
"""mdw.ingest.v1.Backfill.Kind."""

LOW, NORMAL, FIRST = 1, 2, 4
"""mdw.ingest.v1.Priority; FIRST is PRIORITY_SCHEDULE."""

MOST_SUSPECTS = 5_000
"""Runs of sessions in doubt that are planned at once."""

_YIELD_EVERY = 200
"""Series planned before other work gets its turn."""

LAST_CLOSED = """
SELECT calendar, max(session_date) AS session_date
FROM ingest.sessions
WHERE close_time <= coalesce($1, clock_timestamp())
GROUP BY calendar
"""

# Whoever works on one keeps it as it is.
WAITING = """
SELECT s.slice_id, s.symbol_id, s.timeframe, s.asset_class, s.provider_ticker, s.last_date,
       greatest(s.first_date, (s.cursor AT TIME ZONE
         CASE WHEN s.asset_class = 3 OR s.timeframe = 7 THEN 'UTC' ELSE 'America/New_York' END)::date) AS first_date
FROM ingest.slices s
WHERE s.state = 1
  AND s.kind = 1
  AND s.symbol_id = ANY($1::int[])
ORDER BY s.slice_id
FOR NO KEY UPDATE SKIP LOCKED
"""

ASKED_UNTIL = """
SELECT r.symbol_id, r.timeframe, upper(r.asked) AS asked_until
FROM ingest.series r
WHERE r.symbol_id = ANY($1::int[])
  AND r.asked <> '{}'
"""

LENGTHEN = """
UPDATE ingest.slices s
SET last_date = l.last_date
FROM unnest($1::bigint[], $2::date[]) AS l (slice_id, last_date)
WHERE s.slice_id = l.slice_id
"""

DUE_SUSPECTS = """
SELECT s.symbol_id, s.timeframe, s.first_date, s.last_date,
       s.last_date >= coalesce($1, clock_timestamp())::date - 14 AS fresh
FROM ingest.suspects s
WHERE s.next_ask_time <= coalesce($1, clock_timestamp())
  AND s.symbol_id = ANY($2::int[])
ORDER BY s.next_ask_time
LIMIT $3
"""

# Where the work fails, it is tried again after the same wait.
PUT_OFF = """
UPDATE ingest.suspects s
SET next_ask_time = coalesce($5, clock_timestamp()) + coalesce(ingest.suspect_wait(s.asks, u.fresh), interval '1 day')
FROM unnest($1::int[], $2::smallint[], $3::date[], $4::boolean[]) AS u (symbol_id, timeframe, first_date, fresh)
WHERE s.symbol_id = u.symbol_id
  AND s.timeframe = u.timeframe
  AND s.first_date = u.first_date
  AND s.next_ask_time IS NOT NULL
"""

Key = tuple[int, int]
Days = dict[str, list[int]]
"""The days with a session, by calendar."""


async def last_closed(conn: Connection, now: datetime | None) -> dict[str, int]:
    """Returns the last day whose session is over, by calendar."""
    return {row["calendar"]: day_of(row["session_date"]) for row in await conn.fetch(LAST_CLOSED, now)}


async def plan_run(conn: Connection, symbols: Sequence[Symbol], days: Days, last: Mapping[str, int]) -> ScheduledPlan:
    """Plans what the schedule fetches for these symbols up to the last day of each calendar; others are left out."""
    chosen = [symbol for symbol in symbols if calendar_of(symbol.asset_class) in last and symbol.timeframes]
    waiting = await _waiting(conn, chosen)
    timeframes = sorted({timeframe for symbol in chosen for timeframe in symbol.timeframes}, reverse=True)
    known = await read_known(conn, _asking(chosen, timeframes))
    asked_until = await _asked_until(conn, chosen)
    planned = ScheduledPlan()
    pairs = [(symbol, timeframe) for timeframe in timeframes for symbol in chosen if timeframe in symbol.timeframes]
    for position, (symbol, timeframe) in enumerate(pairs):
        if position % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
        calendar, key = calendar_of(symbol.asset_class), (symbol.symbol_id, timeframe)
        one = plan_scheduled(
            known.series(symbol, timeframe),
            days[calendar],
            last[calendar] + 1,
            asked_until=asked_until.get(key),
            waiting=waiting.get(key, ()),
        )
        planned.add(one)
    planned.plan = await market_days.by_day(conn, planned.plan, days, anew=True)
    return planned


async def insert_run(conn: Connection, planned: ScheduledPlan, key_id: UUID | None, summary: str = "{}") -> UUID:
    """Writes the job of a planned run; one that has nothing to do has succeeded."""
    if planned.lengthened:
        dates = [date_of(day) for day in planned.lengthened.values()]
        await conn.execute(LENGTHEN, list(planned.lengthened), dates)
    return await _insert(conn, planned, FIRST, key_id, summary)


async def ask_again(conn: Connection, symbols: Sequence[Symbol], days: Days, now: datetime | None) -> list[UUID]:
    """Plans the sessions in doubt whose time has come, of these symbols; returns the jobs, fresh sessions first."""
    by_id = {symbol.symbol_id: symbol for symbol in symbols}
    rows = await conn.fetch(DUE_SUSPECTS, now, list(by_id), MOST_SUSPECTS)
    jobs = []
    for priority in (NORMAL, LOW):
        due = [row for row in rows if row["fresh"] == (priority == NORMAL)]
        planned = await _plan_suspects(conn, due, by_id, days)
        if planned.plan.requests or planned.plan.shared:
            jobs.append(await _insert(conn, planned, priority, None, "{}"))
    columns = ([row[name] for row in rows] for name in ("symbol_id", "timeframe", "first_date", "fresh"))
    await conn.execute(PUT_OFF, *columns, now)
    return jobs


async def _plan_suspects(
    conn: Connection, due: Sequence[asyncpg.Record], symbols: Mapping[int, Symbol], days: Days
) -> ScheduledPlan:
    """Plans spans of several sessions in doubt as one, where that takes no further request."""
    runs: dict[Key, list[Range]] = {}
    for row in due:
        span = (day_of(row["first_date"]), day_of(row["last_date"]) + 1)
        runs.setdefault((row["symbol_id"], row["timeframe"]), []).append(span)
    chosen = [symbols[symbol_id] for symbol_id in {symbol_id for symbol_id, _ in runs}]
    known = await read_known(conn, _asking(chosen, sorted({timeframe for _, timeframe in runs}, reverse=True)))
    planned = ScheduledPlan()
    for (symbol_id, timeframe), spans in runs.items():
        symbol = symbols[symbol_id]
        series = asked_anew(known.series(symbol, timeframe))
        for first, end in spans_to_ask(spans, symbol.asset_class, timeframe):
            plan = plan_series(series, MISSING, days[calendar_of(symbol.asset_class)], first, end)
            planned.add(ScheduledPlan(plan, first=first, end=end, timeframes={timeframe}))
    planned.plan = await market_days.by_day(conn, planned.plan, days, anew=True)
    planned.plan.shared = list(dict.fromkeys(planned.plan.shared))
    return planned


async def _asked_until(conn: Connection, symbols: Sequence[Symbol]) -> dict[Key, int]:
    """Returns the day up to which each series was asked, exclusive; a session in doubt was asked, too."""
    rows = await conn.fetch(ASKED_UNTIL, [symbol.symbol_id for symbol in symbols])
    return {(row["symbol_id"], row["timeframe"]): day_of(row["asked_until"]) for row in rows}


async def _waiting(conn: Connection, symbols: Sequence[Symbol]) -> dict[Key, list[Waiting]]:
    """Locks the slices that wait and may be made longer: one request brings what is left of each."""
    found: dict[Key, list[Waiting]] = {}
    for row in await conn.fetch(WAITING, [symbol.symbol_id for symbol in symbols]):
        first, end = day_of(row["first_date"]), day_of(row["last_date"]) + 1
        if fits_one_request(row["asset_class"], row["timeframe"], end - first):
            one = Waiting(row["slice_id"], row["provider_ticker"], first, end)
            found.setdefault((row["symbol_id"], row["timeframe"]), []).append(one)
    return found


async def _insert(conn: Connection, planned: ScheduledPlan, priority: int, key_id: UUID | None, summary: str) -> UUID:
    backfill_id, timeframes = uuid4(), sorted(planned.timeframes, reverse=True)
    first = None if planned.first is None else date_of(planned.first)
    last = None if planned.end is None else date_of(planned.end - 1)
    job = (backfill_id, SCHEDULE, REFETCH, priority, timeframes, first, last, summary, key_id)
    await conn.execute(INSERT_JOB, *job)
    # What is deleted until then stays so, which a slice that fetches all again would bring back.
    asking = replace(_asking((), timeframes, priority), mode=MISSING)
    await insert_plan(conn, backfill_id, asking, planned.plan)
    return backfill_id


def _asking(symbols: Sequence[Symbol], timeframes: Sequence[int], priority: int = FIRST) -> Ask:
    return Ask(symbols=symbols, timeframes=timeframes, first=None, end=None, mode=REFETCH, priority=priority)
