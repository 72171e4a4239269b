"""The symbols service: `python -m services.symbols`."""

from __future__ import annotations

import sys

from mdw.symbols.v1 import symbols_pb2
from services.kit.db import Database
from services.kit.paging import PageTokens
from services.kit.peers import channel_to
from services.kit.process import serve
from services.kit.recorder import Recorder
from services.kit.remote import RemoteAuthenticator
from services.kit.requests import Requests
from services.kit.schema import RequiredSchema
from services.kit.server import Server
from services.symbols.servicer import SymbolServicer
from services.symbols.settings import SymbolsSettings
from services.symbols.store.lookups import Symbols
from services.symbols.store.registry import Registry
from services.symbols.store.statistics import Statistics

SCHEMA = RequiredSchema(
    version=3,
    columns=(
        "symbols.symbols.timeframes",
        "symbols.tickers.provider_ticker",
        "symbols.requests.answer",
        "symbols.token_key.secret",
        "ingest.series_figures.closed_ordinal",
    ),
    functions=("auth.record_calls", "auth.change_committed", "ingest.forget_symbol"),
)
SWEEP_SECONDS = 3_600.0


async def build(settings: SymbolsSettings) -> Server:
    """Wires the service; nothing is asked of the database yet."""
    db = await Database.open(
        settings.database_url,
        size=settings.pool_size,
        application_name="mdw symbols",
        pooler=settings.database_pooler,
    )
    recorder = Recorder(db, service="symbols")
    channel = channel_to(settings.auth_target, settings)
    authenticator = RemoteAuthenticator(channel, settings.read_service_key)
    server = Server(settings, service="symbols", db=db, recorder=recorder, authenticator=authenticator, schema=SCHEMA)
    server.on_close(channel.close)
    requests, tokens = Requests("symbols"), PageTokens()
    servicer = SymbolServicer(
        symbols=Symbols(db), registry=Registry(db, recorder, requests), statistics=Statistics(db), tokens=tokens
    )
    server.add(servicer, symbols_pb2.DESCRIPTOR.services_by_name["SymbolService"])
    server.prepare(lambda: tokens.load(db, "symbols"))
    server.background.every(SWEEP_SECONDS, "sweep_requests", lambda: requests.sweep(db))
    return server


if __name__ == "__main__":
    sys.exit(serve(SymbolsSettings, build))
