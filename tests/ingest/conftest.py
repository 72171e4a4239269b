"""Fixtures: a running ingest service for each test, beside one auth service for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.ingest.backfilling import Ingest, ingest_running
from tests.ingest.bars_support import Bars, bars_serving
from tests.ingest.history import History
from tests.ingest.scheduled import Clock, replica
from tests.ingest.working import Desk
from tests.support import auth_serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="session")
async def auth_target(database) -> AsyncIterator[str]:
    """The address of an auth service; it keeps nothing of its own in the tables that are emptied between tests."""
    async with auth_serving(database) as target:
        yield target


@pytest.fixture
async def ingest(database, auth_target) -> AsyncIterator[Ingest]:
    """A running ingest service over an empty registry."""
    async with ingest_running(database, auth_target) as running:
        yield running


@pytest.fixture
async def running(ingest) -> AsyncIterator[Desk]:
    """Workers for the service's backfills, made as a test asks for them and closed after it."""
    made = Desk(ingest.sql, ingest.server.db, "")
    yield made
    for worker in made.workers:
        await worker._fetcher._polygon.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def begun(ingest):
    """Waits until the server's own schedule has begun, with today."""
    async with asyncio.timeout(60):
        while await ingest.sql.fetchval("SELECT count(*) FROM ingest.schedule_runs") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def scheduler(ingest, clock, begun):
    """A scheduler by the tests' clock, after the runs of 2018-02-28."""
    await ingest.sql.execute(
        "INSERT INTO ingest.schedule_runs (calendar, session_date, regular, result) "
        "VALUES ('XNYS', '2018-02-28', true, ''), ('24/7', '2018-02-28', true, '')"
    )
    return replica(ingest, clock)


@pytest.fixture
async def history(database) -> History:
    """Bars are written into the database as of known instants."""
    return History(database.ingest_url, database.admin_url)


@pytest.fixture
async def bars(database) -> AsyncIterator[Bars]:
    """The RPCs that read bars."""
    async with bars_serving(database) as serving:
        yield serving
