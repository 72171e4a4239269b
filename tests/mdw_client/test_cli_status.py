"""The command `mdw`: status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from mdw.ingest.v1 import ingest_pb2
from mdw.symbols.v1 import symbols_pb2
from mdw_client.cli.status import HEALTH
from services.kit import errors
from tests.mdw_client.test_cli import DAY, JOB, STOCK

if TYPE_CHECKING:
    from tests.mdw_client.warehouse import Warehouse


def _serve_health(warehouse: Warehouse, answer: bytes) -> None:
    def check(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.send_initial_metadata((("x-mdw-version", "9.9"),))
        return answer

    handler = grpc.unary_unary_rpc_method_handler(check)
    service, _, method = HEALTH.strip("/").partition("/")
    warehouse._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])


def test_status_says_what_is_stored_and_under_way(warehouse: Warehouse, ran) -> None:
    _serve_health(warehouse, b"\x08\x01")
    figures = symbols_pb2.GetRegistryStatisticsResponse()
    figures.asset_classes.add(asset_class=STOCK, symbols=10, active=9)
    figures.timeframes.add(timeframe=DAY, series=10, bars=44_000, validated_share=0.98)
    figures.stalest.add(ticker="TSLA", timeframe=DAY, sessions_behind=3)
    warehouse.answers |= {
        "GetRegistryStatistics": figures,
        "ListBackfills": ingest_pb2.ListBackfillsResponse(backfills=[JOB]),
    }
    found = ran("status")
    assert found.status == 0
    assert [text in found.out for text in ("SERVING 9.9", "44,000", "98.0%", "TSLA", "b-1")] == [True] * 5
    objects = ran("status", "--json").objects
    assert objects[0] == {"service": "auth", "target": warehouse.target, "state": "SERVING", "version": "9.9"}
    warehouse.answers = {
        "GetRegistryStatistics": errors.PermissionDenied("SCOPE_MISSING", "the key lacks symbols.read")
    }
    found = ran("status")
    assert "lacks symbols.read" in found.out
    assert "no backfill is under way" in found.out


def test_status_says_how_ingest_is_doing(warehouse: Warehouse, ran) -> None:
    _serve_health(warehouse, b"\x08\x01")
    found = ingest_pb2.GetIngestStatusResponse()
    found.queue.slices_pending, found.queue.slices_running, found.queue.slices_lost = 1_200, 2, 1
    found.limiter.requests_per_minute, found.limiter.granted_last_minute = 5, 4
    found.series.add(asset_class=STOCK, timeframe=DAY, series=77, current=70, sessions_missing=1_234)
    found.database.schema_version, found.database.size_bytes, found.database.standbys = 12, 3_400_000_000, 2
    schedule = ingest_pb2.GetScheduleResponse()
    calendar = schedule.schedule.calendars.add(asset_classes=[STOCK], next_session_date="2024-05-02")
    calendar.last_run.session_date, calendar.last_run.result = "2024-05-01", "77 slices"
    warehouse.answers |= {"GetIngestStatus": found, "GetSchedule": schedule}
    out = ran("status").out
    for text in (
        "1,200 due, 0 to be tried again, 0 held, 2 running (1 of them lost)",
        "4 of 5 requests in the last minute",
        "schema 12, 3.4 GB",
        "2, no commit waits for one: a failover could undo",
        "stock: last 2024-05-01 77 slices, next 2024-05-02 at",
        "1,234",
    ):
        assert text in out
    found.database.synchronous, found.limiter.requests_per_minute = True, 0
    schedule.schedule.paused, schedule.schedule.note = True, "moving house"
    out = ran("status").out
    for text in ("2, each commit waits for one", "4 requests, no limit, in the last minute", "paused moving house"):
        assert text in out
    assert ran("status", "--json").status == 0


def test_status_is_try_again_where_a_service_is_not_well(warehouse: Warehouse, ran) -> None:
    _serve_health(warehouse, b"\x08\x02")
    found = ran("status")
    assert found.status == 75
    assert "NOT_SERVING" in found.out
    warehouse.stop()
    assert "AWAY" in ran("status").out
