"""Reads what is known of series over a span of days: what was asked, what came, what is under way or in doubt."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import EVERY_DAY, calendar_of, date_of, day_of, days_of_minutes
from services.ingest.coverage import Facts, Ledger, OpenWork, Suspect
from services.ingest.store import sessions
from services.ingest.store.bars import reading
from services.ingest.store.figures import as_days
from services.ingest.timeframes import DAY, DAY_MS, MINUTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg

    from services.ingest.calendar import Sessions
    from services.ingest.columns import IntArray
    from services.ingest.planner import Ranges
    from services.ingest.store.symbols import Symbol
    from services.kit.db import Connection, Database

# A slice of one series brings what lies behind its cursor, one of the whole market its day.
OPEN_WORK = """
SELECT s.symbol_id, s.asset_class = 3 AS crypto, s.last_date,
       greatest(s.first_date, (s.cursor AT TIME ZONE
         CASE WHEN s.asset_class = 3 OR s.timeframe = 7 THEN 'UTC' ELSE 'America/New_York' END)::date) AS first_date,
       CASE WHEN s.held THEN coalesce(p.reason, 'paused') ELSE s.reason END AS reason
FROM ingest.slices s
LEFT JOIN LATERAL (
  SELECT CASE WHEN b.pause_reason LIKE 'paused%' THEN b.pause_reason ELSE 'paused: ' || b.pause_reason END AS reason
  FROM ingest.backfill_slices bs
  JOIN ingest.backfills b USING (backfill_id)
  WHERE bs.slice_id = s.slice_id
    AND s.held
    AND b.state = 3
  ORDER BY b.create_time
  LIMIT 1
) p ON true
WHERE s.state IN (1, 2)
  AND s.timeframe = $2
  AND s.first_date < $4
  AND s.last_date >= $3
  AND ((s.kind = 1 AND s.symbol_id = ANY($1::int[])) OR s.kind = 2)
ORDER BY s.slice_id
"""

SERIES = """
SELECT r.symbol_id, r.asked, r.failed, r.outside_plan, r.deleted, r.last_error,
       (extract(epoch FROM r.first_ts) * 1000)::bigint AS first_ms
FROM ingest.series r
WHERE r.symbol_id = ANY($1::int[])
  AND r.timeframe = $2
"""

SUSPECTS = """
SELECT s.symbol_id, s.first_date, s.last_date, s.asks, s.next_ask_time, s.gave_up_reason
FROM ingest.suspects s
WHERE s.symbol_id = ANY($1::int[])
  AND s.timeframe = $2
  AND s.first_date < $4
  AND s.last_date >= $3
ORDER BY s.symbol_id, s.first_date
"""

DAYS = """
SELECT array_agg((b.ts AT TIME ZONE 'UTC')::date - date '1970-01-01') AS days
FROM ingest.bars b
WHERE b.symbol_id = $1
  AND b.timeframe = 7
  AND b.ts >= $2
  AND b.ts < $3
"""

# Of one day by exact keys, so that many symbols are one query.
HOLDERS_OF_DAY = """
SELECT b.symbol_id
FROM ingest.bars b
WHERE b.symbol_id = ANY($1::int[])
  AND b.timeframe = 7
  AND b.ts = $2
"""

MINUTES = """
SELECT m.symbol_id, array_agg(m.session_date - date '1970-01-01') AS days, array_agg(m.regular_bars) AS regular
FROM ingest.minute_sessions m
WHERE m.symbol_id = ANY($1::int[])
  AND m.session_date >= $2
  AND m.session_date < $3
GROUP BY m.symbol_id
"""

NO_DAYS = np.empty(0, np.int64)


class CoverageStore:
    """Reads the facts that coverage is made of."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._calendars: dict[str, Sessions] = {}

    async def calendars(self) -> dict[str, Sessions]:
        """Returns all sessions by calendar; reads them the first time."""
        if not self._calendars:
            self._calendars = await sessions.load(self._db)
        return self._calendars

    async def closed_days(self) -> dict[str, int]:
        """Returns the day after the last session that is over, by calendar."""
        async with self._db.connection() as conn:
            return {calendar: day + 1 for calendar, day in (await sessions.last_closed(conn)).items()}

    async def read(self, symbols: Sequence[Symbol], timeframe: int, first: int, end: int) -> list[Facts]:
        """Returns the facts of each symbol's series over the days from first to end, exclusive.

        Work is read first and bars last: what comes in meanwhile is then both under way and there, never neither.
        """
        ids = [symbol.symbol_id for symbol in symbols]
        span = (date_of(first), date_of(end))
        async with reading(self._db) as conn:
            work = await conn.fetch(OPEN_WORK, ids, timeframe, *span)
            series = {row["symbol_id"]: row for row in await conn.fetch(SERIES, ids, timeframe)}
            suspects = _suspects(await conn.fetch(SUSPECTS, ids, timeframe, *span))
            present = await (_minutes(conn, ids, *span) if timeframe == MINUTE else _days(conn, ids, *span))
        of_series, of_market = _work(work)
        found = []
        for symbol in symbols:
            key, calendar = symbol.symbol_id, calendar_of(symbol.asset_class)
            days, regular = present.get(key, (NO_DAYS, NO_DAYS))
            facts = Facts(
                symbol=symbol,
                timeframe=timeframe,
                listed=_listed(symbol),
                ledger=_ledger(series[key], timeframe, calendar) if key in series else Ledger(),
                suspects=suspects[key],
                open_work=of_series[key] + of_market[calendar == EVERY_DAY],
                present=days,
                regular=regular,
            )
            found.append(facts)
        return found


async def _days(conn: Connection, ids: Sequence[int], first: date, end: date) -> dict[int, tuple[IntArray, IntArray]]:
    start, stop = (datetime.combine(day, time(), UTC) for day in (first, end))
    if (end - first).days == 1:
        held = np.array([day_of(first)], np.int64)
        return {row["symbol_id"]: (held, NO_DAYS) for row in await conn.fetch(HOLDERS_OF_DAY, ids, start)}
    found = {}
    for symbol_id in ids:
        found[symbol_id] = (np.array(await conn.fetchval(DAYS, symbol_id, start, stop) or [], np.int64), NO_DAYS)
    return found


async def _minutes(
    conn: Connection, ids: Sequence[int], first: date, end: date
) -> dict[int, tuple[IntArray, IntArray]]:
    rows = await conn.fetch(MINUTES, ids, first, end)
    return {row["symbol_id"]: (np.array(row["days"], np.int64), np.array(row["regular"], np.int64)) for row in rows}


def _ledger(row: asyncpg.Record, timeframe: int, calendar: str) -> Ledger:
    first_ms = row["first_ms"]
    daily = timeframe == DAY
    return Ledger(
        asked=as_days(row["asked"]),
        failed=as_days(row["failed"]),
        outside_plan=as_days(row["outside_plan"]),
        deleted=as_days(row["deleted"]),
        last_error=row["last_error"],
        first_bar=None if first_ms is None else _day_of_bar(first_ms, calendar, daily=daily),
    )


def _day_of_bar(ts: int, calendar: str, *, daily: bool) -> int:
    return ts // DAY_MS if daily else int(days_of_minutes(np.array([ts], np.int64), calendar)[0])


def _listed(symbol: Symbol) -> Ranges:
    """Returns the days on which a symbol has a ticker, within its listing where that is known."""
    listed = day_of(symbol.list_date or date.min)
    delisted = day_of(symbol.delist_date or date.max) + 1
    spans = ((day_of(span.from_date), day_of(span.to_date or date.max) + 1) for span in symbol.spans)
    return tuple((max(first, listed), min(end, delisted)) for first, end in spans)


def _work(rows: Iterable[asyncpg.Record]) -> tuple[dict[int, list[OpenWork]], dict[bool, list[OpenWork]]]:
    """Returns the open work by symbol, and that of the whole market by whether it is crypto."""
    of_series: dict[int, list[OpenWork]] = defaultdict(list)
    of_market: dict[bool, list[OpenWork]] = defaultdict(list)
    for row in rows:
        one = OpenWork(day_of(row["first_date"]), day_of(row["last_date"]) + 1, row["reason"])
        if row["symbol_id"] is None:
            of_market[bool(row["crypto"])].append(one)
        else:
            of_series[row["symbol_id"]].append(one)
    return of_series, of_market


def _suspects(rows: Iterable[asyncpg.Record]) -> dict[int, list[Suspect]]:
    found: dict[int, list[Suspect]] = defaultdict(list)
    for row in rows:
        first, end = day_of(row["first_date"]), day_of(row["last_date"]) + 1
        found[row["symbol_id"]].append(Suspect(first, end, row["asks"], row["next_ask_time"], row["gave_up_reason"]))
    return found
