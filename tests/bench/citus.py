"""Benches of a cluster against one plain server, in the same run: `make bench-citus CITUS_URL=postgresql://...`.

The plain server is the coordinator's, with a database of its own; `.._1` has the bars on one worker alone, so that the
rows beside it say what another node adds. `python -m tests.bench.citus [ROUNDS [TICKERS [SESSIONS [BARS]]]]` runs it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import grpc
import uvloop
from rich.console import Console

from deploy.local.roles import LOGINS, OWNER, ensure_database, with_login
from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from migrator import cli, runner
from migrator.usage import parse
from services.ingest.calendar import XNYS, date_of, day_of
from services.ingest.store import sessions
from services.kit.db import Database
from tests.bench.__main__ import table, write
from tests.bench.backfill import FIRST, Market, backfill, start_provider, warm_up
from tests.bench.reading import MAX_MESSAGE
from tests.bench.served import FIRST as FIRST_BAR
from tests.bench.served import M1, fill, served
from tests.bench.server import Server, row
from tests.citus.databases import connected, create_database, create_logins, database_at, drop_database, node_urls
from tests.ingest.history import History
from tests.ingest.processes import crew
from tests.ingest.working import Desk
from tests.support import with_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROUNDS, TICKERS, SESSIONS, BARS = 5, 8, 126, 200_000
SYMBOLS, READERS, PAGES = 8, 4, 200
PLAIN, ONE, ALL = "plain", "one node", "all nodes"
BACKFILL, STREAM, PAGE = 0.8, 0.8, 2.0
NO_CLUSTER = (
    "Nothing was measured: CITUS_URL names no cluster; "
    "docker compose -f tests/citus/compose.yaml up -d --wait starts one."
)


@asynccontextmanager
async def _database(url: str, passwords: dict[str, str], layout: str, folder: Path) -> AsyncIterator[Server]:
    """Makes a migrated database of a layout, and drops it after."""
    name = f"mdw_bench_{secrets.token_hex(4)}"
    nodes = await node_urls(url)
    if layout == PLAIN:
        async with connected(url) as conn:
            await ensure_database(conn, name)
    else:
        await create_database(url, name, workers=1 if layout == ONE else None)
    at = {login: with_login(url, login, passwords[login], name) for login in (OWNER, *LOGINS)}
    try:
        await runner.up(at[OWNER])
        reads: tuple[str, ...] = ()
        if layout != PLAIN:
            assert await cli.execute(parse(["distribute"]), {"DATABASE_URL": at[OWNER]}) == 0
            login = "mdw_ingest_login"
            workers = nodes[1:2] if layout == ONE else nodes[1:]
            reads = tuple(with_login(node, login, passwords[login], name) for node in workers)
        roles = (at["mdw_ingest_login"], at["mdw_symbols_login"], at["mdw_auth_login"])
        yield Server(database_at(url, name), *roles, folder, reads)
    finally:
        await drop_database(url, name)


@dataclass
class Filling:
    """A database with two workers of ours on it."""

    desk: Desk
    market: Market

    async def rate(self) -> float:
        """Returns the bars a second of a backfill."""
        return await backfill(self.desk, self.market)


class Reading:
    """A service of bars over a database with some long series."""

    def __init__(self, stub: Any, secret: str, symbols: list[int], bars: int) -> None:
        self._stub = stub
        self._metadata = with_key(secret)
        self._symbols = symbols
        self._bars = bars

    async def stream(self) -> float:
        """Returns the bars a second of several readers at once, each with series of its own."""
        start = time.perf_counter()
        counts = await asyncio.gather(*(self._read(self._symbols[at::READERS]) for at in range(READERS)))
        assert sum(counts) == self._bars * len(self._symbols)
        return sum(counts) / (time.perf_counter() - start)

    async def _read(self, symbols: list[int]) -> int:
        count = 0
        for symbol_id in symbols:
            request = bars_pb2.StreamBarsRequest(symbol_ids=[symbol_id], timeframe=M1)
            async for message in self._stub.StreamBars(request, metadata=self._metadata):
                count += len(message.close)
        return count

    async def page(self) -> float:
        """Returns the milliseconds of a page of 100 bars: the median of many, over all series."""
        taken = []
        for number in range(PAGES):
            begin = FIRST_BAR + timedelta(minutes=number * 97 % (self._bars - 100))
            request = bars_pb2.ListBarsRequest(
                symbol_ids=[self._symbols[number % len(self._symbols)]], timeframe=M1, page_size=100
            )
            request.start_time.FromDatetime(begin)
            start = time.perf_counter()
            answer = await self._stub.ListBars(request, metadata=self._metadata)
            taken.append((time.perf_counter() - start) * 1_000)
            assert len(answer.bars) == 100
        return statistics.median(taken)


async def _filling(stack: AsyncExitStack, server: Server, market: Market, provider: str) -> Filling:
    conn = await asyncpg.connect(server.superuser_url)
    stack.push_async_callback(conn.close)
    db = await Database.open(server.ingest_url, size=4, command_timeout=600)
    stack.push_async_callback(db.close)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    workers = await stack.enter_async_context(crew(folder, server.ingest_url, provider))
    workers.start()
    workers.start()
    await workers.ready()
    return Filling(Desk(conn, db, server.ingest_url), market)


async def _reading(stack: AsyncExitStack, server: Server, bars: int) -> Reading:
    history = History(server.ingest_url, server.superuser_url)
    symbols = [await history.symbol(f"BENCH{number}") for number in range(SYMBOLS)]
    for symbol_id in symbols:
        await fill(server, history, symbol_id, bars)
    await history.close()
    service = await stack.enter_async_context(served(server))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(service.target, options=MAX_MESSAGE))
    return Reading(bars_pb2_grpc.BarServiceStub(channel), service.secret, symbols, bars)


async def _rounds(measure: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Measures the layouts in turns; the first round only warms up."""
    found: dict[str, list[float]] = {layout: [] for layout in measure}
    for number in range(rounds + 1):
        for layout, one in measure.items():
            value = await one()
            if number:
                found[layout].append(value)
    return found


def _rows(name: str, found: dict[str, list[float]], target: float, *, most: bool = False) -> list[dict[str, object]]:
    """Makes the rows of a measure: all nodes, with its target, and one node."""
    made = []
    for layout, suffix in ((ALL, ""), (ONE, "_1")):
        ratio = statistics.median(ours / plain for ours, plain in zip(found[layout], found[PLAIN], strict=True))
        reached = ratio <= target if most else ratio >= target
        figures = {"ours": statistics.median(found[layout]), "limit": statistics.median(found[PLAIN])}
        made.append(row(name + suffix, **figures, rival=None, ratio=ratio, target=target, reached=reached))
        if most:
            made[-1] |= {key: round(value, 2) for key, value in figures.items()}
        if suffix:
            made[-1] |= {"target": None, "reached": None}
    return made


async def _market(server: Server, tickers: int, days: int) -> Market:
    db = await Database.open(server.ingest_url, size=1)
    known = (await sessions.load(db))[XNYS].days
    await db.close()
    last: date = date_of(int(known[known.searchsorted(day_of(FIRST)) + days - 1]))
    return Market(tickers, days, last)


async def rows(
    url: str, rounds: int = ROUNDS, tickers: int = TICKERS, days: int = SESSIONS, bars: int = BARS
) -> list[dict[str, object]]:
    """Returns the rows of the table."""
    passwords = {login: secrets.token_urlsafe(16) for login in (OWNER, *LOGINS)}
    await create_logins(url, passwords)
    async with AsyncExitStack() as databases:
        folder = Path(databases.enter_context(tempfile.TemporaryDirectory()))
        servers = {
            layout: await databases.enter_async_context(_database(url, passwords, layout, folder))
            for layout in (PLAIN, ONE, ALL)
        }
        market = await _market(servers[PLAIN], tickers, days)
        async with AsyncExitStack() as stack:
            provider, at = start_provider(folder, market)
            stack.callback(provider.stop)
            await warm_up(at, market)
            filling = {layout: (await _filling(stack, server, market, at)).rate for layout, server in servers.items()}
            measured = _rows("citus_backfill", await _rounds(filling, rounds), BACKFILL)
        async with AsyncExitStack() as stack:
            reading = {layout: await _reading(stack, server, bars) for layout, server in servers.items()}
            streams = {layout: one.stream for layout, one in reading.items()}
            measured += _rows("citus_stream", await _rounds(streams, rounds), STREAM)
            pages = {layout: one.page for layout, one in reading.items()}
            measured += _rows("citus_page_ms", await _rounds(pages, rounds), PAGE, most=True)
    return measured


def main() -> None:
    url = os.environ.get("CITUS_URL", "")
    if not urlsplit(url).scheme.startswith("postgres"):
        raise SystemExit(NO_CLUSTER)
    found = uvloop.run(rows(url, *map(int, sys.argv[1:])))
    write(found, "bench-citus.json")
    Console().print(table(found))


if __name__ == "__main__":
    main()
