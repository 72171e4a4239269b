"""Answers how all of ingest is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdw.ingest.v1 import ingest_pb2
from services.kit import checks

if TYPE_CHECKING:
    from services.ingest.store.overview import Freshness, OverviewStore, Safety, Stale, Work

MOST_STALEST = 100
_STALEST = 5


class Status:
    """Reads anew for each question; what Prometheus is shown is looked up every so often (services.ingest.overview)."""

    def __init__(self, store: OverviewStore, *, requests_per_minute: int) -> None:
        self._store = store
        self._requests_per_minute = requests_per_minute

    async def read(self, request: ingest_pb2.GetIngestStatusRequest) -> ingest_pb2.GetIngestStatusResponse:
        limit = request.stalest if request.HasField("stalest") else _STALEST
        checks.integer("stalest", limit, minimum=0, maximum=MOST_STALEST)
        work, safety = await self._store.work(), await self._store.safety()
        kinds, stalest = await self._store.series(limit)
        return ingest_pb2.GetIngestStatusResponse(
            queue=_queue(work),
            limiter=ingest_pb2.LimiterStatus(
                requests_per_minute=self._requests_per_minute, granted_last_minute=work.granted
            ),
            series=[_series(each) for each in kinds],
            stalest=[_late(each) for each in stalest],
            database=_database(safety),
            read_time=checks.timestamp(safety.now),
        )


def _queue(work: Work) -> ingest_pb2.QueueStatus:
    return ingest_pb2.QueueStatus(
        slices_pending=work.pending,
        slices_waiting=work.waiting,
        slices_held=work.held,
        slices_running=work.running,
        slices_lost=work.lost,
        slices_succeeded=work.succeeded,
        slices_failed=work.failed,
        slices_outside_plan=work.outside_plan,
        slices_cancelled=work.cancelled,
        backfills_pending=work.jobs_pending,
        backfills_running=work.jobs_running,
        backfills_paused=work.jobs_paused,
        oldest_backfill_time=checks.timestamp(work.jobs_oldest),
    )


def _series(each: Freshness) -> ingest_pb2.SeriesStatus:
    return ingest_pb2.SeriesStatus(
        asset_class=each.asset_class,  # type: ignore[arg-type]
        timeframe=each.timeframe,  # type: ignore[arg-type]
        series=each.series,
        empty=each.empty,
        current=each.current,
        late=each.late,
        behind=each.behind,
        most_behind=each.most_behind,
        failed=each.failed,
        sessions_missing=each.sessions_missing,
    )


def _late(each: Stale) -> ingest_pb2.LateSeries:
    return ingest_pb2.LateSeries(
        symbol_id=each.symbol_id,
        ticker=each.ticker,
        asset_class=each.asset_class,  # type: ignore[arg-type]
        timeframe=each.timeframe,  # type: ignore[arg-type]
        sessions_behind=each.behind,
    )


def _database(safety: Safety) -> ingest_pb2.DatabaseStatus:
    return ingest_pb2.DatabaseStatus(
        schema_version=safety.schema_version,
        size_bytes=safety.bytes,
        standbys=safety.standbys,
        synchronous=safety.synchronous,
    )
