"""Backfills go on while the bars move and come back: no bar is lost or doubled, no slice fails, no attempt is lost."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from services.kit.db import Database
from tests.bench.backfill import Market, start_provider
from tests.citus.moving import distributed
from tests.ingest.processes import crew
from tests.ingest.working import MINUTE, STOCK, Ask, Desk
from tests.migrator.support import until

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

    from tests.citus.conftest import Joined

    Start = Callable[..., Awaitable[asyncio.subprocess.Process]]

FIRST, LAST, SESSIONS, TICKERS = "2019-01-02", "2019-01-15", 10, 4
WRITTEN = "SELECT count(*) FROM ingest.bars"
OPEN = "SELECT count(*) FROM ingest.slices WHERE state IN (1, 2)"
ENDED = "SELECT DISTINCT state, attempts, inserted FROM ingest.slices"
COUNTED = "SELECT DISTINCT bars, validated FROM ingest.series"
STORED = """
SELECT array_agg(DISTINCT bars), sum(checksum)
FROM (SELECT count(*) AS bars, sum(hashtext(row(ts, open, high, low, close, vwap, volume, trade_count, flags)::text))
               AS checksum
      FROM ingest.bars GROUP BY symbol_id) AS by_symbol
"""


async def test_a_backfill_under_way_ends_the_same_whatever_moves_meanwhile(
    joined: Joined, owner: asyncpg.Connection, admin: asyncpg.Connection, start: Start, tmp_path: Path
) -> None:
    provider, url = start_provider(tmp_path, Market(TICKERS, SESSIONS, date.fromisoformat(LAST)))
    db = await Database.open(joined.url("mdw_ingest_login"), size=2)
    desk = Desk(admin, db, joined.url("mdw_ingest_login"))
    try:
        async with crew(tmp_path, joined.url("mdw_ingest_login"), url, POLYGON_PAGE_BARS="60") as workers:
            workers.start()
            workers.start()
            await workers.ready()
            await _start(desk, "A")
            moves = 0
            while await admin.fetchval(OPEN):
                await until(lambda: admin.fetchval(WRITTEN), within=120)
                process = await start(joined.url(), "distribute", *(["--undo"] if moves % 2 else []))
                out, err = await process.communicate()
                assert process.returncode == 0, (out, err)
                moves += 1
            disturbed = await _found(admin)
            await admin.execute("TRUNCATE ingest.bars; TRUNCATE ingest.slices, ingest.series CASCADE")
            await _start(desk, "B")
            await workers.until(lambda: _none_open(admin))
            assert await _found(admin) == disturbed
    finally:
        provider.stop()
        await db.close()
    bars = SESSIONS * 390
    assert disturbed[0] == [(3, 0, bars)]
    assert [one[0] for one in disturbed[1]] == [bars]
    assert disturbed[2][0] == [bars]
    assert len(await distributed(owner)) == (2 if moves % 2 else 0)


async def _start(desk: Desk, prefix: str) -> None:
    asks = [
        Ask(await desk.symbol(f"{prefix}{number}"), f"LOAD{number:05}", FIRST, LAST, MINUTE, STOCK)
        for number in range(TICKERS)
    ]
    await desk.start(*asks)


async def _none_open(conn: asyncpg.Connection) -> bool:
    return not await conn.fetchval(OPEN)


async def _found(conn: asyncpg.Connection) -> list[list[tuple[int, ...]]]:
    return [
        [tuple(row) for row in await conn.fetch(ENDED)],
        [tuple(row) for row in await conn.fetch(COUNTED)],
        list(await conn.fetchrow(STORED) or ()),
    ]
