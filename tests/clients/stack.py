"""The services with two symbols' daily bars, for programs of other ecosystems to be run against."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mdw_client import AsyncClient
from tests.clients.building import run
from tests.ingest.working import desk, replaying
from tests.whole import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SESSIONS = 125
"""Of the half year of which bars are loaded."""


@dataclass
class Stack:
    """The running services: their addresses, a key, and a folder that holds it where make run keeps it."""

    targets: dict[str, str]
    key: str
    folder: Path

    def server(self, method: str) -> str:
        """Returns the address that serves a method, by its full name."""
        return self.targets[method.split(".")[1]]

    async def run(self, *command: str | Path, cwd: Path | None = None, code: int = 0) -> str:
        """Runs a program, told where the services are and with which key."""
        addresses = {f"MDW_{service.upper()}_TARGET": target for service, target in self.targets.items()}
        return await run(*command, cwd=cwd or self.folder, code=code, MDW_KEY=self.key, **addresses)

    async def checked(self, *command: str | Path, cwd: Path | None = None) -> dict[str, Any]:
        """Runs a program that prints what came as JSON."""
        found: dict[str, Any] = json.loads(await self.run(*command, cwd=cwd))
        return found

    async def bars(self) -> list[tuple[str, str, float]]:
        """Returns ticker, date and close of all bars."""
        async with AsyncClient(targets=self.targets, key=self.key) as client:
            bars = await client.bars(["AAPL", "MSFT"])
        return [
            (chunk.ticker, str(start)[:10], float(close))
            for chunk in bars
            for start, close in zip(chunk.columns["start_time"], chunk.columns["close"], strict=True)
        ]

    async def expected(self) -> dict[str, Any]:
        """Returns what each program has to print: bars as the Python client reads them, and the contract's reasons."""
        async with AsyncClient(targets=self.targets, key=self.key) as client:
            bars = await client.bars("AAPL")
            assert len(bars) == SESSIONS
            return {
                "symbols": [symbol.ticker async for symbol in client.symbols.list()],
                "closes": bars.columns()["close"].tolist(),
                "receipt": len(bars),
                "refused": {"code": 5, "reason": "SYMBOL_NOT_FOUND", "ticker": "NOPE"},
                "keyless": {"code": 16, "reason": "KEY_INVALID", "ticker": ""},
            }


@asynccontextmanager
async def stack(database: Any, folder: Path) -> AsyncIterator[Stack]:
    """Starts the services over a database with half a year of AAPL and MSFT."""
    async with desk(database) as work, replaying() as replay:
        for ticker in ("AAPL", "MSFT"):
            await work.backfill(ticker, "2005-01-03", "2005-06-30")
        await work.drain(await work.worker(replay.url))
    async with whole(database) as services:
        (folder / ".mdw").mkdir()
        (folder / ".mdw" / "admin.key").write_text(services.admin)
        yield Stack(services.targets, services.admin, folder)
