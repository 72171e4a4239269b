"""Writes versions of bars by the writers' protocol, one write at a time or several at once, for tests of reads."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

INSERT_SYMBOL = "INSERT INTO symbols.symbols (asset_class, active) VALUES ($1, $2) RETURNING symbol_id"
INSERT_TICKER = """
INSERT INTO symbols.tickers (symbol_id, from_date, to_date, asset_class, ticker, provider_ticker)
VALUES ($1, $2, $3, $4, $5, $6)
"""
ENSURE_SERIES = "INSERT INTO ingest.series (symbol_id, timeframe) VALUES ($1, $2) ON CONFLICT DO NOTHING"
LOCK_SERIES = "SELECT FROM ingest.series WHERE symbol_id = $1 AND timeframe = $2 FOR UPDATE"
RETIRE = """
WITH old AS (
  DELETE FROM ingest.bars WHERE symbol_id = $1 AND timeframe = $2 AND ts = ANY($3) RETURNING *
)
INSERT INTO ingest.bar_revisions (ts, open, high, low, close, vwap, volume, symbol_id, trade_count, write_id,
                                  ended_write_id, timeframe, flags)
SELECT ts, open, high, low, close, vwap, volume, symbol_id, trade_count, write_id, $4, timeframe, flags
FROM old
"""
FILL = """
INSERT INTO ingest.bars
SELECT timestamptz '2020-01-01 00:00Z' + n * interval '1 minute', 100, 101, 99, 100 + n % 7, 'NaN', n, $1,
       n % 300 - 1, $2, 1, 0
FROM generate_series(0, $3::int - 1) AS n
"""
CORRECT = """
INSERT INTO ingest.bars
SELECT ts, open, high, low, close + 0.01, vwap, volume, symbol_id, trade_count, $1, timeframe, flags
FROM ingest.bar_revisions
WHERE ended_write_id = $1
"""
_DAYS = "ts >= ($3::date)::timestamptz AND ts < ($4::date)::timestamptz"
PURGE = (
    f"DELETE FROM ingest.bars WHERE symbol_id = $1 AND timeframe = $2 AND {_DAYS}",
    f"DELETE FROM ingest.bar_revisions WHERE symbol_id = $1 AND timeframe = $2 AND {_DAYS}",
)
NOTE_PURGE = """
INSERT INTO ingest.deletions (slice_id, symbol_id, timeframe, first_date, last_date, end_date, purge, reason, write_id)
VALUES ($5::integer, $1, $2, $3, $4::date - 1, $4, true, 'test', $5::integer)
"""
SETTLE_SERIES = """
UPDATE ingest.series s
SET bars = b.bars, first_ts = b.first_ts, last_ts = b.last_ts, last_write_id = $3, asked = coalesce($4, s.asked)
FROM (SELECT count(*) AS bars, min(ts) AS first_ts, max(ts) AS last_ts
      FROM ingest.bars WHERE symbol_id = $1 AND timeframe = $2) b
WHERE s.symbol_id = $1 AND s.timeframe = $2
"""
FINISH = "SELECT ingest.finish($1, false, $2, $3::smallint, $4, $5, clock_timestamp(), NULL, NULL)"
COMMIT_TIME = "SELECT commit_time FROM ingest.writes WHERE write_id = $1"

MINUTE, DAY = 1, 7
STOCK, ETF, CRYPTO = 1, 2, 3


@dataclass(frozen=True)
class Row:
    """One bar to write; the other prices follow from the close unless they are given."""

    ts: datetime
    close: float = 100.0
    volume: float = 1000.0
    open: float | None = None
    high: float | None = None
    low: float | None = None
    vwap: float = float("nan")
    trade_count: int = -1
    flags: int = 0

    def record(self, symbol_id, timeframe, write_id):
        prices = [self.close if price is None else price for price in (self.open, self.high, self.low)]
        values = (*prices, self.close, self.vwap, self.volume, symbol_id, self.trade_count, write_id, timeframe)
        return (self.ts, *values, self.flags)


def day(text, **values):
    return Row(datetime.fromisoformat(text).replace(tzinfo=UTC), **values)


def days(first, closes, **values):
    """Returns daily rows from a date on, one a calendar day."""
    start = datetime.fromisoformat(first).replace(tzinfo=UTC)
    return [Row(start + timedelta(days=number), close=close, **values) for number, close in enumerate(closes)]


class Write:
    """A write that was announced: its rows are in place, unseen until `finish`."""

    def __init__(self, conn, symbol_id, timeframe, write_id):
        self.conn = conn
        self.symbol_id = symbol_id
        self.timeframe = timeframe
        self.write_id = write_id
        self._touched = []

    async def apply(self, put=(), delete=()):
        times = [*(row.ts for row in put), *delete]
        self._touched += times
        await self.conn.execute(RETIRE, self.symbol_id, self.timeframe, times, self.write_id)
        records = [row.record(self.symbol_id, self.timeframe, self.write_id) for row in put]
        await self.conn.copy_records_to_table("bars", schema_name="ingest", records=records)

    async def fill(self, count):
        """Puts so many minutes from 2020 on, whose volumes count from 0."""
        await self.conn.execute(FILL, self.symbol_id, self.write_id, count)

    async def correct(self, times):
        """Gives the bars at these times another close."""
        await self.conn.execute(RETIRE, self.symbol_id, self.timeframe, times, self.write_id)
        await self.conn.execute(CORRECT, self.write_id)

    async def purge(self, first, end):
        """Takes the days from first to end (exclusive) away with all their versions, as DeleteBars with purge does."""
        key = (self.symbol_id, self.timeframe)
        for statement in PURGE:
            await self.conn.execute(statement, *key, first, end)
        await self.conn.execute(NOTE_PURGE, *key, first, end, self.write_id)

    async def finish(self, asked=None):
        span = (min(self._touched), max(self._touched)) if self._touched else (None, None)
        ranges = None if asked is None else [asyncpg.Range(*pair) for pair in asked]
        await self.conn.execute(SETTLE_SERIES, self.symbol_id, self.timeframe, self.write_id, ranges)
        await self.conn.execute(FINISH, self.write_id, self.symbol_id, self.timeframe, *span)
        await self.conn.execute("COMMIT")
        return await self.conn.fetchval(COMMIT_TIME, self.write_id)

    async def give_up(self, *, close=True):
        """Rolls back; the announced id is closed by an empty finish, as a worker does, or left open by a killed one."""
        await self.conn.execute("ROLLBACK")
        if close:
            await self.conn.execute(FINISH, self.write_id, None, None, None, None)


class History:
    """Writes to one database."""

    def __init__(self, url, admin_url):
        self._url = url
        self._admin_url = admin_url
        self._idle = []

    async def symbol(self, ticker, asset_class=STOCK, *, active=True, spans=()):
        """Registers a symbol; spans are earlier tickers: (ticker, from_date, to_date)."""
        conn = await asyncpg.connect(self._admin_url)
        symbol_id = await conn.fetchval(INSERT_SYMBOL, asset_class, active)
        first = datetime(1900, 1, 1, tzinfo=UTC).date()
        for old, start, end in spans:
            await conn.execute(INSERT_TICKER, symbol_id, start, end, asset_class, old, old)
            first = end + timedelta(days=1)
        provider = f"X:{ticker.replace('-', '')}" if asset_class == CRYPTO else ticker
        await conn.execute(INSERT_TICKER, symbol_id, first, None, asset_class, ticker, provider)
        await conn.close()
        return symbol_id

    async def deactivate(self, symbol_id):
        conn = await asyncpg.connect(self._admin_url)
        await conn.execute("UPDATE symbols.symbols SET active = false WHERE symbol_id = $1", symbol_id)
        await conn.close()

    @asynccontextmanager
    async def begin(self, symbol_id, timeframe=DAY):
        """Announces a write and locks its series."""
        conn = self._idle.pop() if self._idle else await asyncpg.connect(self._url)
        await conn.execute(ENSURE_SERIES, symbol_id, timeframe)
        write_id = await conn.fetchval("SELECT ingest.announce_write(0)")
        await conn.execute("BEGIN")
        await conn.execute(LOCK_SERIES, symbol_id, timeframe)
        try:
            yield Write(conn, symbol_id, timeframe, write_id)
        except BaseException:
            conn.terminate()
            raise
        if conn.is_in_transaction():
            await conn.execute("ROLLBACK")
        self._idle.append(conn)

    async def close(self):
        for conn in self._idle:
            await conn.close()

    async def write(self, symbol_id, put=(), delete=(), timeframe=DAY, asked=None):
        """Writes at once and returns the commit_time."""
        async with self.begin(symbol_id, timeframe) as write:
            await write.apply(put, delete)
            return await write.finish(asked)
