"""The long run of tests/ingest/test_versions.py: processes, killed and stopped, many series, a random history.

Not collected by `make test`: `python -m pytest tests/faults/ingest_versions.py`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from random import Random

import pytest

from tests.ingest.processes import crew
from tests.ingest.versions import History, providing
from tests.ingest.working import desk

SECONDS = 60


@pytest.mark.parametrize("seed", range(2))
async def test_every_read_of_a_random_history_can_be_repeated(database, tmp_path, seed):
    chance = Random(seed)
    lease = {"LEASE_SECONDS": "1.5", "REQUEST_SECONDS": "1"}
    async with desk(database, size=8) as work, providing(chance) as provider:
        history = History(work, provider, chance, series=20)
        await history.prepare()
        async with crew(tmp_path, work.url, provider.url, **lease) as workers:
            for _ in range(5):
                workers.start()
            await disturb(history, workers, chance, SECONDS)
            for child in workers.children:
                child.signal(signal.SIGCONT)
            await work.settled(60)
        bars = await history.check()
        print(f"\n{history.reads} reads, {len(history.seen)} against the oracle, {bars} bars")  # noqa: T201


async def disturb(history, workers, chance, seconds):
    """Starts work, reads, and now and then kills or stops a worker for longer than its lease."""
    end = time.monotonic() + seconds
    stopped = {}
    while time.monotonic() < end:
        await history.start_jobs(2)
        for _ in range(10):
            await history.read()
        await asyncio.sleep(chance.uniform(0, 0.1))
        for child in [child for child, until in stopped.items() if until < time.monotonic()]:
            child.signal(signal.SIGCONT)
            del stopped[child]
        able = [child for child in workers.children if child not in stopped]
        if chance.random() < 0.06:
            workers.kill(chance.choice(able))
            workers.start()
        elif chance.random() < 0.06 and len(stopped) < 2:
            child = chance.choice(able)
            child.signal(signal.SIGSTOP)
            stopped[child] = time.monotonic() + chance.uniform(0.5, 4)
