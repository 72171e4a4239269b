"""Bars to read, and a service of bars in a process of its own, for benches.

`python -m tests.bench.served URLS` is that process: it runs until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncpg
import uvloop

from tests.ingest.bars_support import bars_serving
from tests.support import make_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.server import Server
    from tests.ingest.history import History

SYMBOLS = 1_000
M1, D1 = 1, 7
FIRST = datetime(2010, 1, 1, tzinfo=UTC)

FILL = """
INSERT INTO ingest.bars
SELECT $4::timestamptz + n * interval '1 minute', p, p + 0.03, p - 0.02, p + 0.01, p + 0.005,
       1000 + n % 977, $1, 1 + n % 311, $2, 1, 0
FROM (SELECT n, 100 + (n % 1009) / 100.0 AS p FROM generate_series(0, $3::int - 1) AS n) AS made
"""
CORRECTED = """
SELECT array_agg(ts) FROM ingest.bars WHERE symbol_id = $1 AND extract(epoch FROM ts)::bigint / 60 % 100 = 0
"""


@dataclass(frozen=True)
class Served:
    """Where a service of bars is, two keys for it, and its process."""

    target: str
    secret: str
    other_secret: str
    pid: int

    def peak_mb(self) -> int:
        """Returns the most memory that it has held."""
        return peak_mb(self.pid)


async def fill(server: Server, history: History, symbol_id: int, bars: int) -> datetime:
    """Writes the series, then corrects one bar in a hundred; returns the instant between."""
    async with history.begin(symbol_id, M1) as write:
        await write.conn.execute(FILL, symbol_id, write.write_id, bars, FIRST)
        before = await write.finish()
    async with history.begin(symbol_id, M1) as write:
        await write.correct(await write.conn.fetchval(CORRECTED, symbol_id))
        await write.finish()
    conn = await asyncpg.connect(server.superuser_url)
    await conn.execute("VACUUM ANALYZE ingest.bars")
    await conn.execute("CHECKPOINT")
    await conn.close()
    return before


async def many(server: Server, history: History) -> list[int]:
    """Registers symbols with some days each."""
    conn = await asyncpg.connect(server.superuser_url)
    ids = [
        one["symbol_id"]
        for one in await conn.fetch(
            "INSERT INTO symbols.symbols (asset_class) SELECT 1 FROM generate_series(1, $1) RETURNING symbol_id",
            SYMBOLS,
        )
    ]
    await conn.execute(
        """
        INSERT INTO symbols.tickers (symbol_id, from_date, asset_class, ticker, provider_ticker)
        SELECT id, '1900-01-01', 1, 'B' || id, 'B' || id FROM unnest($1::int[]) AS id
        """,
        ids,
    )
    async with history.begin(ids[0]) as write:
        await write.conn.execute(
            """
            INSERT INTO ingest.bars
            SELECT day, 1, 1, 1, 1, 1, 1, id, 1, $2, 7, 0
            FROM unnest($1::int[]) AS id, generate_series(timestamptz '2024-01-01', '2024-04-09', '1 day') AS day
            """,
            ids,
            write.write_id,
        )
        await write.conn.execute(
            """
            INSERT INTO ingest.series (symbol_id, timeframe, bars, first_ts, last_ts, last_write_id)
            SELECT id, 7, 100, '2024-01-01', '2024-04-09', $2 FROM unnest($1::int[]) AS id
            ON CONFLICT DO NOTHING
            """,
            ids,
            write.write_id,
        )
        await write.finish()
    await conn.close()
    return ids


async def _start(server: Server) -> tuple[Any, dict[str, str]]:
    """Starts the service; returns its process, and what it prints."""
    names = {"admin_url": server.superuser_url, "ingest_url": server.ingest_url, "auth_url": server.auth_url}
    urls = json.dumps({**names, "read_urls": server.read_urls})
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.served", urls, stdin=-1, stdout=-1)
    assert child.stdout is not None
    while not (line := await child.stdout.readline()).startswith(b"{"):
        assert line
    found = json.loads(line)
    asyncio.get_running_loop().create_task(child.stdout.read())
    return child, found


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[Served]:
    """Runs the service."""
    child, found = await _start(server)
    try:
        yield Served(**found, pid=child.pid)
    finally:
        child.stdin.write_eof()
        await child.wait()


async def serve(urls: str) -> None:
    """Runs the service until standard input ends."""
    database = SimpleNamespace(**json.loads(urls))
    async with bars_serving(database) as bars:
        found = {"target": bars.target, "secret": bars.metadata[0][1]}
        found["other_secret"] = await make_key(database, "bars.read", name="other")
        print(json.dumps(found), flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)


def forget_peak(pid: int) -> None:
    """Lets the peak of a process's memory begin anew, where the system can."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid: int) -> int:
    """Returns the most memory that a process has held since `forget_peak`, in MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
