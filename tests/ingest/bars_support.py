"""A BarService in this process, with a key that may read bars."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.ingest.bar_servicer import BarServicer
from services.ingest.reading.reader import Reader
from services.ingest.reading.receipts import Receipt
from services.ingest.settings import IngestSettings
from services.ingest.store.sources import Sources
from services.ingest.store.symbols import SymbolStore
from services.kit.db import Database
from services.kit.paging import PageTokens
from services.kit.recorder import Recorder
from services.kit.remote import RemoteAuthenticator
from services.kit.schema import RequiredSchema
from services.kit.server import Server
from tests.support import auth_serving, environment, make_key, serving, with_key


def to_time(moment):
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def at(text):
    return to_time(datetime.fromisoformat(text).replace(tzinfo=UTC))


async def refused(call):
    """Returns the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


COLUMNS = ("start_time_ms", "open", "high", "low", "close", "volume", "vwap", "trade_count", "flags")


@dataclass
class Streamed:
    """A whole stream."""

    opening: bars_pb2.StreamBarsResponse
    chunks: list[bars_pb2.StreamBarsResponse]
    receipt: bars_pb2.Receipt

    def column(self, name, symbol_id=None):
        chunks = [chunk for chunk in self.chunks if symbol_id in (None, chunk.symbol_id)]
        return [value for chunk in chunks for value in getattr(chunk, name)]


async def all_pages(call, fields):
    """Follows the tokens to the end."""
    found = [await call(**fields)]
    while found[-1].next_page_token:
        found.append(await call(**fields, page_token=found[-1].next_page_token))
    return found


class DirectBars:
    """Calls the servicer itself: no gRPC, no key, no audit, so many more questions a second."""

    def __init__(self, reader, symbols, servicer):
        self.reader = reader
        self._symbols = symbols
        self.servicer = servicer

    async def changed(self, old, new, symbol_id):
        """Returns the messages of what differs between two questions."""
        pump = await self.reader.changes(old, new, await self._symbols.by_ids([symbol_id]), Receipt(new.snapshot))
        async with pump.messages() as messages:
            return [bars_pb2.StreamBarsResponse.FromString(one) async for one in messages]

    async def streamed(self, **fields):
        answers = self.servicer.StreamBars(bars_pb2.StreamBarsRequest(**fields), None)
        messages = [
            bars_pb2.StreamBarsResponse.FromString(one) if isinstance(one, bytes) else one async for one in answers
        ]
        return Streamed(messages[0], messages[1:-1], messages[-1].receipt)

    async def list(self, **fields):
        return await self.servicer.ListBars(bars_pb2.ListBarsRequest(**fields), None)

    async def latest(self, **fields):
        return await self.servicer.GetLatestBars(bars_pb2.GetLatestBarsRequest(**fields), None)

    async def pages(self, **fields):
        return await all_pages(self.list, fields)


@asynccontextmanager
async def direct_bars(database, replicas=()):
    """Reads from replicas, named by their URLs, where they can answer."""
    db, streams = [await Database.open(database.ingest_url, size=3) for _ in range(2)]
    calls, long = [[await Database.open(url, size=3) for url in replicas] for _ in range(2)]
    reader, tokens = Reader(db, Sources(db, calls), Sources(streams, long)), PageTokens()
    await reader.prepare()
    await tokens.load(db, "ingest")
    symbols = SymbolStore(db)
    yield DirectBars(reader, symbols, BarServicer(reader, symbols, tokens))
    for pool in (*calls, *long, streams, db):
        await pool.close()


class Bars:
    """Calls the service with its key."""

    def __init__(self, channel, secret, target):
        self.target = target
        self.stub = bars_pb2_grpc.BarServiceStub(channel)
        self.metadata = with_key(secret)

    async def list(self, **fields):
        return await self.stub.ListBars(bars_pb2.ListBarsRequest(**fields), metadata=self.metadata, timeout=60)

    def stream(self, **fields):
        return self.stub.StreamBars(bars_pb2.StreamBarsRequest(**fields), metadata=self.metadata, timeout=60)

    async def streamed(self, **fields):
        """Returns all of a stream: the first message, the chunks, the receipt."""
        messages = [message async for message in self.stream(**fields)]
        return Streamed(messages[0], messages[1:-1], messages[-1].receipt)

    async def latest(self, **fields):
        return await self.stub.GetLatestBars(
            bars_pb2.GetLatestBarsRequest(**fields), metadata=self.metadata, timeout=60
        )

    async def pages(self, **fields):
        return await all_pages(self.list, fields)


@asynccontextmanager
async def bars_serving(database):
    service_key = await make_key(database, "service", name="ingest")
    async with auth_serving(database) as auth_target:
        variables = environment(database.ingest_url, auth_target=auth_target, service_key=service_key)
        settings = IngestSettings.from_environment(variables)
        db = await Database.open(settings.database_url, size=4)
        channel = grpc.aio.insecure_channel(auth_target)
        server = Server(
            settings,
            service="ingest",
            db=db,
            recorder=Recorder(db, service="ingest"),
            authenticator=RemoteAuthenticator(channel, settings.read_service_key),
            schema=RequiredSchema(version=4),
        )
        tokens = PageTokens()
        streams = await Database.open(
            settings.database_url, size=4, application_name="test streams", acquire_timeout=60
        )
        nodes = [await Database.open(url, size=4, acquire_timeout=60) for url in getattr(database, "read_urls", ())]
        for node in nodes:
            server.on_close(node.close)
        reader = Reader(db, Sources(db, nodes), Sources(streams, nodes))
        servicer = BarServicer(reader, SymbolStore(db), tokens)
        server.on_close(streams.close)
        server.add(servicer, bars_pb2.DESCRIPTOR.services_by_name["BarService"])
        server.prepare(lambda: tokens.load(db, "ingest"))
        server.prepare(reader.prepare)
        server.on_close(channel.close)
        async with serving(server) as target, grpc.aio.insecure_channel(target) as own:
            yield Bars(own, await make_key(database, "bars.read"), target)
