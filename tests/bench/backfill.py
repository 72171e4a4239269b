"""Bench `backfill`: from HTTP pages to committed bars, two worker processes, a provider on this machine, no limiter.

The limit is a server-side COPY BINARY of as many rows into the same table. The rival is the obvious script: Polygon's
official client (the package `massive`, left out where it is not installed) and an upsert by executemany.
`python -m tests.bench.backfill [ROUNDS [TICKERS [SESSIONS]]]` runs it alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import httpx

from deploy.local.children import Child
from services.ingest.calendar import EVERY_DAY, XNYS, date_of, day_of
from services.ingest.store import sessions
from services.kit.db import Database
from tests.bench.server import migrated_server, row
from tests.bench.writing import PAGE, PAGES, UPSERT, Bench, walk
from tests.ingest.processes import ROOT, crew
from tests.ingest.working import MINUTE, STOCK, Ask, Desk

if TYPE_CHECKING:
    from tests.bench.server import Server

ROUNDS = 5
TICKERS, SESSIONS, FIRST = 8, 505, date(2019, 1, 2)
MINUTES = 390
TARGET, TIMES_RIVAL = 0.65, 7.0
READY = "replay of Polygon on "

RIVAL = """
import asyncio, sys, time, asyncpg
from datetime import datetime, timezone
from massive import RESTClient
base, dsn, ticker, first, last, symbol_id, upsert = sys.argv[1:]
async def main():
    conn = await asyncpg.connect(dsn)
    start = time.perf_counter()
    client = RESTClient("replay", base=base)
    rows = [
        (datetime.fromtimestamp(a.timestamp / 1000, timezone.utc), a.open, a.high, a.low, a.close, a.vwap, a.volume,
         int(symbol_id), a.transactions)
        for a in client.list_aggs(ticker, 1, "minute", first, last, adjusted=False, limit=50000)
    ]
    await conn.executemany(upsert, rows)
    print(len(rows) / (time.perf_counter() - start))
asyncio.run(main())
"""


@dataclass(frozen=True)
class Market:
    """So many tickers, with all regular minutes of their sessions."""

    tickers: int
    sessions: int
    last: date

    @property
    def bars(self) -> int:
        return self.tickers * self.sessions * MINUTES


async def rows(
    server: Server, rounds: int = ROUNDS, tickers: int = TICKERS, days: int = SESSIONS
) -> list[dict[str, object]]:
    """Measures the row, limit and backfill in turns."""
    conn = await asyncpg.connect(server.superuser_url)
    db = await Database.open(server.ingest_url, size=4, command_timeout=600)
    desk = Desk(conn, db, server.ingest_url)
    calendars = await sessions.load(db)
    known = calendars[XNYS].days
    market = Market(tickers, days, date_of(int(known[known.searchsorted(day_of(FIRST)) + days - 1])))
    bench = Bench(server, conn, db, calendars[EVERY_DAY], walk(min(PAGE * PAGES, market.bars)))
    measured, rivals = [], []
    with tempfile.TemporaryDirectory() as folder:
        provider, url = start_provider(Path(folder), market)
        try:
            await warm_up(url, market)
            async with crew(Path(folder), server.ingest_url, url) as workers:
                workers.start()
                workers.start()
                await workers.ready()
                for _ in range(rounds + 1):
                    await bench.settle()
                    limit = await bench.limit()
                    ours = await backfill(desk, market)
                    measured.append((ours, (limit + await bench.limit()) / 2))
                    rivals.append(await _rival(server, bench, url, market))
        finally:
            provider.stop()
    await db.close()
    await conn.close()
    return [_row(measured[1:], rivals[1:])]


async def backfill(desk: Desk, market: Market) -> float:
    """Returns the rows a second of a job over all tickers, from its start to its last commit."""
    span = FIRST.isoformat(), market.last.isoformat()
    asks = [
        Ask(await desk.symbol(f"{number}.{time.monotonic_ns()}"), f"LOAD{number:05}", *span, MINUTE, STOCK)
        for number in range(market.tickers)
    ]
    start = time.perf_counter()
    await desk.start(*asks)
    await desk.settled(600)
    taken = time.perf_counter() - start
    written = await desk.sql.fetchval(
        "SELECT sum(inserted) FROM ingest.slices WHERE slice_id > $1", await _before(desk, market)
    )
    assert written == market.bars, written
    return market.bars / taken


async def _before(desk: Desk, market: Market) -> int:
    return int(await desk.sql.fetchval("SELECT max(slice_id) - $1 FROM ingest.slices", market.tickers))


def start_provider(folder: Path, market: Market) -> tuple[Child, str]:
    """Starts a replay that makes the market up; returns its process and its address."""
    log = folder / "provider.log"
    command = [sys.executable, "-m", "deploy.local.replay", "--load", f"{market.tickers}:{FIRST}:{market.last}"]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos' / 'gen'}"}
    child = Child("provider", command, log=log, environ=environ, folder=ROOT)
    for _ in range(6_000):
        lines = [line for line in log.read_text().splitlines() if line.startswith(READY)]
        if lines:
            return child, lines[0].removeprefix(READY)
        time.sleep(0.05)
    raise AssertionError(log.read_text())


async def warm_up(url: str, market: Market) -> None:
    """Has the provider make its pages, as the workers ask for them; it keeps them."""
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer replay"}, timeout=60) as http:
        for number in range(market.tickers):
            span = f"{FIRST}/{market.last}"
            following = f"/v2/aggs/ticker/LOAD{number:05}/range/1/minute/{span}?adjusted=false&sort=asc&limit=50000"
            while following:
                page = (await http.get(following)).json()
                following = page.get("next_url", "").removeprefix("https://api.polygon.io")


async def _rival(server: Server, bench: Bench, url: str, market: Market) -> float | None:
    """Returns the rows a second of the obvious script, for one ticker."""
    if find_spec("massive") is None:
        return None
    symbol_id = str(await bench.symbol())
    arguments = (url, server.superuser_url, "LOAD00000", str(FIRST), str(market.last), symbol_id, UPSERT)
    command = [sys.executable, "-c", RIVAL, *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, text=True)
    return float(done.stdout)


def _row(measured: list[tuple[float, float]], rivals: list[float | None]) -> dict[str, object]:
    ours, limit = (statistics.median(one[at] for one in measured) for at in (0, 1))
    ratio = statistics.median(one / beside for one, beside in measured)
    told = [one for one in rivals if one is not None]
    rival = statistics.median(told) if told else None
    reached = ratio >= TARGET and (rival is None or ours >= TIMES_RIVAL * rival)
    return row("backfill", ours=ours, limit=limit, rival=rival, ratio=ratio, target=TARGET, reached=reached)


async def main(*numbers: int) -> None:
    async with migrated_server() as server:
        print(json.dumps(await rows(server, *numbers), indent=2))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
