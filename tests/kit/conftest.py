"""Fixtures of the kit's tests: a server with a BarService whose methods do what a test tells them."""

# ruff: noqa: ARG002, N802 - methods are named by the contract and handed what they do not need

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.auth.store.keys import KeyStore
from services.auth.validation import Validation
from services.kit.db import Database
from services.kit.recorder import Recorder
from services.kit.schema import RequiredSchema
from services.kit.scopes import scopes
from services.kit.server import Server
from services.kit.settings import ServiceSettings
from tests.support import environment, make_key, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc

SCHEMA = RequiredSchema(version=1, functions=("auth.record_calls",))


class Bars:
    """A BarService; tests replace what its methods do."""

    def __init__(self) -> None:
        self.list = self.nothing
        self.stream = self.three
        self.latest = self.nothing
        self.begun = 0

    async def nothing(self, request: Any, context: Any) -> Any:
        return bars_pb2.ListBarsResponse()

    async def three(self, request: Any, context: Any) -> Any:
        for number in range(3):
            yield bars_pb2.StreamBarsResponse(symbol_id=number + 1)

    @scopes("bars.read")
    async def ListBars(self, request, context):
        self.begun += 1
        return await self.list(request, context)

    @scopes("bars.read")
    async def StreamBars(self, request, context):
        self.begun += 1
        async for message in self.stream(request, context):
            yield message

    @scopes("service", recorded=False)
    async def GetLatestBars(self, request, context):
        self.begun += 1
        return await self.latest(request, context)


@dataclass
class Rig:
    """A running server, its servicer, a channel and a reader's key."""

    server: Server
    servicer: Bars
    channel: grpc.aio.Channel
    key: str
    target: str

    @property
    def stub(self) -> Any:
        return bars_pb2_grpc.BarServiceStub(self.channel)


async def make_server(database: Any, servicer: Bars, **variables: str) -> Server:
    """Builds a server of the ingest service around a servicer."""
    settings = ServiceSettings.from_environment(environment(database.ingest_url, **variables))
    db = await Database.open(settings.database_url, size=4)
    keys_db = await Database.open(database.auth_url, size=2)
    server = Server(
        settings,
        service="ingest",
        db=db,
        recorder=Recorder(db, service="ingest"),
        authenticator=Validation(KeyStore(keys_db)).authenticator(),
        schema=SCHEMA,
    )
    server.on_close(keys_db.close)
    server.add(servicer, bars_pb2.DESCRIPTOR.services_by_name["BarService"])
    return server


@pytest.fixture
async def rig(database) -> AsyncIterator[Rig]:
    servicer = Bars()
    server = await make_server(database, servicer)
    key = await make_key(database, "bars.read")
    async with running(server) as channel:
        yield Rig(server, servicer, channel, key, f"127.0.0.1:{server.port}")


class Rows:
    """Reads the audit log past the service."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def all(self) -> list[asyncpg.Record]:
        return await self._connection.fetch("SELECT * FROM auth.audit_entries ORDER BY time, id")

    async def codes(self) -> list[tuple[str, int, str]]:
        return [(row["method"], row["code"], row["reason"]) for row in await self.all()]

    async def usage(self) -> int:
        return int(await self._connection.fetchval("SELECT coalesce(sum(call_count), 0) FROM auth.key_usage"))

    async def execute(self, sql: str, *args: Any) -> str:
        return await self._connection.execute(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await self._connection.fetchval(sql, *args)


@pytest.fixture
async def rows(database) -> AsyncIterator[Rows]:
    connection = await asyncpg.connect(database.admin_url)
    yield Rows(connection)
    await connection.close()
