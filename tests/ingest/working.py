"""Helpers for tests of the worker: symbols and jobs as StartBackfill writes them, and a worker to step by hand."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg

from deploy.local.replay import Replay
from services.ingest.action_inquiry import ActionsInquiry
from services.ingest.days_inquiry import DaysInquiry
from services.ingest.errands import Deleter, Errands
from services.ingest.fetching import Fetcher, Patience
from services.ingest.polygon import Polygon
from services.ingest.store import sessions, slices
from services.ingest.store.limiter import Limiter
from services.ingest.symbols_inquiry import SymbolsInquiry
from services.ingest.worker import Worker
from services.kit.db import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

STOCK, ETF, CRYPTO = 1, 2, 3
MINUTE, DAY = 1, 7
LOW, NORMAL, HIGH, SCHEDULE = 1, 2, 3, 4
PENDING, RUNNING, SUCCEEDED, FAILED, OUTSIDE_PLAN, CANCELLED = 1, 2, 3, 4, 5, 6
PAUSED = 3

INSERT_JOB = """
INSERT INTO ingest.backfills (backfill_id, kind, mode, priority, timeframes)
VALUES ($1, 1, 2, $2, '{1,7}')
"""
INSERT_SERIES = """
INSERT INTO ingest.series (symbol_id, timeframe) VALUES ($1, $2) ON CONFLICT DO NOTHING
"""
INSERT_SLICE = """
INSERT INTO ingest.slices (
  kind, mode, priority, turn, symbol_id, timeframe, asset_class, provider_ticker, first_date, last_date)
VALUES (1, 2, $1, $2, $3, $4, $5, $6, $7, $8)
RETURNING slice_id
"""

BARS = """
SELECT symbol_id, timeframe, ts, open, high, low, close, vwap::text AS vwap, volume, trade_count, flags
FROM ingest.bars
ORDER BY symbol_id, timeframe, ts
"""
SERIES = """
SELECT symbol_id, timeframe, sessions_present, bars, validated, rejected, first_ts, last_ts, watermark, tail, asked,
       failed, outside_plan
FROM ingest.series
ORDER BY symbol_id, timeframe
"""
MINUTE_SESSIONS = "SELECT * FROM ingest.minute_sessions ORDER BY symbol_id, session_date"
REJECTED = """
SELECT symbol_id, timeframe, ticker, ts, reason, raw
FROM ingest.rejected_bars
ORDER BY symbol_id, timeframe, reason, raw
"""
ABSENT = "SELECT symbol_id, timeframe, ts FROM ingest.absent_bars ORDER BY symbol_id, timeframe, ts"
SLICES = """
SELECT slice_id, symbol_id, timeframe, first_date, last_date, state, cursor, inserted, updated, unchanged, rejected
FROM ingest.slices
ORDER BY slice_id
"""

AT_ONCE = Patience(attempts=10, first_wait=0.01, longest_wait=0.02, throttled_wait=0.02)


@dataclass
class Ask:
    """A series and a span, dates inclusive."""

    symbol_id: int
    ticker: str
    first: str
    last: str
    timeframe: int = DAY
    asset_class: int = STOCK


@dataclass
class Desk:
    """A database in which backfills are written by hand."""

    sql: asyncpg.Connection
    db: Database
    url: str
    workers: list[Worker] = field(default_factory=list)

    async def symbol(self, ticker: str, asset_class: int = STOCK) -> int:
        symbol_id = await self.sql.fetchval(
            "INSERT INTO symbols.symbols (asset_class) VALUES ($1) RETURNING symbol_id", asset_class
        )
        await self.sql.execute(
            "INSERT INTO symbols.tickers (symbol_id, from_date, asset_class, ticker, provider_ticker) "
            "VALUES ($1, '1900-01-01', $2, $3, $3)",
            symbol_id,
            asset_class,
            ticker,
        )
        return int(symbol_id)

    async def start(self, *asks: Ask, priority: int = NORMAL) -> UUID:
        """Writes a job with a slice for each ask."""
        job = uuid4()
        async with self.sql.transaction():
            turn = await self.sql.fetchval("SELECT nextval('ingest.job_turns')")
            await self.sql.execute(INSERT_JOB, job, priority)
            for ask in asks:
                await self.sql.execute(INSERT_SERIES, ask.symbol_id, ask.timeframe)
                slice_id = await self.sql.fetchval(
                    INSERT_SLICE,
                    priority,
                    turn,
                    ask.symbol_id,
                    ask.timeframe,
                    ask.asset_class,
                    ask.ticker,
                    date.fromisoformat(ask.first),
                    date.fromisoformat(ask.last),
                )
                await self.sql.execute("INSERT INTO ingest.backfill_slices VALUES ($1, $2)", job, slice_id)
        return job

    async def backfill(self, ticker: str, first: str, last: str, timeframe: int = DAY, asset_class: int = STOCK) -> int:
        """Registers a symbol and starts a job for it; returns the symbol_id."""
        symbol_id = await self.symbol(ticker, asset_class)
        await self.start(Ask(symbol_id, ticker, first, last, timeframe, asset_class))
        return symbol_id

    async def worker(self, base_url: str, **options: Any) -> Worker:
        """Makes a worker of this process; `step` it, or `drain` the queue with it."""
        per_minute = options.pop("per_minute", 0)
        limiter = Limiter(self.db, per_minute, slot_seconds=options.pop("slot_seconds", 62))
        await limiter.prepare()
        lease = options.pop("lease", timedelta(seconds=60))
        owner = options.pop("owner", "this process")
        patience, today = options.pop("patience", AT_ONCE), options.pop("today", None)
        tally, registry = options.pop("tally", None), options.pop("registry", None)
        polygon = Polygon(base_url, "replay", **{"wait": 0.001, **options})
        calendars = await sessions.load(self.db)
        errands = Errands(self.db, {slices.DELETE: Deleter(self.db, calendars)}, patience)
        fetcher = Fetcher(
            db=self.db,
            polygon=polygon,
            limiter=limiter,
            calendars=calendars,
            patience=patience,
            tally=tally,
            inquiries={
                slices.DAY: DaysInquiry(self.db, calendars, tally),
                slices.ACTIONS: ActionsInquiry(self.db, calendars),
                slices.SYMBOLS: SymbolsInquiry(self.db, registry),
            },
            **({"today": today} if today else {}),
        )
        worker = Worker(db=self.db, fetcher=fetcher, limiter=limiter, lease=lease, owner=owner, errands=errands)
        self.workers.append(worker)
        return worker

    async def drain(self, worker: Worker, seconds: float = 120) -> None:
        """Steps a worker until no slice is open."""
        async with asyncio.timeout(seconds):
            while await self.open_slices():
                await worker.step()

    async def settled(self, seconds: float = 120) -> None:
        """Waits until others have left no slice open."""
        async with asyncio.timeout(seconds):
            while await self.open_slices():  # noqa: ASYNC110 - another process works
                await asyncio.sleep(0.01)

    async def open_slices(self) -> int:
        return int(await self.sql.fetchval("SELECT count(*) FROM ingest.slices WHERE state IN (1, 2) AND NOT held"))

    async def slices(self) -> list[asyncpg.Record]:
        return list(await self.sql.fetch("SELECT * FROM ingest.slices ORDER BY slice_id"))

    async def series(self, symbol_id: int, timeframe: int = DAY) -> asyncpg.Record:
        rows = await self.sql.fetch(
            "SELECT * FROM ingest.series WHERE symbol_id = $1 AND timeframe = $2", symbol_id, timeframe
        )
        return rows[0]

    async def tables(self, *, slices: bool = True) -> dict[str, list[tuple[Any, ...]]]:
        """Returns what the tables hold in the end, whatever the way to it was."""
        queries = {
            "bars": BARS,
            "series": SERIES,
            "minute_sessions": MINUTE_SESSIONS,
            "rejected": REJECTED,
            "absent": ABSENT,
            **({"slices": SLICES} if slices else {}),
        }
        return {name: [tuple(row) for row in await self.sql.fetch(query)] for name, query in queries.items()}

    async def empty(self, *tables: str) -> None:
        """Empties tables, so that the same can be done again."""
        for table in tables or WRITTEN:
            await self.sql.execute(f"DELETE FROM ingest.{table}")
        await self.sql.execute("DELETE FROM ingest.writes WHERE write_id > 0")


WRITTEN = (
    "backfill_slices", "backfills", "slices", "bars", "bar_revisions", "series", "minute_sessions", "rejected_bars",
    "absent_bars",
)  # fmt: skip


@asynccontextmanager
async def desk(database: Any, *, size: int = 6) -> AsyncIterator[Desk]:
    """Opens the tests' own connection, and a pool of the ingest role."""
    conn = await asyncpg.connect(database.admin_url)
    db = await Database.open(database.ingest_url, size=size, command_timeout=30)
    made = Desk(conn, db, database.ingest_url)
    try:
        yield made
    finally:
        for worker in made.workers:
            await worker._fetcher._polygon.close()
        await db.close()
        await conn.close()


@asynccontextmanager
async def replaying(faults: Sequence[Any] = (), **options: Any) -> AsyncIterator[Replay]:
    """Runs the replay of Polygon in this process."""
    replay = Replay(faults=faults, **options)
    await replay.start()
    try:
        yield replay
    finally:
        await replay.stop()
