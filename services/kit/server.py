"""The server of one process: contracts, health, reflection, metrics, start and stop."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.kit import tracing
from services.kit.answering import Answering
from services.kit.background import Background
from services.kit.errors import Unavailable
from services.kit.health import Health
from services.kit.limits import KeyLimits, PeerThrottle
from services.kit.log import get, protect_foreign_loggers
from services.kit.measuring import measure_audit, measure_calls, measure_pools, measure_readiness
from services.kit.methods import methods_of
from services.kit.metrics import Metrics
from services.kit.readiness import Readiness
from services.kit.reflection import add_reflection
from services.kit.routing import Router
from services.kit.schema import SchemaError, wait_for_schema
from services.kit.tls import Certificates
from services.kit.traced import TracedAnswering

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.descriptor import ServiceDescriptor

    from services.kit.authn import Authenticator
    from services.kit.db import Database
    from services.kit.recorder import Recorder
    from services.kit.schema import RequiredSchema
    from services.kit.settings import ServiceSettings

log = get(__name__)

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
GRACE_SECONDS = 5.0
RETRY_SECONDS = 0.5
CHECK_SECONDS = 2.0
"""So long the database may take for readiness; what a call may take is longer."""

MAX_METADATA = 8_192
MAX_CALLS_PER_CONNECTION = 512
"""Bounds what a stranger costs who opens calls and resets them at once."""

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.so_reuseport", 0),  # else a second process takes half of the callers, and their keys, unnoticed
    ("grpc.max_metadata_size", MAX_METADATA),
    ("grpc.absolute_max_metadata_size", MAX_METADATA),  # equal, or what lies between is refused at random
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_age_ms", 300_000),  # so that new replicas get their share; running calls go on
)

EXIT_OK, EXIT_FAILED = 0, 1


class Server:
    """Serves servicers whose methods declare scopes; see services/kit/answering.py for what stands around a call."""

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        service: str,
        db: Database,
        recorder: Recorder,
        authenticator: Authenticator,
        schema: RequiredSchema,
    ) -> None:
        self.settings = settings
        self.service = service
        self.db = db
        self.recorder = recorder
        self.metrics = Metrics()
        self.health = Health()
        self.background = Background()
        self.readiness = Readiness(self.health)
        self.answering = _answering(settings, recorder, authenticator, self.metrics)
        self._schema = schema
        self._router = Router(self.answering)
        self._services: list[str] = []
        self._servers: list[grpc.aio.Server] = []
        self._preparations: list[Callable[[], Awaitable[Any]]] = []
        self._closers: list[Callable[[], Any]] = []
        self._port = 0
        self.health_port = 0
        self.metrics_port = 0
        self.pools = {"calls": db}
        """The pools whose use is exported, by name; services add theirs."""
        self._add_checks(authenticator)
        self._measure()

    def add(self, servicer: object, service: ServiceDescriptor) -> None:
        """Serves a contract; raises UndeclaredError if one of its methods has no scopes."""
        methods = methods_of(servicer, service)
        self._router.add(methods)
        for method in methods:
            self.metrics.know(method)
        self._services.append(service.full_name)
        self.health.add(service.full_name)

    def prepare(self, step: Callable[[], Awaitable[Any]]) -> None:
        """Adds a step that runs once the schema is verified and before the first call is answered."""
        self._preparations.append(step)

    def on_close(self, step: Callable[[], Any]) -> None:
        """Adds what is to be closed at the end, last added first; may return an awaitable."""
        self._closers.append(step)

    @property
    def port(self) -> int:
        """The port it listens on, once started."""
        return self._port

    async def start(self) -> int:
        """Listens, waits for the database and its schema, and serves; returns the port. Raises SchemaError."""
        await self._listen()
        await self._verify()
        return self._port

    async def stop(self, *, drain: float = 0.0, grace: float = GRACE_SECONDS) -> None:
        """Says NOT_SERVING, goes on answering for `drain` seconds, lets calls end for `grace`, and closes all."""
        self.health.stop()
        if drain:
            await asyncio.sleep(drain)
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
        await self.background.stop()
        await self.recorder.close()
        for step in reversed(self._closers):
            done = step()
            if asyncio.iscoroutine(done):
                await done
        await self.db.close()
        if self.settings.otel_exporter_otlp_endpoint:
            await asyncio.to_thread(tracing.end)

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT, or until a part of it fails; returns the process's exit code."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        try:
            await self._listen()
        except (RuntimeError, OSError) as error:
            # gRPC says RuntimeError whatever the reason, and logs it itself.
            log.error("cannot_listen", address=self.settings.listen_address, detail=str(error))  # noqa: TRY400
            return EXIT_FAILED
        code = await self._run_until(stopped)
        await self.stop(drain=self.settings.drain_seconds if code == EXIT_OK else 0.0)
        log.info("stopped", service=self.service)
        return code

    async def _run_until(self, stopped: asyncio.Event) -> int:
        verify = asyncio.create_task(self._verify())
        ends = [asyncio.create_task(stopped.wait()), asyncio.create_task(self.background.failed())]
        try:
            await asyncio.wait([verify, *ends], return_when=asyncio.FIRST_COMPLETED)
            if verify.done():
                await verify
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except SchemaError as error:
            log.error("schema_refused", detail=str(error))  # noqa: TRY400 - the message is the whole story
            return EXIT_FAILED
        finally:
            for task in (verify, *ends):
                task.cancel()
        return EXIT_OK if stopped.is_set() else EXIT_FAILED

    async def _listen(self) -> None:
        tracing.begin(self.service, self.settings.otel_exporter_otlp_endpoint)
        protect_foreign_loggers()
        server = grpc.aio.server(options=OPTIONS)
        self._servers.append(server)
        # gRPC asks one after the other for each call, so the one with nearly all of them comes first.
        server.add_generic_rpc_handlers((self._router,))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        self._router.leave(HEALTH)
        if self.settings.reflection:
            for name in add_reflection(server, [*self._services, HEALTH]):
                self._router.leave(name)
        address = self.settings.listen_address
        if self.settings.tls_cert_file:
            self._port = server.add_secure_port(address, Certificates(self.settings).credentials())
        else:
            self._port = server.add_insecure_port(address)
        await server.start()
        await self._listen_beside()
        log.info("listening", service=self.service, address=address, port=self._port)

    async def _listen_beside(self) -> None:
        """Health alone in plaintext, for probes when TLS is on, and metrics."""
        if self.settings.health_address:
            server = grpc.aio.server(options=OPTIONS)
            self._servers.append(server)
            health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
            self.health_port = server.add_insecure_port(self.settings.health_address)
            await server.start()
        if self.settings.metrics_address:
            scraped = self.metrics.serve(self.settings.metrics_address)
            self._closers.append(scraped.stop)
            self.metrics_port = scraped.port

    async def _verify(self) -> None:
        version = await wait_for_schema(self.db, self._schema, self.settings.schema_wait_seconds)
        self.background.watch(await self.recorder.start())
        for step in self._preparations:
            await _until_available(step)
        self.answering.ready = True
        await self.readiness.check()
        self.background.add("readiness", self.readiness.run)
        self.background.start()
        log.info("serving", service=self.service, port=self._port, schema=version)

    def _measure(self) -> None:
        self.metrics.about(self.service)
        measure_readiness(self.metrics, self.readiness)
        measure_calls(self.metrics, self.answering)
        measure_audit(self.metrics, self.recorder)
        measure_pools(self.metrics, lambda: self.pools)

    def _add_checks(self, authenticator: Authenticator) -> None:
        async def database() -> str:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self.db.fetchval("SELECT 1")
            except TimeoutError:
                return "the database does not answer"
            return "the audit log cannot be written" if self.recorder.down else ""

        self.readiness.add("database", database)
        own_key = getattr(authenticator, "check_own_key", None)
        if own_key is not None:
            self.readiness.add("service_key", own_key, keep_while_away=True)


async def _until_available(step: Callable[[], Awaitable[Any]]) -> None:
    """Runs a step, again while the database goes away in the middle of it."""
    while True:
        try:
            await step()
        except Unavailable:
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


def _answering(
    settings: ServiceSettings, recorder: Recorder, authenticator: Authenticator, metrics: Metrics
) -> Answering:
    # A class of its own, so that a call without tracing does not even ask.
    kind = TracedAnswering if settings.otel_exporter_otlp_endpoint else Answering
    return kind(
        recorder=recorder,
        authenticator=authenticator,
        limits=KeyLimits(max_calls_per_second=settings.key_max_calls_per_second, max_streams=settings.key_max_streams),
        metrics=metrics,
        throttle=PeerThrottle(rate=float(settings.peer_failures_per_second)),
        max_open_calls=settings.max_open_calls,
    )
