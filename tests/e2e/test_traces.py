"""One trace and one request id lead through all services, SQL and the provider, and hold no secret."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from mdw.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from mdw.symbols.v1 import symbols_pb2, symbols_pb2_grpc
from mdw_client.channel import aio_channel
from services.kit import tracing
from services.kit.settings import SettingsError
from tests.e2e.collector import Collector
from tests.ingest.working import desk, replaying
from tests.support import Process, environment, make_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"), ("x-request-id", "find-me-everywhere"))
POLYGON_KEY = "a-key-of-polygon"


class House:
    """The four processes, which send their spans to one collector."""

    def __init__(self, database: Any, collector: Collector) -> None:
        self.database = database
        self.collector = collector
        self.processes: dict[str, Process] = {}
        self.secrets: list[str] = []

    async def start(self, stack: AsyncExitStack, replay_url: str) -> None:
        service, self.key = await make_key(self.database, "service"), await make_key(self.database)
        self.secrets += [service, self.key, POLYGON_KEY]
        traced = {"otel_exporter_otlp_endpoint": self.collector.endpoint}
        database = self.database
        await self._run(stack, "auth", environment(database.auth_url, **traced))
        more = {**traced, "service_key": service, "auth_target": self.processes["auth"].target}
        worker = {
            **environment(database.ingest_url, **traced),
            "POLYGON_API_KEY": POLYGON_KEY,
            "POLYGON_BASE_URL": replay_url,
            "POLYGON_REQUESTS_PER_MINUTE": "0",
        }
        await asyncio.gather(
            self._run(stack, "symbols", environment(database.symbols_url, **more)),
            self._run(stack, "ingest", environment(database.ingest_url, **more)),
            self._run(stack, "ingest.worker", worker, "worker_started"),
        )

    async def _run(self, stack: AsyncExitStack, name: str, variables: dict[str, str], event: str = "serving") -> None:
        self.secrets.append(urlsplit(variables["DATABASE_URL"]).password or "")
        process = await Process.start(f"services.{name}", variables, event=event)
        stack.push_async_callback(process.stop)
        self.processes[name] = process

    async def end(self) -> None:
        """Ends all, which sends what spans are left."""
        for process in self.processes.values():
            process.kill(15)
        assert [await process.end() for process in self.processes.values()] == [0, 0, 0, 0]


@pytest.fixture
async def house(database) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        replay = await stack.enter_async_context(replaying(key=POLYGON_KEY))
        made = House(database, stack.enter_context(Collector()))
        await made.start(stack, replay.url)
        yield made


async def test_one_trace_leads_through_services_sql_and_the_provider(database, house):
    async with aio_channel(house.processes["symbols"].target, key=house.key) as channel:
        stub = symbols_pb2_grpc.SymbolServiceStub(channel)
        await stub.ListSymbols(symbols_pb2.ListSymbolsRequest(), metadata=PARENT)
    async with aio_channel(house.processes["ingest"].target, key=house.key) as channel:
        ingest = ingest_pb2_grpc.IngestServiceStub(channel)
        await ingest.ListBackfills(ingest_pb2.ListBackfillsRequest(), metadata=PARENT)
    async with desk(database) as work:
        await work.backfill("AAPL", "2005-01-03", "2005-02-01")
        await work.settled()
    await house.end()

    spans = house.collector.spans()
    ours = [(process, span) for process, span in spans if span.trace_id.hex() == TRACE]
    assert {process for process, _ in ours} == {"mdw-auth", "mdw-symbols", "mdw-ingest"}
    names = {(process, span.name) for process, span in ours}
    assert ("mdw-symbols", "mdw.symbols.v1.SymbolService/ListSymbols") in names
    assert ("mdw-auth", "mdw.auth.v1.AuthService/ValidateKey") in names
    assert {("mdw-symbols", "SQL SELECT"), ("mdw-auth", "SQL SELECT"), ("mdw-ingest", "SQL SELECT")} <= names
    ids = {span.span_id for _, span in ours} | {bytes.fromhex("b7ad6b7169203331")}
    assert all(span.parent_span_id in ids for _, span in ours)
    by_slice = [span for process, span in spans if process == "mdw-worker"]
    (request,) = [span for span in by_slice if span.name == "GET"]
    assert {span.trace_id for span in by_slice if span.name == "slice"} == {request.trace_id}

    everything = b"".join(house.collector.bodies)
    for secret in house.secrets:
        assert secret.encode() not in everything
    assert b"find-me-everywhere" in everything
    for name in ("auth", "symbols", "ingest"):
        lines = [event for event in house.processes[name].events if event["event"] == "call"]
        assert any(line.get("request_id") == "find-me-everywhere" for line in lines), name


def test_without_the_libraries_the_setting_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT: .*mdw\[otel\]"):
        tracing.begin("auth", "http://127.0.0.1:1")
    assert not tracing.on()


def test_an_error_in_a_span_leaves_its_type_alone():
    with Collector() as collector:
        tracing.begin("auth", collector.endpoint)
        with pytest.raises(ValueError, match="secret"), tracing.span("work"):
            raise ValueError("secret")
        tracing.end()
    ((_, span),) = collector.spans()
    assert (span.name, span.status.message, list(span.events)) == ("work", "ValueError", [])
