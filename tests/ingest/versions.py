"""A random history of answers, and an oracle that says what every read of it must give.

The provider changes its mind all the time. Each slice has a ticker of its own, so that the oracle knows which answer a
write stored: the last one that was given for the slice and its cursor before the write committed.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.local.wire import Answer, Request, serve
from services.ingest.calendar import date_of, day_of
from services.ingest.columns import Columns
from services.ingest.quality import ABSENT, NO_CONTEXT, judge
from services.ingest.store import bars as reads
from services.ingest.store.instants import to_ms
from services.ingest.store.snapshots import Snapshots
from services.ingest.store.sources import Sources
from services.ingest.timeframes import DAY_MS
from tests.ingest.working import CRYPTO, DAY, Ask, Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from random import Random

    from services.kit.db import Database

FIRST = day_of(date(2024, 1, 1))
DAYS = 80
LONGEST = 50

WRITES = """
SELECT w.commit_time, w.fetch_time, w.asked_from, w.asked_to, s.provider_ticker
FROM ingest.writes w
JOIN ingest.slices s USING (slice_id)
WHERE w.symbol_id = $1
  AND w.commit_time <= $2
ORDER BY w.fetch_time
"""


@dataclass(frozen=True)
class Said:
    """An answer that was given, and when (seconds since 1970)."""

    time: float
    closes: dict[int, int]


@dataclass
class Provider:
    """Serves daily bars of coins that nobody has heard of; what it says of a day changes from time to time."""

    chance: Random
    page: int = 30
    worlds: dict[int, dict[int, int]] = field(default_factory=dict)
    series_of: dict[str, int] = field(default_factory=dict)
    said: dict[tuple[str, int], list[Said]] = field(default_factory=dict)
    url: str = ""

    def respond(self, request: Request) -> Answer:
        _, _, _, ticker, _, _, _, first, last = request.path
        start, end = (day_of(date.fromisoformat(text)) for text in (first, last))
        world = self._changed(self.series_of[ticker])
        days = [day for day in sorted(world) if start <= day <= end]
        closes = {day: world[day] for day in days[: self.page]}
        self.said.setdefault((ticker, start), []).append(Said(time.time(), closes))
        page: dict[str, Any] = {"ticker": ticker, "adjusted": False, "status": "OK"}
        page["results"] = [
            {"t": day * DAY_MS, "o": close, "h": close, "l": close, "c": close, "v": close, "vw": close, "n": 1}
            for day, close in closes.items()
        ]
        if len(days) > self.page:
            path = f"{'/'.join(request.path[:-2])}/{days[self.page] * DAY_MS}/{last}"
            page["next_url"] = f"https://api.polygon.io/{path}?cursor=x"
        return Answer(200, json.dumps(page).encode())

    def _changed(self, symbol_id: int) -> dict[int, int]:
        """Corrects, withdraws and adds some bars of a series, and returns all."""
        world = self.worlds.setdefault(symbol_id, {})
        for _ in range(self.chance.randint(0, 8) if world else 2 * DAYS):
            day = FIRST + self.chance.randrange(DAYS)
            if self.chance.random() < 0.25:
                world.pop(day, None)
            else:
                world[day] = self.chance.choice((100, 101, 109, 700, 2000))
        return world


@asynccontextmanager
async def providing(chance: Random) -> AsyncIterator[Provider]:
    """Runs the provider in this process."""
    provider = Provider(chance)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer, provider.respond))
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await task
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Read = tuple[list[int], list[float], list[int]]


class History:
    """Starts overlapping backfills, reads at random moments, and compares every read with the oracle."""

    def __init__(
        self, desk: Desk, provider: Provider, chance: Random, series: int, replicas: Sequence[Database] = ()
    ) -> None:
        self._desk = desk
        self._provider = provider
        self._chance = chance
        self._series = series
        self._symbols: list[int] = []
        self._snapshots = Snapshots(desk.db)
        self._sources = Sources(desk.db, replicas)
        self.seen: dict[tuple[int, datetime], Read] = {}
        self.reads = 0

    async def prepare(self) -> None:
        self._symbols = [await self._desk.symbol(f"C{number}-USD", CRYPTO) for number in range(self._series)]

    async def start_jobs(self, count: int) -> None:
        """Starts backfills of random spans of random series."""
        for _ in range(count):
            symbol_id = self._chance.choice(self._symbols)
            ticker = f"X:S{len(self._provider.series_of)}"
            self._provider.series_of[ticker] = symbol_id
            first = FIRST + self._chance.randrange(DAYS)
            last = min(first + self._chance.randrange(LONGEST), FIRST + DAYS - 1)
            span = (date_of(first).isoformat(), date_of(last).isoformat())
            await self._desk.start(Ask(symbol_id, ticker, *span, DAY, CRYPTO))

    async def read(self) -> None:
        """Reads a series as of now, or again as of a time at which it was read before: the answers must be equal."""
        if self.seen and self._chance.random() < 0.7:
            symbol_id, as_of = self._chance.choice(list(self.seen))
        else:
            symbol_id, as_of = self._chance.choice(self._symbols), (await self._snapshots.newest()).as_of
        found = await self._read(symbol_id, as_of)
        assert self.seen.setdefault((symbol_id, as_of), found) == found, (symbol_id, as_of)
        self.reads += 1

    async def check(self) -> int:
        """Compares all reads, done again, with the oracle; returns how many bars that were."""
        bars = 0
        for (symbol_id, as_of), before in self.seen.items():
            expected = await self._expected(symbol_id, as_of)
            assert before == expected, (symbol_id, as_of)
            assert await self._read(symbol_id, as_of) == expected, (symbol_id, as_of)
            bars += len(before[0])
        for symbol_id in self._symbols:
            now = (await self._snapshots.newest()).as_of
            assert await self._read(symbol_id, now) == await self._expected(symbol_id, now), symbol_id
        return bars

    async def _read(self, symbol_id: int, as_of: datetime) -> Read:
        snapshot = await self._snapshots.at(as_of)
        await self._snapshots.settle(snapshot, [symbol_id])
        async with self._sources.reading(snapshot) as lent:
            block = await reads.read(
                lent.connection, reads.Span(symbol_id=symbol_id, timeframe=DAY), snapshot, limit=10_000
            )
        return (block.bars.ts // DAY_MS).tolist(), block.bars.close.tolist(), block.flags.tolist()

    async def _expected(self, symbol_id: int, as_of: datetime) -> Read:
        """Says of each day the newest answer that had it; ABSENT when a newer one covered it; judged all anew."""
        closes: dict[int, int] = {}
        absent: dict[int, bool] = {}
        for row in await self._desk.sql.fetch(WRITES, symbol_id, as_of):
            start, end = (to_ms(row[name]) // DAY_MS for name in ("asked_from", "asked_to"))
            said = self._stored(row, start)
            for day in range(start, end):
                if day in said:
                    closes[day], absent[day] = said[day], False
                elif day in closes:
                    absent[day] = True
        days = sorted(closes)
        flags = judge(_columns(days, closes), NO_CONTEXT) | np.array([absent[day] * ABSENT for day in days], np.int16)
        return days, [float(closes[day]) for day in days], flags.tolist()

    def _stored(self, row: Any, start: int) -> dict[int, int]:
        """Returns the answer that a write stored."""
        given = self._provider.said[row["provider_ticker"], start]
        return [one for one in given if datetime.fromtimestamp(one.time, UTC) < row["commit_time"]][-1].closes


def _columns(days: list[int], closes: dict[int, int]) -> Columns:
    price = np.array([float(closes[day]) for day in days])
    ts = np.array(days, np.int64) * DAY_MS
    return Columns(ts, price, price, price, price, price, price, np.ones(len(days), np.int64))
