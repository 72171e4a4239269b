"""Workers as processes: killed, stopped, told to end; the long runs are in tests/faults."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta
from random import Random

import pytest

from deploy.local.faults import parse_faults
from services.ingest.worker import main, serve
from services.ingest.worker_settings import WorkerSettings
from tests.ingest.disturbing import PAGE_BARS, Task, kill_at
from tests.ingest.processes import crew
from tests.ingest.working import PENDING, SUCCEEDED, desk, replaying

SETTINGS = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "POLYGON_API_KEY": "key", "LOG_FORMAT": "json"}
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mdw_ingest_login'"


@pytest.fixture
async def work(database):
    async with desk(database) as made:
        yield made


async def test_workers_killed_at_random_points_leave_the_tables_of_an_undisturbed_run(work, tmp_path):
    task = Task(work)
    await task.prepare()
    async with replaying() as replay:
        expected = await task.undisturbed(replay.url)
        async with crew(tmp_path, work.url, replay.url, POLYGON_PAGE_BARS=str(PAGE_BARS)) as workers:
            found = await kill_at(task, workers, replay, Random(1), kills=4)
    assert found == expected


async def test_a_stopped_worker_is_replaced_and_fenced_off_when_it_goes_on(work, tmp_path):
    """It is stopped while it waits for an answer; its lease ends; another does the slice; it wakes, and goes on."""
    await work.backfill("AAPL", "2004-01-02", "2007-12-31")
    variables = {"POLYGON_PAGE_BARS": "300", "LEASE_SECONDS": "5", "REQUEST_SECONDS": "4.9"}

    async def done():
        return await work.open_slices() == 0

    async with (
        replaying(parse_faults("timeout:seconds=600")) as replay,
        crew(tmp_path, work.url, replay.url, **variables) as workers,
    ):
        stopped = workers.start()

        async def asked():
            return len(replay.served) > 0

        async def refused():
            return "lease_lost" in workers.log.read_text()

        await workers.until(asked)
        stopped.signal(signal.SIGSTOP)
        replay.faults = []
        other = workers.start()
        await workers.until(done)
        rows = [tuple(row) for row in await work.slices()]
        assert [(row["state"], row["inserted"]) for row in await work.slices()] == [(SUCCEEDED, 1006)]
        workers.kill(other)
        stopped.signal(signal.SIGCONT)
        await workers.until(refused)
        assert [tuple(row) for row in await work.slices()] == rows
        await work.backfill("MSFT", "2004-01-02", "2004-12-31")
        await workers.until(done)
        assert stopped.stop((signal.SIGTERM, 60)) == 0


async def test_a_worker_told_to_end_gives_its_slice_back_at_once(work, tmp_path):
    await work.backfill("AAPL", "2004-01-02", "2007-12-31")
    async with (
        replaying(parse_faults("timeout:seconds=600")) as replay,
        crew(tmp_path, work.url, replay.url) as workers,
    ):
        child = workers.start()

        async def asked():
            return len(replay.served) > 0

        await workers.until(asked)
        assert child.stop((signal.SIGTERM, 60)) == 0
    (row,) = await work.slices()
    assert (row["state"], row["attempts"], row["lease_owner"]) == (PENDING, 0, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLYGON_API_KEY", ""),
        ("POLYGON_BASE_URL", "api.polygon.io"),
        ("POLYGON_REQUESTS_PER_MINUTE", "-1"),
        ("POLYGON_PAGE_BARS", "50001"),
        ("REQUEST_SECONDS", "60"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(monkeypatch, capsys, name, value):
    for variable, text in {**SETTINGS, name: value}.items():
        monkeypatch.setenv(variable, text)
    assert main() == 2
    assert capsys.readouterr().err.startswith(name)


async def test_a_worker_ends_with_the_command_that_helps_when_there_is_no_schema(empty_database, tmp_path):
    async with crew(tmp_path, empty_database, "http://127.0.0.1:1", SCHEMA_WAIT_SECONDS="0") as workers:
        assert workers.start().wait(120) == 1
        assert "migrator up" in workers.log.read_text()


async def test_a_worker_serves_until_it_is_stopped(work):
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    started = asyncio.Queue()
    async with replaying() as replay:
        settings = WorkerSettings.from_environment(
            {**SETTINGS, "DATABASE_URL": work.url, "POLYGON_API_KEY": "replay", "POLYGON_BASE_URL": replay.url}
        )
        serving = asyncio.create_task(serve(settings, ready=started.put_nowait))
        worker = await asyncio.wait_for(started.get(), 60)
        await work.settled()
        worker.stop()
        await asyncio.wait_for(serving, 60)
    assert await work.sql.fetchval("SELECT state FROM ingest.backfills") == 4


async def test_a_worker_waits_out_a_database_that_is_away(work):
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    async with replaying() as replay:
        worker = await work.worker(replay.url, lease=timedelta(seconds=2))
        running = asyncio.create_task(worker.run())
        for _ in range(3):
            await work.sql.execute(TERMINATE)
            await asyncio.sleep(0.05)
        async with asyncio.timeout(120):
            while await work.open_slices():
                await worker.reap()
                await asyncio.sleep(0.05)
        worker.stop()
        await running
    assert (await work.slices())[0]["inserted"] == 252
