"""Bench `statistics`: the time for one symbol's statistics at 20 million bars against 20 thousand.

`python -m tests.bench.statistics [BARS]` runs it alone, on an embedded Postgres of its own.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.roles import LOGINS, OWNER, ensure_database, ensure_logins
from migrator import runner
from services.kit.db import Database
from services.kit.tickers import STOCK, readings
from services.symbols.store.rows import Key
from services.symbols.store.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

FEW, MANY = 20_000, 20_000_000
TARGET = 1.2
ROUNDS, CALLS = 9, 100
CHUNK = 1_000_000

SYMBOL = """
WITH made AS (
  INSERT INTO symbols.symbols (asset_class) VALUES (1) RETURNING symbol_id
)
INSERT INTO symbols.tickers (symbol_id, from_date, asset_class, ticker, provider_ticker)
SELECT symbol_id, '1900-01-01', 1, $1, $1 FROM made
RETURNING symbol_id
"""
BARS = """
INSERT INTO ingest.bars
SELECT '1997-12-01 00:00Z'::timestamptz + n * interval '1 minute', 10, 11, 9, 10, 10, 1000, $1, 7, 0, 1, 0
FROM generate_series($2::bigint, $3::bigint - 1) AS n
"""
SERIES = """
INSERT INTO ingest.series (symbol_id, timeframe, bars, validated, sessions_present, first_ts, last_ts, asked)
SELECT $1, 1, count(*), count(*) FILTER (WHERE flags = 0), 1, min(ts), max(ts), '{[2000-01-03,2026-01-01)}'
FROM ingest.bars
WHERE symbol_id = $1
"""


SCAN = """
SELECT count(*), count(*) FILTER (WHERE flags = 0), min(ts), max(ts)
FROM ingest.bars
WHERE symbol_id = (SELECT symbol_id FROM symbols.tickers WHERE ticker = $1)
  AND timeframe = 1
"""


async def measure(superuser_url: str, symbols_url: str, many: int = MANY) -> dict[str, object]:
    """Fills two series of one table and measures both in turns; the rival counts the bars. Milliseconds."""
    conn = await asyncpg.connect(superuser_url)
    await _fill(conn, "FEW", FEW)
    await _fill(conn, "MANY", many)
    await conn.execute("VACUUM ANALYZE ingest.bars")
    await conn.execute("ANALYZE ingest.series, symbols.symbols, symbols.tickers, ingest.sessions")
    start = time.perf_counter()
    await conn.fetchrow(SCAN, "MANY")
    rival = (time.perf_counter() - start) * 1_000
    await conn.close()
    db = await Database.open(symbols_url, size=1)
    timed = await _time(Statistics(db))
    await db.close()
    ratio = timed["MANY"] / timed["FEW"]
    return {
        "name": "statistics",
        "ours": timed["MANY"],
        "limit": timed["FEW"],
        "rival": round(rival, 3),
        "ratio": round(ratio, 3),
        "target": TARGET,
        "reached": ratio <= TARGET,
    }


async def _fill(conn: asyncpg.Connection, ticker: str, bars: int) -> None:
    symbol_id = await conn.fetchval(SYMBOL, ticker)
    for first in range(0, bars, CHUNK):
        await conn.execute(BARS, symbol_id, first, min(first + CHUNK, bars))
    await conn.execute(SERIES, symbol_id)


async def _time(store: Statistics) -> Mapping[str, float]:
    """Returns the median milliseconds of one symbol's statistics, by ticker; rounds take turns."""
    keys = {ticker: Key(text=ticker, readings=readings(ticker, STOCK)) for ticker in ("FEW", "MANY")}
    rounds: dict[str, list[float]] = {ticker: [] for ticker in keys}
    for _ in range(ROUNDS):
        for ticker, key in keys.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                await store.one(key)
            rounds[ticker].append((time.perf_counter() - start) / CALLS * 1_000)
    return {ticker: round(statistics.median(times), 3) for ticker, times in rounds.items()}


async def main(many: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            conn = await asyncpg.connect(server.url())
            passwords = {login: secrets.token_urlsafe(16) for login in (OWNER, *LOGINS)}
            await ensure_logins(conn, passwords)
            await ensure_database(conn, "bench")
            await conn.close()
            await runner.up(_url(server, OWNER, passwords))
            superuser = server.url("bench")
            print(json.dumps(await measure(superuser, _url(server, "mdw_symbols_login", passwords), many), indent=2))  # noqa: T201
        finally:
            server.stop()


def _url(server: EmbeddedPostgres, login: str, passwords: Mapping[str, str]) -> str:
    return f"postgresql://{login}:{passwords[login]}@127.0.0.1:{server.port}/bench"


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else MANY))
