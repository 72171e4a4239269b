"""A worker whose statements fail, are late, or run without an answer: the tables of an undisturbed run."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from services.kit.errors import MdwError
from tests.faulty import Faults, faulty
from tests.ingest.disturbing import PAGE_BARS, Task
from tests.ingest.working import desk, replaying

SEEDS = range(1)


async def under_fire(database, seed: int, **rates: float) -> int:
    """Does the work with faults; returns how many there were."""
    async with desk(database) as work, replaying() as replay:
        task = Task(work)
        await task.prepare()
        expected = await task.undisturbed(replay.url)
        await task.begin()
        worker = await work.worker(replay.url, page_bars=PAGE_BARS, lease=timedelta(seconds=1))
        worker._pause = lambda seconds: asyncio.sleep(min(seconds, 0.02))
        with faulty(work.db, Faults(seed, **rates)) as faults:
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(120):
                while not await task.done():
                    await _reap(worker)
                    await asyncio.sleep(0.05)
            worker.stop()
            await running
        assert await task.result() == expected, (seed, faults.met)
        return len(faults.met)


async def _reap(worker) -> None:
    try:
        await worker.reap()
    except (MdwError, TimeoutError):
        return


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_worker_whose_statements_get_lost_ends_in_the_same_tables(database, seed):
    assert await under_fire(database, seed, error=0.01, lost=0.015, late=0.02) > 0
