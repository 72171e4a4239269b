"""The ingest service: `python -m services.ingest`. The bars are written by `services.ingest.worker`."""

from __future__ import annotations

import sys

from mdw.ingest.v1 import ingest_pb2
from services.ingest.bulk import Bulk
from services.ingest.completeness import Completeness
from services.ingest.housekeeping import Housekeeping
from services.ingest.overview import Overview
from services.ingest.required import SCHEMA
from services.ingest.schedule_calls import Scheduling
from services.ingest.scheduling import Scheduler
from services.ingest.servicer import IngestServicer
from services.ingest.serving_bars import add_bars
from services.ingest.settings import IngestSettings
from services.ingest.status import Status
from services.ingest.store.coverage import CoverageStore
from services.ingest.store.deletions import Deletions
from services.ingest.store.imports import Imports
from services.ingest.store.jobs import Jobs
from services.ingest.store.overview import OverviewStore
from services.ingest.store.rejects import Rejects
from services.ingest.store.schedule import Schedule
from services.ingest.store.starts import Starts
from services.ingest.store.steering import Steering
from services.ingest.store.symbols import SymbolStore
from services.ingest.store.syncs import Syncs
from services.ingest.syncing import Syncing
from services.ingest.watching import Watching
from services.kit.db import Database
from services.kit.paging import PageTokens
from services.kit.peers import channel_to
from services.kit.process import serve
from services.kit.recorder import Recorder
from services.kit.remote import RemoteAuthenticator
from services.kit.requests import Requests
from services.kit.server import Server


async def build(settings: IngestSettings) -> Server:
    """Wires the service; nothing is asked of the database yet."""
    db = await Database.open(
        settings.database_url, size=settings.pool_size, application_name="mdw ingest", pooler=settings.database_pooler
    )
    recorder = Recorder(db, service="ingest")
    channel = channel_to(settings.auth_target, settings)
    authenticator = RemoteAuthenticator(channel, settings.read_service_key)
    server = Server(settings, service="ingest", db=db, recorder=recorder, authenticator=authenticator, schema=SCHEMA)
    server.on_close(channel.close)
    tokens = PageTokens()
    server.prepare(lambda: tokens.load(db, "ingest"))
    _add_ingest(server, settings, tokens)
    await add_bars(server, settings, tokens)
    return server


def _add_ingest(server: Server, settings: IngestSettings, tokens: PageTokens) -> None:
    db, requests, rate = server.db, Requests("ingest"), settings.polygon_requests_per_minute
    jobs, rejects, symbols = Jobs(db), Rejects(db), SymbolStore(db)
    starts = Starts(db, server.recorder, requests, requests_per_minute=rate, workers=settings.workers)
    watching, figures = Watching(jobs), OverviewStore(db)
    schedule = Schedule(db, server.recorder)
    scheduler = Scheduler(db=db, recorder=server.recorder, requests=requests, schedule=schedule, symbols=symbols)
    deletions, imports = Deletions(db, server.recorder, requests), Imports(server.recorder, requests)
    servicer = IngestServicer(
        symbols=symbols,
        starts=starts,
        jobs=jobs,
        steering=Steering(server.recorder),
        rejects=rejects,
        watching=watching,
        tokens=tokens,
        completeness=Completeness(symbols=symbols, store=CoverageStore(db), tokens=tokens),
        scheduling=Scheduling(scheduler=scheduler, schedule=schedule, requests_per_minute=rate),
        status=Status(figures, requests_per_minute=rate),
        bulk=Bulk(symbols=symbols, starts=starts, deletions=deletions, imports=imports),
        syncing=Syncing(symbols=symbols, syncs=Syncs(db, server.recorder, requests), tokens=tokens),
    )
    server.add(servicer, ingest_pb2.DESCRIPTOR.services_by_name["IngestService"])
    server.background.add("watching", watching.run)
    scheduler.add_to(server.background)
    overview = Overview(figures, requests_per_minute=rate)
    overview.export(server.metrics)
    overview.add_to(server.background)
    _housekeeping(settings, db, rejects, requests).add_to(server.background)


def _housekeeping(settings: IngestSettings, db: Database, rejects: Rejects, requests: Requests) -> Housekeeping:
    return Housekeeping(
        db=db,
        rejects=rejects,
        requests=requests,
        slice_days=settings.slice_retention_days,
        reject_days=settings.reject_retention_days,
    )


if __name__ == "__main__":
    sys.exit(serve(IngestSettings, build))
