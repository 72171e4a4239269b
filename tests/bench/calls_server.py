"""The server that bench `calls` loads: `python -m tests.bench.calls_server MODE DATABASE_URL [AUTH_TARGET]`.

Modes: bare (gRPC and the handler), checked (key from the cache, nothing recorded), recorded (as every service is),
inserted (key from the cache, one INSERT a call), remote (ValidateKey for each call, nothing recorded).
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from mdw.ingest.v1 import bars_pb2
from services.auth.store.keys import KeyStore
from services.auth.validation import Validation
from services.kit import log
from services.kit.db import Database
from services.kit.process import COLLECT_AFTER
from services.kit.recorder import Recorder
from services.kit.remote import RemoteAuthenticator
from services.kit.schema import RequiredSchema
from services.kit.scopes import scopes
from services.kit.server import OPTIONS, Server
from services.kit.settings import ServiceSettings

if TYPE_CHECKING:
    from services.kit.authn import Authenticator
    from services.kit.entries import Entry
    from services.kit.principals import Principal

ANSWER = bars_pb2.ListBarsResponse(bars=[bars_pb2.Bar(open=1.0, high=2.0, low=0.5, close=1.5, volume=1e6)], symbol_id=1)
SERVICE = bars_pb2.DESCRIPTOR.services_by_name["BarService"]

INSERT = """
INSERT INTO public.plain_audit (call_id, key_id, key_preview, service, method, code, reason, peer, request_id,
  duration_us, messages, call_count)
VALUES ($1, $2, $3, 'bench', $4, $5, $6, $7, $8, $9, $10, $11)
"""


class Bars:
    """A BarService that answers at once."""

    @scopes("bars.read")
    async def ListBars(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return ANSWER

    @scopes("bars.read")
    async def StreamBars(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        yield ANSWER

    @scopes("bars.read")
    async def GetLatestBars(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return ANSWER


class Silent(Recorder):
    """Records nothing."""

    def submit(self, entry: Entry) -> asyncio.Future[bool]:  # noqa: ARG002
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(False)
        return future


class Asking(RemoteAuthenticator):
    """Asks the auth service for each call."""

    async def find(self, secret: str) -> Principal | None:
        return await self._validate(secret)


class Inserting(Recorder):
    """Records each call by an INSERT of its own, on sixteen connections."""

    pool: Database

    def submit(self, entry: Entry) -> asyncio.Future[bool]:
        return asyncio.ensure_future(self._insert(entry))

    async def _insert(self, entry: Entry) -> bool:
        values = entry._asdict()
        del values["scopes"]
        await self.pool.execute(INSERT, *values.values())
        return False


async def serve_bare() -> int:
    """Serves the handler alone."""
    server = grpc.aio.server(options=OPTIONS)
    servicer = Bars()
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.ListBars,
        request_deserializer=bars_pb2.ListBarsRequest.FromString,
        response_serializer=bars_pb2.ListBarsResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, {"ListBars": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    bare.append(server)
    return port


bare: list[grpc.aio.Server] = []


async def serve_kit(mode: str, url: str, auth_target: str) -> int:
    """Serves the handler as a service does, or with a part of it replaced."""
    settings = ServiceSettings.from_environment(
        {
            "DATABASE_URL": url,
            "LISTEN_ADDRESS": "127.0.0.1:0",
            "KEY_MAX_CALLS_PER_SECOND": "1000000",
            "PEER_FAILURES_PER_SECOND": "1000000",
        }
    )
    db = await Database.open(url, size=16)
    recorder = {"recorded": Recorder, "inserted": Inserting}.get(mode, Silent)(db, service="bench")
    if isinstance(recorder, Inserting):
        recorder.pool = db
    server = Server(
        settings,
        service="bench",
        db=db,
        recorder=recorder,
        authenticator=_authenticator(mode, db, auth_target),
        schema=RequiredSchema(version=1),
    )
    server.add(Bars(), SERVICE)
    return await server.start()


def _authenticator(mode: str, db: Database, auth_target: str) -> Authenticator:
    if mode != "remote":
        return Validation(KeyStore(db)).authenticator()
    channel = grpc.aio.insecure_channel(auth_target)
    return Asking(channel, lambda: os.environ["SERVICE_KEY"])


async def main(mode: str, url: str = "", auth_target: str = "") -> None:
    log.configure(form="json")
    port = await (serve_bare() if mode == "bare" else serve_kit(mode, url, auth_target))
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 50)
    print(port, flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
