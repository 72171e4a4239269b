"""Turns what the store returns into messages of the IngestService."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1 import ingest_pb2
from services.ingest.calendar import date_of

if TYPE_CHECKING:
    from services.ingest.planner import Skipped
    from services.ingest.store.jobs import Job, Slice
    from services.ingest.store.rejects import RejectedBar
    from services.ingest.store.starts import Planned
    from services.ingest.watching import Observation, Pace

MAX_SKIPPED = 1_000


def to_backfill(job: Job, pace: Pace) -> ingest_pb2.Backfill:
    """Returns a job as people see it."""
    return ingest_pb2.Backfill(
        backfill_id=str(job.backfill_id),
        kind=job.kind,  # type: ignore[arg-type]
        state=job.state,  # type: ignore[arg-type]
        pause_reason=job.pause_reason,
        mode=job.mode,  # type: ignore[arg-type]
        priority=job.priority,  # type: ignore[arg-type]
        timeframes=job.timeframes,  # type: ignore[arg-type]
        start_time=_midnight(job.first_date),
        end_time=_midnight(job.last_date and job.last_date + timedelta(days=1)),
        progress=_progress(job, pace),
        error=job.error,
        key_id=str(job.key_id or ""),
        create_time=_time(job.create_time),
        start_work_time=_time(job.start_time),
        finish_time=_time(job.finish_time),
    )


def to_watched(seen: Observation) -> ingest_pb2.WatchBackfillResponse:
    """Returns a message of the stream."""
    return ingest_pb2.WatchBackfillResponse(backfill=to_backfill(seen.job, seen.pace))


def to_plan(planned: Planned) -> ingest_pb2.BackfillPlan:
    """Returns a plan as people see it."""
    plan = planned.plan
    return ingest_pb2.BackfillPlan(
        slices=len(plan.slices) + len(plan.days),
        shared_slices=len(plan.shared),
        requests=plan.requests,
        estimated_bars=plan.bars,
        estimated_bytes=plan.bytes,
        estimated_time=_duration(planned.seconds),
        sessions_held=plan.sessions_held,
        skipped=[_skipped(one) for one in plan.skipped[:MAX_SKIPPED]],
    )


def to_slice(row: Slice) -> ingest_pb2.Slice:
    """Returns a slice as people see it."""
    return ingest_pb2.Slice(
        slice_id=row.slice_id,
        kind=row.kind,  # type: ignore[arg-type]
        symbol_id=row.symbol_id or 0,
        provider_ticker=row.provider_ticker,
        timeframe=row.timeframe or 0,  # type: ignore[arg-type]
        first_date=str(row.first_date or ""),
        last_date=str(row.last_date or ""),
        state=row.state,  # type: ignore[arg-type]
        attempts=row.attempts,
        reason=row.reason,
        next_try_time=_time(row.next_try_time),
        cursor_time=_time(row.cursor),
        requests=row.requests,
        bars_inserted=row.inserted,
        bars_updated=row.updated,
        bars_unchanged=row.unchanged,
        bars_rejected=row.rejected,
        bars_deleted=row.deleted,
        subject=row.subject,
        rows_unknown=row.unknown,
    )


def to_rejected_bar(row: RejectedBar) -> ingest_pb2.RejectedBar:
    """Returns a refused bar as it came."""
    return ingest_pb2.RejectedBar(
        reject_id=row.reject_id,
        symbol_id=row.symbol_id or 0,
        provider_ticker=row.ticker,
        timeframe=row.timeframe,  # type: ignore[arg-type]
        start_time=_time(row.ts),
        reason=row.reason,
        raw=row.raw,
        first_seen_time=_time(row.first_seen),
        last_seen_time=_time(row.last_seen),
    )


def _progress(job: Job, pace: Pace) -> ingest_pb2.Progress:
    progress = job.progress
    return ingest_pb2.Progress(
        slices_done=progress.slices_done,
        slices_total=progress.slices_total,
        slices_failed=progress.slices_failed,
        slices_outside_plan=progress.slices_outside_plan,
        done_share=progress.done_share,
        bars_inserted=progress.inserted,
        bars_updated=progress.updated,
        bars_unchanged=progress.unchanged,
        bars_rejected=progress.rejected,
        bars_deleted=progress.deleted,
        requests=progress.requests,
        bars_per_second=round(pace.bars_per_second, 1),
        estimated_time_left=_duration(pace.seconds_left),
        current_ticker=progress.current_ticker or "",
    )


def _skipped(one: Skipped) -> ingest_pb2.SkippedSeries:
    reason = one.reason
    if one.first is not None and one.last is not None:
        reason = f"{reason}: {date_of(one.first)} to {date_of(one.last)}"
    return ingest_pb2.SkippedSeries(
        ticker=one.ticker,
        symbol_id=one.symbol_id,
        timeframe=one.timeframe,  # type: ignore[arg-type]
        reason=reason,
    )


def _time(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def _midnight(day: date | None) -> Timestamp | None:
    return None if day is None else _time(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _duration(seconds: float | None) -> Duration | None:
    return None if seconds is None else Duration(seconds=round(seconds))
