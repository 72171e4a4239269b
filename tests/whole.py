"""The three services in this process over one database, with a symbol that holds bars and a finished backfill."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from mdw.auth.v1 import auth_pb2
from mdw.ingest.v1 import bars_pb2, ingest_pb2
from mdw.symbols.v1 import symbols_pb2
from services.auth.__main__ import build as build_auth
from services.auth.settings import AuthSettings
from services.ingest.__main__ import build as build_ingest
from services.ingest.settings import IngestSettings
from services.symbols.__main__ import build as build_symbols
from services.symbols.settings import SymbolsSettings
from tests.ingest.working import desk, replaying
from tests.support import environment, make_key, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.descriptor import MethodDescriptor

    from services.kit.server import Server

FILES = (auth_pb2, symbols_pb2, ingest_pb2, bars_pb2)
CONTRACTS = {service.full_name: service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()}
OWNERS = {
    "mdw.auth.v1.AuthService": "auth",
    "mdw.auth.v1.KeyService": "auth",
    "mdw.symbols.v1.SymbolService": "symbols",
    "mdw.ingest.v1.IngestService": "ingest",
    "mdw.ingest.v1.BarService": "ingest",
}
"""Which process serves a contract."""


def methods() -> list[MethodDescriptor]:
    """Returns every RPC there is."""
    return [method for service in CONTRACTS.values() for method in service.methods]


@dataclass
class Whole:
    """The running services, by name."""

    admin: str
    service: str
    servers: dict[str, Server] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def channel(self, method: MethodDescriptor) -> grpc.aio.Channel:
        return self.channels[OWNERS[method.containing_service.full_name]]

    def key(self, method: MethodDescriptor) -> str:
        """Returns a key that may call a method."""
        return self.service if method.containing_service.full_name == "mdw.auth.v1.AuthService" else self.admin


@asynccontextmanager
async def whole(database: Any, urls: dict[str, str] | None = None, **variables: str) -> AsyncIterator[Whole]:
    """Runs auth, symbols and ingest; `urls` replaces the database's address for some of them."""
    urls = {"auth": database.auth_url, "symbols": database.symbols_url, "ingest": database.ingest_url, **(urls or {})}
    made = Whole(await make_key(database), await make_key(database, "service", name="service"))
    async with AsyncExitStack() as stack:

        async def serve(name: str, build: Any, settings: Any, **more: str) -> str:
            chosen = settings.from_environment(environment(urls[name], **{**more, **variables}))
            made.servers[name] = await build(chosen)
            target = made.targets[name] = await stack.enter_async_context(serving(made.servers[name]))
            made.channels[name] = await stack.enter_async_context(grpc.aio.insecure_channel(target))
            return target

        auth = await serve("auth", build_auth, AuthSettings)
        for name, build, settings in (
            ("symbols", build_symbols, SymbolsSettings),
            ("ingest", build_ingest, IngestSettings),
        ):
            await serve(name, build, settings, auth_target=auth, service_key=made.service)
        yield made


async def fill(database: Any) -> None:
    """Registers AAPL and writes its daily bars of two months as a worker does."""
    async with desk(database) as work, replaying() as replay:
        await work.backfill("AAPL", "2005-01-03", "2005-03-31")
        await work.drain(await work.worker(replay.url))
