"""Reads how the whole of ingest is doing: queue, limiter, freshness, standbys. No statement here reads a bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from services.kit.db import Connection, Database

OPEN_SLICES = """
SELECT count(*) FILTER (WHERE state = 1 AND NOT held AND (next_try_time <= clock_timestamp()) IS NOT FALSE) AS pending,
       count(*) FILTER (WHERE state = 1 AND NOT held AND next_try_time > clock_timestamp()) AS waiting,
       count(*) FILTER (WHERE state = 1 AND held) AS held,
       count(*) FILTER (WHERE state = 2) AS running,
       count(*) FILTER (WHERE state = 2 AND lease_until < clock_timestamp()) AS lost
FROM ingest.slices
WHERE state IN (1, 2)
"""

OPEN_JOBS = """
SELECT count(*) FILTER (WHERE state = 1) AS pending,
       count(*) FILTER (WHERE state = 2) AS running,
       count(*) FILTER (WHERE state = 3) AS paused,
       min(create_time) FILTER (WHERE state IN (1, 2)) AS oldest
FROM ingest.backfills
WHERE state IN (1, 2, 3)
"""

ENDED_SLICES = """
SELECT count(*) FILTER (WHERE state = 3) AS succeeded,
       count(*) FILTER (WHERE state = 4) AS failed,
       count(*) FILTER (WHERE state = 5) AS outside_plan,
       count(*) FILTER (WHERE state = 6) AS cancelled
FROM ingest.slices
WHERE end_time > clock_timestamp() - interval '1 day'
"""

GRANTED = """
SELECT count(*) AS granted
FROM ingest.limiter
WHERE grant_time > clock_timestamp() - interval '1 minute'
"""

# Whoever may not read all statistics still sees how many rows there are.
SAFETY = """
SELECT (SELECT count(*) FROM pg_stat_replication) AS standbys,
       current_setting('synchronous_standby_names') AS synchronous,
       current_setting('synchronous_commit') AS commit,
       (SELECT max(version) FROM migrator.history WHERE state <> 'STARTED') AS schema_version,
       pg_database_size(current_database()) AS bytes,
       clock_timestamp() AS now
"""

# What the schedule keeps fresh: series of active, listed symbols, held or not yet.
SERIES = """
WITH kept AS (
  SELECT DISTINCT t.symbol_id, t.asset_class, unnest(t.timeframes) AS timeframe
  FROM symbols.ticker_spans t
  WHERE t.active
    AND (t.delist_date IS NULL OR t.delist_date > (statement_timestamp() AT TIME ZONE 'UTC')::date)
), series AS MATERIALIZED (
  SELECT k.symbol_id, k.asset_class, k.timeframe, coalesce(f.bars, 0) AS bars,
         coalesce(NOT isempty(r.failed), false) AS failed,
         greatest(f.closed_ordinal - f.last_ordinal, 0) AS behind,
         greatest(f.last_ordinal - f.first_ordinal + 1 - f.sessions_present, 0) AS missing
  FROM kept k
  LEFT JOIN ingest.series r USING (symbol_id, timeframe)
  LEFT JOIN ingest.series_figures f USING (symbol_id, timeframe)
)
SELECT
  (SELECT array_agg((asset_class, timeframe, series, empty, current, late, behind, most_behind, failed, missing)
                    ORDER BY asset_class, timeframe)
   FROM (SELECT asset_class, timeframe, count(*) AS series,
                count(*) FILTER (WHERE bars = 0) AS empty,
                count(*) FILTER (WHERE bars > 0 AND behind = 0) AS current,
                count(*) FILTER (WHERE bars > 0 AND behind = 1) AS late,
                count(*) FILTER (WHERE bars > 0 AND behind > 1) AS behind,
                coalesce(max(behind) FILTER (WHERE bars > 0), 0)::integer AS most_behind,
                count(*) FILTER (WHERE failed) AS failed,
                coalesce(sum(missing), 0)::bigint AS missing
         FROM series
         GROUP BY asset_class, timeframe) x) AS kinds,
  (SELECT array_agg((symbol_id, asset_class, timeframe, behind, ticker) ORDER BY behind DESC, symbol_id, timeframe)
   FROM (SELECT symbol_id, asset_class, timeframe, behind
         FROM series
         WHERE bars > 0
           AND behind > 0
         ORDER BY behind DESC, symbol_id, timeframe
         LIMIT $1) x
   CROSS JOIN LATERAL (
     SELECT t.ticker
     FROM symbols.ticker_spans t
     WHERE t.symbol_id = x.symbol_id
     ORDER BY t.from_date DESC
     LIMIT 1
   ) named) AS stalest
"""

STORED = """
SELECT timeframe, sum(bars)::bigint AS bars
FROM ingest.series
GROUP BY timeframe
ORDER BY timeframe
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The queue and the limiter, now; `ended` slices of the last day."""

    pending: int = 0
    waiting: int = 0
    held: int = 0
    running: int = 0
    lost: int = 0
    """Running, and their lease has ended."""
    jobs_pending: int = 0
    jobs_running: int = 0
    jobs_paused: int = 0
    jobs_oldest: datetime | None = None
    succeeded: int = 0
    failed: int = 0
    outside_plan: int = 0
    cancelled: int = 0
    granted: int = 0
    """Requests granted in the last minute."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far the series of a class and timeframe are behind the last closed session."""

    asset_class: int
    timeframe: int
    series: int
    empty: int
    current: int
    late: int
    """Behind by one session."""
    behind: int
    """Behind by more."""
    most_behind: int
    failed: int
    sessions_missing: int
    """Between the first and the last bar."""


@dataclass(frozen=True, slots=True)
class Stale:
    """A series that is behind."""

    symbol_id: int
    asset_class: int
    timeframe: int
    behind: int
    ticker: str


@dataclass(frozen=True, slots=True)
class Safety:
    """What a loss of the primary would cost, and how large the database is."""

    standbys: int
    synchronous: bool
    """A commit waits for a standby."""
    schema_version: int
    bytes: int
    now: datetime


class OverviewStore:
    """Reads figures of the whole."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def work(self) -> Work:
        async with self._db.connection() as conn:
            slices, jobs = await _one(conn, OPEN_SLICES), await _one(conn, OPEN_JOBS)
            ended, granted = await _one(conn, ENDED_SLICES), await _one(conn, GRANTED)
        return Work(**slices, **ended, **granted, **{f"jobs_{name}": value for name, value in jobs.items()})

    async def series(self, stalest: int) -> tuple[list[Freshness], list[Stale]]:
        """Returns how the series are by class and timeframe, and those furthest behind, at most so many."""
        async with self._db.connection() as conn:
            row = await _one(conn, SERIES, stalest)
        return [Freshness(*each) for each in row["kinds"] or ()], [Stale(*each) for each in row["stalest"] or ()]

    async def stored(self) -> dict[int, int]:
        """Returns how many bars each timeframe has."""
        return {row["timeframe"]: row["bars"] for row in await self._db.fetch(STORED)}

    async def safety(self) -> Safety:
        async with self._db.connection() as conn:
            row = await _one(conn, SAFETY)
        synchronous = bool(row["synchronous"]) and row["commit"] not in ("off", "local")
        return Safety(row["standbys"], synchronous, row["schema_version"], row["bytes"], row["now"])


async def _one(conn: Connection, sql: str, *args: Any) -> dict[str, Any]:
    """Returns the row of a statement that always has one."""
    row = await conn.fetchrow(sql, *args)
    return dict(row) if row else {}
