"""Fixtures: the warehouse that a test fills, and clients of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mdw_client import AsyncClient, Client
from mdw_client.cli.app import run
from services.kit.keys import new_secret
from tests.mdw_client.market import Market
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


@pytest.fixture
def market(warehouse: Warehouse) -> Market:
    made = Market()
    warehouse.answers["StreamBars"] = made.stream
    return made


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def ran(warehouse: Warehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MDW_TARGET", warehouse.target)
    monkeypatch.setenv("MDW_KEY", KEY)

    def run_line(*arguments: str) -> Ran:
        status = run(list(arguments))
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run_line


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes rich take the output for a terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
