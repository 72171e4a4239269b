"""What the processes really export: each is started, used, and scraped over HTTP."""

from __future__ import annotations

import asyncio
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.stack import free_port
from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.auth.__main__ import build as build_auth
from services.auth.settings import AuthSettings
from services.ingest.__main__ import build as build_ingest
from services.ingest.settings import IngestSettings
from services.ingest.worker import Worker, serve
from services.ingest.worker_settings import WorkerSettings
from services.symbols.__main__ import build as build_symbols
from services.symbols.settings import SymbolsSettings
from tests.ingest.working import desk, replaying
from tests.support import environment, make_key, serving, with_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Exported = dict[str, set[str]]
"""Names of samples with the labels that they have; families without a sample yet have no labels."""


def scrape(port: int) -> tuple[set[str], Exported]:
    """Returns the families of a process, and its samples with their labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    families = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    samples: Exported = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return families, samples


async def everything(database: Any) -> dict[str, tuple[set[str], Exported]]:
    """Starts the four processes' code, uses it a little, and returns what each exports."""
    async with AsyncExitStack() as stack:
        key = (await make_key(database, "service"), await make_key(database))
        auth = await build_auth(AuthSettings.from_environment(_environment(database.auth_url)))
        target = await stack.enter_async_context(serving(auth))
        more = {"auth_target": target, "service_key": key[0]}
        symbols = await build_symbols(SymbolsSettings.from_environment(_environment(database.symbols_url, **more)))
        await stack.enter_async_context(serving(symbols))
        port = await stack.enter_async_context(_working(database))
        ingest = await build_ingest(IngestSettings.from_environment(_environment(database.ingest_url, **more)))
        ingest_target = await stack.enter_async_context(serving(ingest))
        await _use(target, ingest_target, key[1])
        ports = {"auth": auth.metrics_port, "symbols": symbols.metrics_port, "ingest": ingest.metrics_port}
        await _looked_at(ingest.metrics_port)
        found = {}
        for process, each in {**ports, "worker": port}.items():
            found[process] = await asyncio.to_thread(scrape, each)
        return found


async def _looked_at(port: int) -> None:
    """Waits until the ingest service has had its first look at the series."""
    async with asyncio.timeout(60):
        while "mdw_sessions_behind" not in (await asyncio.to_thread(scrape, port))[1]:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.05)


def _environment(url: str, **more: str) -> dict[str, str]:
    return environment(url, metrics_address="127.0.0.1:0", **more)


@asynccontextmanager
async def _working(database: Any) -> AsyncIterator[int]:
    """Runs a worker that has finished a backfill and failed another; yields the port of its metrics."""
    port, begun = free_port(), asyncio.Queue[Worker]()
    async with desk(database) as made, replaying() as replay:
        symbol = await made.backfill("AAPL", "2005-01-03", "2005-02-01")
        await made.sql.execute("UPDATE symbols.symbols SET timeframes = '{7}' WHERE symbol_id = $1", symbol)
        environ = {
            "DATABASE_URL": database.ingest_url,
            "POLYGON_API_KEY": "replay",
            "POLYGON_BASE_URL": replay.url,
            "METRICS_ADDRESS": f"127.0.0.1:{port}",
        }
        running = asyncio.create_task(serve(WorkerSettings.from_environment(environ), ready=begun.put_nowait))
        worker = await begun.get()
        await made.settled()
        yield port
        worker.stop()
        await running


async def _use(auth: str, ingest: str, key: str) -> None:
    """Makes calls that are answered, streamed and refused."""
    async with grpc.aio.insecure_channel(auth) as channel:
        stub = auth_pb2_grpc.KeyServiceStub(channel)
        await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(key))
        for metadata in ((), with_key("nonsense")):
            await asyncio.gather(stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=metadata), return_exceptions=True)
    async with grpc.aio.insecure_channel(ingest) as channel:
        request = bars_pb2.StreamBarsRequest(tickers=["AAPL"], timeframe=7, last=5)
        stream = bars_pb2_grpc.BarServiceStub(channel).StreamBars(request, metadata=with_key(key))
        await asyncio.gather(_drain(stream), return_exceptions=True)


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass
