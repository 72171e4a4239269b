"""Plans the sessions that have closed, each once among all replicas, and asks again for those that came empty."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.ingest.calendar import XNYS, calendar_of, date_of, day_of
from services.ingest.scheduled_plans import requests_a_day
from services.ingest.store import schedule, sessions
from services.ingest.store.jobs import read_job
from services.ingest.store.scheduled_jobs import ask_again, insert_run, last_closed, plan_run
from services.ingest.store.steering import begin_change
from services.ingest.store.syncs import insert_scheduled_actions
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from uuid import UUID

    from services.ingest.scheduled_plans import ScheduledPlan
    from services.ingest.store.jobs import Job
    from services.ingest.store.schedule import Around, LastRun, Schedule, State
    from services.ingest.store.scheduled_jobs import Days
    from services.ingest.store.starts import Original
    from services.ingest.store.symbols import SymbolStore
    from services.kit.background import Background
    from services.kit.calls import Call
    from services.kit.db import Connection, Database
    from services.kit.recorder import Recorder
    from services.kit.requests import Requests

log = get(__name__)

LOOK_SECONDS = 15.0
ASK_AGAIN_SECONDS = 60.0
DROP_SECONDS = 3_600.0
RUN_DAYS = 400

BEGUN = "the schedule begins after this session"
"""What a fresh warehouse notes instead of a run: there is nothing yet to be kept fresh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What GetSchedule tells: by calendar the sessions around now, the last run with its job, and active series."""

    state: State
    around: list[Around]
    last_runs: Mapping[str, LastRun]
    jobs: Mapping[UUID, Job]
    series: Mapping[str, int]
    requests: int
    requests_a_day: int


class Scheduler:
    """Runs on every replica; `clock` stands for the database's in tests."""

    def __init__(
        self,
        *,
        db: Database,
        recorder: Recorder,
        requests: Requests,
        schedule: Schedule,
        symbols: SymbolStore,
        clock: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        self._db = db
        self._recorder = recorder
        self._requests = requests
        self._schedule = schedule
        self._symbols = symbols
        self._clock = clock
        self._days: Days = {}

    def add_to(self, background: Background) -> None:
        """Adds the verbs to what the server runs in the background."""
        background.every(LOOK_SECONDS, "schedule", self.run_due)
        background.every(ASK_AGAIN_SECONDS, "ask_again", self.ask_again)
        background.every(DROP_SECONDS, "drop_schedule_runs", lambda: self._schedule.drop_runs(RUN_DAYS))

    async def run_due(self) -> list[UUID]:
        """Plans the sessions whose time has come and that no replica has planned; returns the jobs."""
        jobs = []
        if not (await self._schedule.state()).paused:
            for around in await self._schedule.around(self._clock()):
                job = None if around.done else await self._run(around)
                jobs += [job] if job else []
        return jobs

    async def ask_again(self) -> list[UUID]:
        """Plans the sessions in doubt of active symbols whose time has come; returns the jobs."""
        now = self._clock()
        if (await self._schedule.state()).paused or not await self._schedule.has_due_suspects(now):
            return []
        days, symbols = await self._calendars(), await self._symbols.active()
        async with self._db.transaction() as conn:
            if await _is_paused(conn):
                return []
            return await ask_again(conn, symbols, days, now)

    async def run_now(self, call: Call, original: Original, answer: Callable[[Job], bytes]) -> bytes:
        """Plans all calendars up to their last closed session; returns the answer, or the first to a repeat."""
        days, symbols, now = await self._calendars(), await self._symbols.active(), self._clock()
        async with self._recorder.change(call) as conn:
            stored = await self._requests.claim(conn, call, original.request_id, original.body)
            if stored is not None:
                return stored
            await begin_change(conn)
            last = await last_closed(conn, now)
            planned = await plan_run(conn, symbols, days, last)
            backfill_id = await insert_run(conn, planned, call.key_id, original.summary)
            for calendar, day in last.items():
                await schedule.note(conn, calendar, date_of(day), backfill_id, _result(planned))
            reply = answer(await read_job(conn, backfill_id))
            await self._requests.store(conn, call, original.request_id, reply)
        return reply

    async def overview(self) -> Overview:
        """Returns what there is to tell of the schedule."""
        last_runs = await self._schedule.last_runs()
        series = Counter(
            (calendar_of(symbol.asset_class), timeframe)
            for symbol in await self._symbols.active()
            for timeframe in symbol.timeframes
        )
        ids = [run.backfill_id for run in last_runs.values() if run.backfill_id]
        return Overview(
            state=await self._schedule.state(),
            around=await self._schedule.around(self._clock()),
            last_runs=last_runs,
            jobs=await self._schedule.jobs(ids),
            series=Counter(calendar for calendar, _ in series.elements()),
            requests=await self._schedule.requests(),
            requests_a_day=sum(requests_a_day(timeframe, count) for (_, timeframe), count in series.items()),
        )

    async def _run(self, around: Around) -> UUID | None:
        """Plans a session unless another replica has; the row that says so commits with the job."""
        days, symbols = await self._calendars(), await self._symbols.active()
        calendar, session = around.calendar, around.due_date
        async with self._db.transaction() as conn:
            if await _is_paused(conn):
                return None
            begun = await schedule.has_begun(conn, calendar)
            if not await schedule.take(conn, calendar, session, BEGUN) or not begun:
                return None
            planned = await plan_run(conn, symbols, days, {calendar: day_of(session)})
            backfill_id = await insert_run(conn, planned, None) if planned.series else None
            if calendar == XNYS and planned.series:
                await insert_scheduled_actions(conn, session)
            await schedule.note(conn, calendar, session, backfill_id, _result(planned))
        log.info("schedule_run", calendar=calendar, session=str(session), result=_result(planned))
        return backfill_id

    async def _calendars(self) -> Days:
        """Returns the days with a session, by calendar; reads them the first time."""
        if not self._days:
            calendars = await sessions.load(self._db)
            self._days = {name: calendar.days.tolist() for name, calendar in calendars.items()}
        return self._days


async def _is_paused(conn: Connection) -> bool:
    """Waits until no other change of jobs is under way, and says whether the schedule is paused now."""
    await begin_change(conn)
    return (await schedule.read_state(conn)).paused


def _result(planned: ScheduledPlan) -> str:
    plan = planned.plan
    if not planned.series:
        return "no active series"
    new, longer = len(plan.slices) + len(plan.days), len(planned.lengthened)
    return f"{planned.series} series: {new} slices planned, {longer} lengthened, {len(plan.shared) - longer} shared"
