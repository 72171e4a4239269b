"""kill -9 at 50 seeded points, stops past the lease, a restarted Postgres: the tables of an undisturbed run every time.

Not collected by `make test`: `python -m pytest tests/faults/ingest_kills.py`.
"""

from __future__ import annotations

import signal
from datetime import date
from random import Random
from typing import TYPE_CHECKING

import pytest

from deploy.local.faults import parse_faults
from deploy.local.load import LoadMarket
from tests.ingest.disturbing import PAGE_BARS, Task, kill_at
from tests.ingest.processes import crew
from tests.ingest.test_worker import TROUBLES
from tests.ingest.working import MINUTE, STOCK, desk, replaying
from tests.standby import own_server
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable

KILLS_A_RUN = 5


@pytest.mark.parametrize("seed", range(10))
async def test_fifty_kills_at_random_points_change_nothing(database, tmp_path, seed):
    async with desk(database) as work, replaying() as replay:
        task = Task(work)
        await task.prepare()
        expected = await task.undisturbed(replay.url)
        async with crew(tmp_path, work.url, replay.url, POLYGON_PAGE_BARS=str(PAGE_BARS)) as workers:
            assert await kill_at(task, workers, replay, Random(seed), KILLS_A_RUN) == expected


LOAD = (
    ("LOAD00000", STOCK, MINUTE, "2024-01-02", "2025-01-31"),
    ("LOAD00001", STOCK, MINUTE, "2024-01-02", "2025-01-31"),
)
LOAD_OVERLAP = ("LOAD00000", STOCK, MINUTE, "2024-06-03", "2024-07-31")
LOAD_BARS, LOAD_PAGES, LOAD_PAGE = 200_000, 200, 1_000


async def test_fifty_kills_in_two_hundred_parts_of_a_thousand_bars_change_nothing(database, tmp_path):
    """And no kill costs more than the page that was under way."""
    market = LoadMarket(2, date(2024, 1, 2), date(2025, 1, 31))
    async with desk(database) as work, replaying(market=market) as replay:
        task = Task(work, LOAD, LOAD_OVERLAP, pages=LOAD_PAGES)
        await task.prepare()
        expected = await task.undisturbed(replay.url, LOAD_PAGE)
        assert len(expected["bars"]) >= LOAD_BARS
        pages = len(replay.served)
        async with crew(tmp_path, work.url, replay.url, POLYGON_PAGE_BARS=str(LOAD_PAGE)) as workers:
            assert await kill_at(task, workers, replay, Random(50), 50) == expected
        assert pages <= len(replay.served) <= pages + 50


LEASED = "SELECT count(*) FROM ingest.slices WHERE state = 2"
BUSY = """
SELECT count(*)
FROM pg_stat_activity
WHERE application_name = 'mdw ingest worker'
  AND datname = current_database()
  AND state = 'active'
  AND coalesce(wait_event_type, '') NOT IN ('Client', 'Lock')
"""


@pytest.mark.parametrize("seed", range(7))
async def test_workers_stopped_past_their_lease_change_nothing(database, tmp_path, seed):
    """Stopped wherever they are, mid-transaction too; continued when others have done their work.

    Each that had a slice finds it lost, or its backend ended.
    """
    chance = Random(seed)
    async with desk(database) as work, replaying() as replay:
        task = Task(work)
        await task.prepare()
        expected = await task.undisturbed(replay.url)
        variables = {"POLYGON_PAGE_BARS": str(PAGE_BARS), "LEASE_SECONDS": "1", "REQUEST_SECONDS": "0.9"}
        async with crew(tmp_path, work.url, replay.url, **variables) as workers:
            stopped = [workers.start() for _ in range(3)]
            await workers.ready()
            replay.served.clear()
            await task.begin()
            point = chance.randrange(1, 15)

            async def reached():
                return len(replay.served) >= point or await task.done()

            await workers.until(reached)
            for child in stopped:
                child.signal(signal.SIGSTOP)
            # What they have sent is done, or waits for more, or for another that is stopped.
            await until(lambda: _none(work.sql.fetchval(BUSY)))
            leased = await work.sql.fetchval(LEASED)
            workers.start()
            await workers.until(task.done)
            for child in stopped:
                child.signal(signal.SIGCONT)
            await until(lambda: workers.said("lease_lost") + workers.said("database_away") >= leased)
            for child in stopped:
                assert child.stop((signal.SIGTERM, 10)) == 0
            assert await task.result() == expected


async def _none(count: Awaitable[int]) -> bool:
    return await count == 0


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_kills_amid_trouble_with_the_provider_change_nothing(database, tmp_path, trouble):
    async with desk(database) as work, replaying() as replay:
        task = Task(work)
        await task.prepare()
        expected = await task.undisturbed(replay.url)
        replay.faults = parse_faults(trouble.replace("times=", "every=3,times="))
        async with crew(tmp_path, work.url, replay.url, POLYGON_PAGE_BARS=str(PAGE_BARS)) as workers:
            assert await kill_at(task, workers, replay, Random(trouble), 2) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_a_postgres_that_restarts_or_crashes_under_the_work_changes_nothing(tmp_path, number):
    """SIGINT is a fast shutdown, SIGQUIT an immediate one, from which the next start recovers."""
    async with own_server(tmp_path / "server") as (server, database), replaying() as replay:
        async with desk(database) as work:
            task = Task(work)
            await task.prepare()
            expected = await task.undisturbed(replay.url)
            await task.begin()
            replay.served.clear()
        async with crew(tmp_path, database.ingest_url, replay.url, POLYGON_PAGE_BARS=str(PAGE_BARS)) as workers:
            for _ in range(2):
                workers.start()
            for point in (4, 9, 15):

                async def reached(point=point):
                    return len(replay.served) >= point

                await workers.until(reached)
                server.child.stop((number, 20))
                server.start()
            async with desk(database) as work:
                task.desk = work
                await workers.until(task.done)
                assert await task.result() == expected
