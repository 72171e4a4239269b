"""Fixtures: the warehouse that a test fills, and clients of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mdw_client import AsyncClient, Client
from services.kit.keys import new_secret
from tests.mdw_client.warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

KEY = new_secret()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """No variable and no key file of whoever runs the tests reaches a client."""
    for name in [name for name in os.environ if name.startswith("MDW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    made = Warehouse()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def client(warehouse: Warehouse) -> Iterator[Client]:
    with Client(warehouse.target, key=KEY) as made:
        yield made


@pytest.fixture
async def aclient(warehouse: Warehouse) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(warehouse.target, key=KEY) as made:
        yield made
