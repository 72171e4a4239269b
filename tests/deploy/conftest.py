"""Fixtures: a replay and an HTTP client with its key."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import httpx
import pytest

from deploy.local.market import RecordedMarket
from deploy.local.replay import Replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="session")
def market() -> RecordedMarket:
    return RecordedMarket()


@pytest.fixture
async def replay(market: RecordedMarket) -> AsyncIterator[Replay]:
    server = Replay(key="secret", market=market, today=lambda: date(2024, 7, 1))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def http(replay: Replay) -> AsyncIterator[httpx.AsyncClient]:
    key = {"Authorization": "Bearer secret"}
    async with httpx.AsyncClient(base_url=replay.url, headers=key, timeout=120) as client:
        yield client
