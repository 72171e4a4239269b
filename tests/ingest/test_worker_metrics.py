"""What a worker says of itself when Prometheus asks."""

from __future__ import annotations

import asyncio
import signal

import pytest

from deploy.local.faults import parse_faults
from deploy.local.stack import free_port
from services.ingest.tally import Tally
from services.ingest.worker import Worker, serve
from services.ingest.worker_settings import WorkerSettings
from services.kit.exporter import Exporter
from services.kit.version import VERSION
from tests.ingest.working import CRYPTO, DAY, desk, replaying
from tests.kit.test_metrics import read


@pytest.fixture
async def work(database):
    async with desk(database) as made:
        yield made


def exported(tally: Tally):
    exporter = Exporter()
    tally.export(exporter)
    return exporter.registry.get_sample_value


async def test_bars_parts_and_answers_are_counted(work):
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    tally = Tally()
    async with replaying() as replay:
        await work.drain(await work.worker(replay.url, tally=tally))
    value = exported(tally)
    assert value("mdw_bars_written_total", {"timeframe": "1d", "change": "inserted"}) == 252
    assert value("mdw_slices_ended_total", {"state": "succeeded"}) == 1
    assert value("mdw_provider_answers_total", {"outcome": "page"}) == 1
    assert value("mdw_part_bars_sum") == 252
    assert value("mdw_part_seconds_count") == value("mdw_provider_seconds_count") == 1


async def test_what_goes_wrong_is_counted_by_kind(work):
    await work.backfill("AAPL", "2005-01-03", "2005-02-01")
    await work.backfill("X:NOPE", "2005-01-03", "2005-02-01", DAY, CRYPTO)
    tally = Tally()
    async with replaying(faults=parse_faults("429:times=1")) as replay:
        await work.drain(await work.worker(replay.url, tally=tally))
    value = exported(tally)
    assert value("mdw_provider_answers_total", {"outcome": "throttled"}) == 1
    assert value("mdw_lease_losses_total") == 0


async def test_a_worker_serves_its_metrics_until_it_is_told_to_stop(database):
    port = free_port()
    settings = WorkerSettings.from_environment(
        {
            "DATABASE_URL": database.ingest_url,
            "POLYGON_API_KEY": "replay",
            "POLYGON_BASE_URL": "http://127.0.0.1:1",
            "METRICS_ADDRESS": f"127.0.0.1:{port}",
        }
    )
    begun: asyncio.Queue[Worker] = asyncio.Queue()
    serving = asyncio.create_task(serve(settings, ready=begun.put_nowait))
    worker = await begun.get()
    found = await asyncio.to_thread(read, port)
    assert found["mdw_build_info"] == {(("process", "worker"), ("version", VERSION)): 1}
    assert found["mdw_pool_connections"][(("pool", "worker"), ("state", "limit"))] == 3
    worker.stop()
    await serving
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(read, port)


async def test_a_worker_that_waits_for_its_schema_ends_when_told_to(empty_database):
    environ = {"DATABASE_URL": empty_database, "POLYGON_API_KEY": "replay", "SCHEMA_WAIT_SECONDS": "600"}
    task = asyncio.create_task(serve(WorkerSettings.from_environment(environ)))
    async with asyncio.timeout(60):
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        await task
