"""Wires the BarService: its pools, and the replicas that READ_DATABASE_URLS names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdw.ingest.v1 import bars_pb2
from services.ingest.bar_servicer import BarServicer
from services.ingest.reading.reader import Reader
from services.ingest.store.sources import Sources
from services.ingest.store.symbols import SymbolStore
from services.kit.db import Database

if TYPE_CHECKING:
    from services.ingest.settings import IngestSettings
    from services.kit.paging import PageTokens
    from services.kit.server import Server

STREAM_WAIT_SECONDS = 10.0
"""How long a stream waits for a connection while others read; a call would be answered sooner."""


async def add_bars(server: Server, settings: IngestSettings, tokens: PageTokens) -> None:
    """Adds the BarService to a server; nothing is asked of the databases yet."""
    streams = await _streams(server, settings, settings.database_url)
    server.pools["streams"] = streams
    calls = [await _calls(server, settings, url) for url in settings.read_database_urls]
    replicas = [await _streams(server, settings, url) for url in settings.read_database_urls]
    for number, pools in enumerate(zip(calls, replicas, strict=True), 1):
        server.pools |= dict(zip((f"calls {number}", f"streams {number}"), pools, strict=True))
    reader = Reader(server.db, Sources(server.db, calls), Sources(streams, replicas))
    server.prepare(reader.prepare)
    servicer = BarServicer(reader, SymbolStore(server.db), tokens)
    server.add(servicer, bars_pb2.DESCRIPTOR.services_by_name["BarService"])


async def _calls(server: Server, settings: IngestSettings, url: str) -> Database:
    db = await Database.open(
        url, size=settings.pool_size, application_name="mdw ingest bars", pooler=settings.database_pooler
    )
    server.on_close(db.close)
    return db


async def _streams(server: Server, settings: IngestSettings, url: str) -> Database:
    db = await Database.open(
        url,
        size=settings.stream_pool_size,
        application_name="mdw ingest streams",
        pooler=settings.database_pooler,
        acquire_timeout=STREAM_WAIT_SECONDS,
    )
    server.on_close(db.close)
    return db
