"""`mdw status`: one screen: services, what is stored, queue, freshness, holes, limiter, schedule, standbys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import grpc

from mdw_client.cli import base
from mdw_client.cli.backfill import COLUMNS, OPEN, row
from mdw_client.cli.failures import TRY_AGAIN
from mdw_client.errors import PermissionDenied
from mdw_client.settings import PORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mdw.ingest.v1 import ingest_pb2
    from mdw.symbols.v1 import symbols_pb2

HEALTH = "/grpc.health.v1.Health/Check"
SERVING = "SERVING"
_SERVING_BYTES = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}; its package would hold protobuf below 7."""
_PATIENCE = 2.0


@click.command(cls=base.Command)
@click.pass_obj
def status(app: base.App) -> int:
    """Says whether the services are well, what is stored, how fresh it is and what is under way."""
    asked = {service: _ask(app, service) for service in PORTS}
    found = {service: health(call) for service, call in asked.items()}
    for service, (state, version) in found.items():
        target = app.client.settings.targets[service]
        if app.as_json:
            click.echo(json.dumps({"service": service, "target": target, "state": state, "version": version}))
        else:
            app.print(f"{service:8} {target:32} {state} {version}".rstrip())
    well = all(state == SERVING for state, _ in found.values())
    for service, show in (("symbols", _stored), ("ingest", _doing), ("ingest", _under_way)):
        if found[service][0] == SERVING:
            _unless_denied(app, show)
    return 0 if well else TRY_AGAIN


def _ask(app: base.App, service: str) -> Any:
    check: Any = app.client.channel(service).unary_unary(HEALTH, request_serializer=bytes, response_deserializer=bytes)
    return check.future(b"", timeout=_PATIENCE)


def health(call: Any) -> tuple[str, str]:
    """Returns SERVING, NOT_SERVING or AWAY, and the version of a service that is there."""
    try:
        state = SERVING if call.result() == _SERVING_BYTES else "NOT_SERVING"
    except grpc.RpcError:
        return "AWAY", ""
    metadata = dict((*call.initial_metadata(), *call.trailing_metadata()))
    return state, str(metadata.get("x-mdw-version", ""))


def _unless_denied(app: base.App, show: Callable[[base.App], None]) -> None:
    """Leaves out what this key may not see."""
    try:
        show(app)
    except PermissionDenied as error:
        app.print(f"({error})")


def _stored(app: base.App) -> None:
    figures = app.client.symbols.registry_statistics(stalest=5)
    if app.as_json:
        base.print_json(figures)
        return
    app.many(
        figures.asset_classes,
        ("class", "symbols#", "active#"),
        lambda each: (base.asset_class(each.asset_class), f"{each.symbols:,}", f"{each.active:,}"),
    )
    app.many(
        figures.timeframes,
        ("timeframe", "series#", "bars#", "validated#"),
        lambda each: (
            base.timeframe(each.timeframe),
            f"{each.series:,}",
            f"{each.bars:,}",
            f"{each.validated_share:.1%}" if each.HasField("validated_share") else "",
        ),
    )
    behind = [each for each in figures.stalest if each.sessions_behind]
    if behind:
        app.many(behind, ("behind", "timeframe", "sessions#"), _behind)


def _behind(each: symbols_pb2.StaleSeries) -> tuple[str, str, str]:
    return each.ticker, base.timeframe(each.timeframe), f"{each.sessions_behind:,}"


def _doing(app: base.App) -> None:
    found, schedule = app.client.backfills.status(), app.client.schedule.get()
    if app.as_json:
        base.print_json(found)
        base.print_json(schedule)
        return
    if found.series:
        app.many(found.series, FRESHNESS, _fresh)
    app.one(found, lambda: (*_lines(found), *_planned(schedule)))


FRESHNESS = ("class", "timeframe", "series#", "current#", "late#", "behind#", "empty#", "failed#", "sessions missing#")


def _fresh(each: ingest_pb2.SeriesStatus) -> tuple[str, ...]:
    counts = (each.series, each.current, each.late, each.behind, each.empty, each.failed, each.sessions_missing)
    return base.asset_class(each.asset_class), base.timeframe(each.timeframe), *(f"{count:,}" for count in counts)


def _lines(found: ingest_pb2.GetIngestStatusResponse) -> Iterator[tuple[str, str]]:
    queue, limiter, database = found.queue, found.limiter, found.database
    lost = f" ({queue.slices_lost:,} of them lost)" if queue.slices_lost else ""
    waiting = f"{queue.slices_waiting:,} to be tried again, {queue.slices_held:,} held"
    yield "queue", f"{queue.slices_pending:,} due, {waiting}, {queue.slices_running:,} running{lost}"
    yield "last day", f"{queue.slices_succeeded:,} slices succeeded, {queue.slices_failed:,} failed"
    limit = f"of {limiter.requests_per_minute:,} requests" if limiter.requests_per_minute else "requests, no limit,"
    yield "limiter", f"{limiter.granted_last_minute:,} {limit} in the last minute"
    yield "database", f"schema {database.schema_version}, {base.size(database.size_bytes)}"
    yield "standbys", _standbys(database)


def _standbys(database: ingest_pb2.DatabaseStatus) -> str:
    if not database.synchronous:
        return f"{database.standbys}, no commit waits for one: a failover could undo audit rows and revocations"
    return f"{database.standbys}, each commit waits for one"


def _planned(schedule: ingest_pb2.Schedule) -> Iterator[tuple[str, str]]:
    if schedule.paused:
        yield "schedule", f"paused {schedule.note}".strip()
    elif not schedule.calendars:
        yield "schedule", "no active symbols"
    for each in schedule.calendars:
        classes = " ".join(base.asset_class(value) for value in each.asset_classes)
        last = " ".join(filter(None, (each.last_run.session_date or "none", each.last_run.result)))
        due = f"next {each.next_session_date} at {base.time(each.next_run_time)}"
        yield "schedule", f"{classes}: last {last}, {due}"


def _under_way(app: base.App) -> None:
    found = list(base.first(app.client.backfills.list(states=OPEN), 10))
    if found or app.as_json:
        app.many(found, COLUMNS, row)
    else:
        app.print("no backfill is under way")
