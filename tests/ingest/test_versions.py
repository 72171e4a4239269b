"""Every read can be repeated: the same before, during and after any later write. The long run is in tests/faults."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from random import Random

from services.ingest.store import slices
from services.kit.errors import Unavailable
from tests.ingest.versions import History, providing
from tests.ingest.working import desk

# Of workers, in whatever they are doing; not of the readers, nor one that a reader may get from the pool.
BREAK = """
SELECT count(pg_terminate_backend(pid))
FROM (
  SELECT pid
  FROM pg_stat_activity
  WHERE application_name = 'mdw' AND state <> 'idle' AND query ~ $1
  ORDER BY random()
  LIMIT 1
) one
"""


async def test_reads_are_repeated_exactly_while_workers_write_and_break(database):
    chance = Random(1)
    async with desk(database, size=12) as work, providing(chance) as provider:
        history = History(work, provider, chance, series=4)
        await history.prepare()
        workers = [
            await work.worker(provider.url, lease=timedelta(seconds=0.5), owner=f"w{number}") for number in range(4)
        ]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        for _ in range(14):
            await history.start_jobs(4)
            for _ in range(6):
                await history.read()
            if chance.random() < 0.4:
                await work.sql.execute(BREAK, "end_range|COPY|begin_range|COMMIT")
            await free_lost(work)
        async with asyncio.timeout(120):
            while await work.open_slices():
                await free_lost(work)
                await asyncio.sleep(0.02)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
        assert await history.check()
        assert history.reads == 84
        assert await work.sql.fetchval("SELECT count(*) FROM ingest.writes WHERE commit_time IS NULL") == 0


async def free_lost(work):
    """Does what the reaper does, which comes again when its connection broke."""
    with suppress(Unavailable):
        await slices.free_lost(work.db, lambda _: False)
