"""The schedule: which sessions it has run and will run, and whether it is paused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from services.ingest.calendar import EVERY_DAY, XNYS
from services.ingest.store.jobs import read_jobs
from services.ingest.store.steering import begin_change

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from uuid import UUID

    from services.ingest.store.jobs import Job
    from services.kit.calls import Call
    from services.kit.db import Connection, Database
    from services.kit.recorder import Recorder

DELAYS = {XNYS: timedelta(hours=4, minutes=15), EVERY_DAY: timedelta(minutes=15)}
"""How long after its close a session is planned: stocks trade on for four hours, and the provider needs a moment."""

# $3: the time to judge by; the database's clock where it is null.
SESSIONS_AROUND = """
SELECT d.calendar, due.session_date AS due_date, due.close_time AS due_close, coming.session_date AS next_date,
       coming.close_time AS next_close, soon.close_time AS soon_close, r.regular IS TRUE AS done,
       EXISTS (SELECT FROM ingest.schedule_runs k WHERE k.calendar = d.calendar) AS begun,
       coalesce($3, clock_timestamp()) AS now
FROM unnest($1::text[], $2::interval[]) AS d (calendar, delay)
CROSS JOIN LATERAL (
  SELECT s.session_date, s.close_time
  FROM ingest.sessions s
  WHERE s.calendar = d.calendar
    AND s.close_time <= coalesce($3, clock_timestamp()) - d.delay
  ORDER BY s.close_time DESC
  LIMIT 1
) due
CROSS JOIN LATERAL (
  SELECT s.session_date, s.close_time
  FROM ingest.sessions s
  WHERE s.calendar = d.calendar
    AND s.close_time > coalesce($3, clock_timestamp()) - d.delay
  ORDER BY s.close_time
  LIMIT 1
) coming
CROSS JOIN LATERAL (
  SELECT s.close_time
  FROM ingest.sessions s
  WHERE s.calendar = d.calendar
    AND s.close_time > coalesce($3, clock_timestamp())
  ORDER BY s.close_time
  LIMIT 1
) soon
LEFT JOIN ingest.schedule_runs r ON r.calendar = d.calendar AND r.session_date = due.session_date
ORDER BY d.calendar
"""

LAST_RUNS = """
SELECT DISTINCT ON (r.calendar) r.calendar, r.session_date, r.backfill_id, r.result, r.run_time
FROM ingest.schedule_runs r
ORDER BY r.calendar, r.session_date DESC
"""

HAS_BEGUN = """
SELECT EXISTS (SELECT FROM ingest.schedule_runs WHERE calendar = $1)
"""

# Who takes a session plans it. A run that was asked for before its time does not stand for the regular one.
TAKE = """
INSERT INTO ingest.schedule_runs AS r (calendar, session_date, regular, result)
VALUES ($1, $2, true, $3)
ON CONFLICT (calendar, session_date) DO UPDATE
SET regular = true, result = excluded.result, backfill_id = NULL, run_time = clock_timestamp()
WHERE NOT r.regular
RETURNING true
"""

NOTE = """
INSERT INTO ingest.schedule_runs AS r (calendar, session_date, regular, backfill_id, result)
VALUES ($1, $2, false, $3, $4)
ON CONFLICT (calendar, session_date) DO UPDATE
SET backfill_id = excluded.backfill_id, result = excluded.result, run_time = clock_timestamp()
"""

DROP_RUNS = """
DELETE FROM ingest.schedule_runs
WHERE run_time < clock_timestamp() - make_interval(days => $1)
"""

STATE = """
SELECT paused, note, changed_by, changed_by_preview, change_time
FROM ingest.schedule
"""

SET_STATE = """
UPDATE ingest.schedule
SET paused = $1, note = $2, changed_by = $3, changed_by_preview = $4, change_time = clock_timestamp()
WHERE paused <> $1
   OR note <> $2
"""

HAS_DUE_SUSPECTS = """
SELECT EXISTS (
  SELECT FROM ingest.suspects s
  JOIN symbols.ticker_spans t USING (symbol_id)
  WHERE s.next_ask_time <= coalesce($1, clock_timestamp())
    AND t.active
)
"""

# As store.starts.QUEUE counts: 600 minutes a session of a stock, 50,000 bars a request.
SCHEDULED_REQUESTS = """
SELECT coalesce(sum(ceil(greatest(
         CASE WHEN s.timeframe = 1 AND s.asset_class = 3 THEN 1440 WHEN s.timeframe = 1 THEN 430 ELSE 1 END
         * (s.last_date - coalesce(s.cursor::date, s.first_date) + 1), 1) / 50000.0)), 0)::bigint
FROM ingest.slices s
WHERE s.state IN (1, 2)
  AND NOT s.held
  AND s.priority = 4
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The sessions of a calendar around now: the last one whose time to be planned has come, and the next one.

    `done` says that the last one was planned; `begun` that any was; `soon_close` is the next close.
    """

    calendar: str
    due_date: date
    due_close: datetime
    next_date: date
    next_close: datetime
    soon_close: datetime
    done: bool
    begun: bool
    now: datetime

    @property
    def next_run(self) -> tuple[date, datetime]:
        """Returns the session that is planned next, and when; a time that is over means as soon as possible."""
        delay = DELAYS[self.calendar]
        if self.begun and not self.done:
            return self.due_date, self.due_close + delay
        return self.next_date, self.next_close + delay


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The newest session of a calendar that the schedule has run."""

    calendar: str
    session_date: date
    backfill_id: UUID | None
    result: str
    run_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Whether the schedule is paused, why, and who said so."""

    paused: bool
    note: str
    changed_by: UUID | None
    changed_by_preview: str
    change_time: datetime | None


class Schedule:
    """Reads and changes ingest.schedule and ingest.schedule_runs; `now` None means the database's clock."""

    def __init__(self, db: Database, recorder: Recorder) -> None:
        self._db = db
        self._recorder = recorder

    async def state(self) -> State:
        """Returns whether it is paused."""
        async with self._db.connection() as conn:
            return await read_state(conn)

    async def set_state(self, call: Call, *, paused: bool, note: str) -> State:
        """Pauses or resumes it; once this has returned, nothing is planned by a state that was before."""
        async with self._recorder.change(call) as conn:
            await begin_change(conn)
            await conn.execute(SET_STATE, paused, note, call.key_id, call.key_preview)
            return await read_state(conn)

    async def around(self, now: datetime | None = None) -> list[Around]:
        """Returns the sessions around now, by calendar."""
        rows = await self._db.fetch(SESSIONS_AROUND, list(DELAYS), list(DELAYS.values()), now)
        return [Around(**row) for row in rows]

    async def last_runs(self) -> dict[str, LastRun]:
        """Returns the newest run of each calendar that had one."""
        return {row["calendar"]: LastRun(**row) for row in await self._db.fetch(LAST_RUNS)}

    async def jobs(self, backfill_ids: Sequence[UUID]) -> dict[UUID, Job]:
        """Returns those of the jobs that exist."""
        async with self._db.connection() as conn:
            return await read_jobs(conn, backfill_ids)

    async def has_due_suspects(self, now: datetime | None) -> bool:
        """Says whether any session in doubt of an active symbol is to be asked for again."""
        return bool(await self._db.fetchval(HAS_DUE_SUSPECTS, now))

    async def requests(self) -> int:
        """Returns about how many requests are still to be sent for what the schedule has planned."""
        return int(await self._db.fetchval(SCHEDULED_REQUESTS))

    async def drop_runs(self, days: int) -> None:
        """Drops runs of more than so many days ago."""
        await self._db.execute(DROP_RUNS, days)


async def read_state(conn: Connection) -> State:
    """Returns whether the schedule is paused, as its transaction sees it."""
    row = await conn.fetchrow(STATE)
    assert row is not None  # noqa: S101 - the migration made the row
    return State(**row)


async def has_begun(conn: Connection, calendar: str) -> bool:
    """Says whether a calendar ever had a run."""
    return bool(await conn.fetchval(HAS_BEGUN, calendar))


async def take(conn: Connection, calendar: str, session_date: date, result: str) -> bool:
    """Makes a session's regular run ours; False if another replica has it. Ends with the transaction."""
    return bool(await conn.fetchval(TAKE, calendar, session_date, result))


async def note(conn: Connection, calendar: str, session_date: date, backfill_id: UUID | None, result: str) -> None:
    """Notes what a run has come to."""
    await conn.execute(NOTE, calendar, session_date, backfill_id, result)
