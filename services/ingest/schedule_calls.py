"""The schedule as its callers see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToJson

from mdw.ingest.v1 import ingest_pb2
from mdw.type.v1 import type_pb2
from services.ingest.answers import to_backfill
from services.ingest.calendar import EVERY_DAY
from services.ingest.planner import LIMITER_SECONDS
from services.ingest.store.starts import Original
from services.ingest.watching import overall_pace
from services.kit import calls, checks

if TYPE_CHECKING:
    from services.ingest.scheduling import Overview, Scheduler
    from services.ingest.store.jobs import Job
    from services.ingest.store.schedule import Around, LastRun, Schedule

MAX_NOTE = 200

_DAY_SECONDS = 86_400.0
_STOCKS = (type_pb2.ASSET_CLASS_STOCK, type_pb2.ASSET_CLASS_ETF)
_CRYPTO = (type_pb2.ASSET_CLASS_CRYPTO,)


class Scheduling:
    """Answers the calls that are about the schedule."""

    def __init__(self, *, scheduler: Scheduler, schedule: Schedule, requests_per_minute: int) -> None:
        self._scheduler = scheduler
        self._schedule = schedule
        self._requests_per_minute = requests_per_minute

    async def overview(self) -> ingest_pb2.Schedule:
        """Returns the schedule as it stands."""
        return to_schedule(await self._scheduler.overview(), self._requests_per_minute)

    async def set_paused(self, note: str, *, paused: bool) -> ingest_pb2.Schedule:
        """Pauses or resumes the schedule and returns it."""
        checked = checks.text("note", note, maximum=MAX_NOTE) if note else ""
        await self._schedule.set_state(calls.current(), paused=paused, note=checked)
        return await self.overview()

    async def run(self, request: ingest_pb2.RunScheduleRequest) -> ingest_pb2.RunScheduleResponse:
        """Answers RunSchedule."""
        if request.request_id:
            checks.uuid("request_id", request.request_id)
        original = Original(request.request_id, request.SerializeToString(deterministic=True), MessageToJson(request))
        answer = await self._scheduler.run_now(calls.current(), original, _started)
        return ingest_pb2.RunScheduleResponse.FromString(answer)


def to_schedule(seen: Overview, requests_per_minute: int) -> ingest_pb2.Schedule:
    """Returns the schedule as people see it; 0 requests a minute mean no limit."""
    state = seen.state
    closes = [around for around in seen.around if seen.series.get(around.calendar)] or seen.around
    soonest = min(closes, key=lambda around: around.soon_close)
    return ingest_pb2.Schedule(
        paused=state.paused,
        note=state.note,
        changed_by_key_id=str(state.changed_by or ""),
        changed_by_preview=state.changed_by_preview,
        change_time=checks.timestamp(state.change_time),
        calendars=[_calendar(seen, around) for around in seen.around],
        next_close_time=checks.timestamp(soonest.soon_close),
        requests_needed=seen.requests,
        requests_available=_to_be_had((soonest.soon_close - soonest.now).total_seconds(), requests_per_minute),
        requests_needed_a_day=seen.requests_a_day,
        requests_available_a_day=_to_be_had(_DAY_SECONDS, requests_per_minute),
    )


def _started(job: Job) -> bytes:
    answer = ingest_pb2.RunScheduleResponse(backfill=to_backfill(job, overall_pace(job)))
    return answer.SerializeToString(deterministic=True)


def _to_be_had(seconds: float, requests_per_minute: int) -> int | None:
    return int(seconds * requests_per_minute / LIMITER_SECONDS) if requests_per_minute else None


def _calendar(seen: Overview, around: Around) -> ingest_pb2.CalendarSchedule:
    session, time = around.next_run
    last = seen.last_runs.get(around.calendar)
    return ingest_pb2.CalendarSchedule(
        asset_classes=_CRYPTO if around.calendar == EVERY_DAY else _STOCKS,
        series=seen.series.get(around.calendar, 0),
        next_session_date=session.isoformat(),
        next_run_time=checks.timestamp(time),
        last_run=None if last is None else _run(seen, last),
    )


def _run(seen: Overview, run: LastRun) -> ingest_pb2.ScheduleRun:
    job = seen.jobs.get(run.backfill_id) if run.backfill_id else None
    return ingest_pb2.ScheduleRun(
        session_date=run.session_date.isoformat(),
        run_time=checks.timestamp(run.run_time),
        result=run.result,
        backfill=None if job is None else to_backfill(job, overall_pace(job)),
    )
