"""Fixtures: a running ingest service for each test, beside one auth service for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.ingest.backfilling import Ingest, ingest_running
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
