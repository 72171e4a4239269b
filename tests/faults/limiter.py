"""Four replicas under full load for two real minutes: never above the limit, and nearly all of it used.

Not collected by `make test`: `python -m pytest tests/faults/limiter.py`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.ingest.store.limiter import SLOT_SECONDS, Limiter
from services.kit.db import Database

if TYPE_CHECKING:
    from datetime import datetime

MINUTE = timedelta(seconds=60)
REPLICAS, ROUNDS = 4, 2


@pytest.mark.parametrize("per_minute", [300])
async def test_all_replicas_together_use_the_limit_and_never_more(database, per_minute):
    grants: list[datetime] = []
    until = time.monotonic() + ROUNDS * SLOT_SECONDS - 1

    async def work(limiter: Limiter) -> None:
        while time.monotonic() < until:
            grant = await limiter.take()
            if grant is None:
                await asyncio.sleep(min(await limiter.wait() + 0.01, 1.0))
            elif grant.grant_time:
                grants.append(grant.grant_time)

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for _ in range(REPLICAS):
            db = await Database.open(database.ingest_url, size=4)
            stack.push_async_callback(db.close)
            limiter = Limiter(db, per_minute)
            await limiter.prepare()
            for _ in range(3):
                group.create_task(work(limiter))
    grants.sort()
    most = max(sum(1 for other in grants[at:] if other < start + MINUTE) for at, start in enumerate(grants))
    assert most <= per_minute
    assert len(grants) >= 0.95 * per_minute * ROUNDS * SLOT_SECONDS / 60
