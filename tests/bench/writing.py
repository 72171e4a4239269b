"""Benches `write_fresh`, `write_fresh_2`, `rewrite`, `correct_1pct` and `growth`: parts of 50,000 one-minute bars.

The limit is a server-side COPY BINARY of the same rows into the same table, in the same round. The rival is the obvious
upsert by executemany. `python -m tests.bench.writing [ROUNDS [GROWTH_ROWS [PAGE]]]` runs it alone; PAGE is bars a part.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import numpy as np

from services.ingest.calendar import EVERY_DAY, date_of, day_of
from services.ingest.columns import Columns
from services.ingest.merge import Held
from services.ingest.slices import SliceSpan
from services.ingest.store import parts, sessions, slices
from services.ingest.store.rows import SeriesKey, pieces
from services.ingest.timeframes import DAY_MS, MINUTE, MINUTE_MS
from services.kit.db import Database
from tests.bench.server import migrated_server, row
from tests.ingest.working import CRYPTO, Ask, Desk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from services.ingest.calendar import Sessions
    from tests.bench.server import Server

PAGE, PAGES = 50_000, 6
ROUNDS = 5
RIVAL_ROWS = 20_000
GROWTH_ROWS = 20_000_000
FIRST = day_of(date(2019, 1, 1))
TARGETS = {"write_fresh": 0.85, "write_fresh_2": 1.0, "rewrite": 0.90, "correct_1pct": 0.70, "growth": 0.90}
LEASE = timedelta(minutes=5)
# Of a part, not of its rows: figures, slice and write.
WAL_BYTES_A_ROW = 1.0

UPSERT = """
INSERT INTO ingest.bars (ts, open, high, low, close, vwap, volume, symbol_id, trade_count, write_id, timeframe, flags)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 1, 0)
ON CONFLICT (symbol_id, timeframe, ts) DO UPDATE
SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, vwap = excluded.vwap,
    volume = excluded.volume, trade_count = excluded.trade_count
"""


def walk(count: int = PAGE * PAGES) -> Columns:
    """Makes so many minutes of a price that wanders."""
    chance = np.random.default_rng(7)
    close = np.round(100 * np.exp(np.cumsum(chance.normal(0, 0.0003, count))), 2)
    opens = np.concatenate([close[:1], close[:-1]])
    high, low = np.maximum(opens, close) + 0.01, np.minimum(opens, close) - 0.01
    volume = np.round(chance.lognormal(3, 0.3, count), 4)
    ts = np.int64(FIRST * DAY_MS) + np.arange(count, dtype=np.int64) * MINUTE_MS
    return Columns(ts, opens, high, low, close, volume, (high + low) / 2, chance.integers(1, 500, count))


# Some leaves of the index for a symbol_id that no symbol gets here.
BEHIND = """
INSERT INTO {table} (ts, open, high, low, close, vwap, volume, symbol_id, trade_count, write_id, timeframe, flags)
SELECT '2035-01-01'::timestamptz + n * interval '1 min', 1, 1, 1, 1, 1, 1, 2000000000, 1, 0, 1, 0
FROM generate_series(1, 2000) AS n
ON CONFLICT DO NOTHING
"""


@dataclass
class Bench:
    """One database, and the rows that all contestants write."""

    server: Server
    conn: asyncpg.Connection
    db: Database
    calendar: Sessions
    bars: Columns = field(default_factory=walk)
    _symbols: int = 0

    @property
    def count(self) -> int:
        """Returns how many rows each contestant writes."""
        return len(self.bars)

    async def symbol(self) -> int:
        self._symbols += 1
        desk = Desk(self.conn, self.db, self.server.ingest_url)
        return await desk.symbol(f"X:{self._symbols}USD", CRYPTO)

    async def limit(self, table: str = "ingest.bars", symbol_id: int | None = None) -> float:
        """Returns the rows a second of a server-side COPY."""
        path = self._file(symbol_id or await self.symbol())
        taken = await timed(self.conn.execute(f"COPY {table} FROM '{path}' (FORMAT binary)"))
        return self.count / taken

    async def limit_by_part(self) -> float:
        """Returns the rows a second of the same COPY with a commit after as many rows as a part of ours has."""
        symbol_id, page, taken = await self.symbol(), self.count // PAGES, 0.0
        for first in range(0, self.count, page):
            path = self._file(symbol_id, slice(first, first + page))
            taken += await timed(self.conn.execute(f"COPY ingest.bars FROM '{path}' (FORMAT binary)"))
        return self.count / taken

    async def ours(self, *symbol_ids: int, bars: Columns | None = None) -> float:
        """Returns the rows a second of all parts of a slice each, claims included; a connection for each slice."""
        desk = Desk(self.conn, self.db, self.server.ingest_url)
        span = (date_of(FIRST).isoformat(), date_of(FIRST + self.count // 1440).isoformat())
        for symbol_id in symbol_ids:
            await desk.start(Ask(symbol_id, "X:BTCUSD", *span, MINUTE, CRYPTO))
        work = asyncio.gather(*(self._parts(bars or self.bars) for _ in symbol_ids))
        return self.count * len(symbol_ids) / await timed(work)

    async def rival(self) -> float:
        """Returns the rows a second of the obvious upsert."""
        symbol_id = await self.symbol()
        some = self.bars.take(slice(0, RIVAL_ROWS))
        values = [getattr(some, name).tolist() for name in ("open", "high", "low", "close", "vwap", "volume")]
        times = [parts.from_ms(ms) for ms in some.ts.tolist()]
        records = [(*one[:7], symbol_id, one[7]) for one in zip(times, *values, some.trade_count.tolist(), strict=True)]
        return len(some) / await timed(self._upsert(records))

    async def settle(self) -> None:
        """Makes the table like one of a server that has run a while, for whoever writes next.

        Behind a checkpoint the log's files are there to be used again. With bars behind all others nobody has the right
        edge of the index, which Postgres fills faster than any other place, and real series seldom have.
        """
        await self.conn.execute(BEHIND.format(table="ingest.bars"))
        await self.conn.execute("CHECKPOINT")

    async def wal(self) -> int:
        return int(await self.conn.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    async def _upsert(self, records: list[Any]) -> None:
        async with self.conn.transaction():
            await self.conn.executemany(UPSERT, records)

    async def _parts(self, bars: Columns) -> None:
        page = self.count // PAGES
        for _ in range(PAGES):
            claimed = await slices.claim(self.db, "bench", LEASE)
            assert claimed is not None
            cursor = None if claimed.cursor is None else parts.to_ms(claimed.cursor)
            span = SliceSpan.of(MINUTE, self.calendar, day_of(claimed.first_date), day_of(claimed.last_date), cursor)
            first = (span.start_ms - FIRST * DAY_MS) // MINUTE_MS
            own = bars.take(slice(first, first + page))
            until = span.end_ms if first + page >= self.count else int(own.ts[-1]) + MINUTE_MS
            assert await parts.write(self.db, parts.Part(claimed, span, own, [], until))

    def _file(self, symbol_id: int, which: slice = slice(None)) -> Path:
        path, bars = self.server.folder / "rows.copy", self.bars.take(which)
        held = Held(bars, np.zeros(len(bars), np.int16))
        path.write_bytes(b"".join(pieces(held, SeriesKey(symbol_id, MINUTE), 0)))
        path.chmod(0o644)
        return path


async def timed(work: Any) -> float:
    start = time.perf_counter()
    await work
    return time.perf_counter() - start


async def rows(
    server: Server, rounds: int = ROUNDS, growth_rows: int = GROWTH_ROWS, page: int = PAGE
) -> list[dict[str, object]]:
    """Measures all rows, the contestants of each in turns."""
    conn = await asyncpg.connect(server.superuser_url)
    db = await Database.open(server.ingest_url, size=4, command_timeout=600)
    calendar = (await sessions.load(db))[EVERY_DAY]
    bench = Bench(server, conn, db, calendar, walk(page * PAGES))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in TARGETS}
    rival = await bench.rival()
    wal, by_part = 0.0, []
    for number in range(rounds + 1):  # the first round warms up, and is forgotten
        limit, measured, wal = await _round(bench)
        beside = await bench.limit_by_part()
        if number:
            by_part.append(measured["write_fresh"] / beside)
            for name, ours in measured.items():
                found[name].append((ours, limit))
    found["growth"] = await _growth(bench, rounds, growth_rows)
    await db.close()
    await conn.close()
    said: dict[str, dict[str, float]] = {
        "write_fresh": {"of_a_copy_committed_by_part": round(statistics.median(by_part), 3)},
        "rewrite": {"wal_bytes_a_row": round(wal, 3)},
    }
    return [_row(name, found[name], rival, wal) | said.get(name, {}) for name in TARGETS]


async def _round(bench: Bench) -> tuple[float, Mapping[str, float], float]:
    first, second, third = [await bench.symbol() for _ in range(3)]
    await bench.settle()
    limit = await bench.limit()
    measured = {"write_fresh": await bench.ours(first)}
    measured["write_fresh_2"] = await bench.ours(second, third)
    await bench.ours(first)  # the first time after a checkpoint, hint bits are written
    before = await bench.wal()
    measured["rewrite"] = await bench.ours(first)
    wal = (await bench.wal() - before) / bench.count
    close = bench.bars.close.copy()
    close[::100] += 0.005
    measured["correct_1pct"] = await bench.ours(first, bars=replace(bench.bars, close=close))
    return (limit + await bench.limit()) / 2, measured, wal


async def _growth(bench: Bench, rounds: int, stored: int) -> list[tuple[float, float]]:
    """Compares fresh spans in a long table and in an empty one, each with a COPY into an empty table beside it."""
    await bench.conn.execute("CREATE TABLE IF NOT EXISTS ingest.scratch (LIKE ingest.bars INCLUDING ALL)")
    await bench.conn.execute("TRUNCATE ingest.bars")
    empty = await _relative(bench, rounds)
    while await bench.conn.fetchval("SELECT count(*) FROM ingest.bars") < stored:
        for _ in range(4):
            await bench.limit()
    await bench.conn.execute("VACUUM ingest.bars")  # else autovacuum goes through all of it beside the rounds
    full = await _relative(bench, rounds)
    return [(after, before) for after, before in zip(sorted(full), sorted(empty), strict=True)]


async def _relative(bench: Bench, rounds: int) -> list[float]:
    found = []
    await bench.settle()  # what was stored before is not written out meanwhile, on either side
    for _ in range(rounds):
        await bench.conn.execute("TRUNCATE ingest.scratch")
        await bench.conn.execute(BEHIND.format(table="ingest.scratch"))
        beside = await bench.limit("ingest.scratch")
        found.append(await bench.ours(await bench.symbol()) / beside * 1_000)
    return found


def _row(name: str, measured: list[tuple[float, float]], rival: float, wal: float) -> dict[str, object]:
    ours, limit = (statistics.median(one[at] for one in measured) for at in (0, 1))
    ratio = statistics.median(one / beside for one, beside in measured)
    reached = ratio >= TARGETS[name] and (name != "rewrite" or wal < WAL_BYTES_A_ROW)
    return row(name, ours=ours, limit=limit, rival=rival, ratio=ratio, target=TARGETS[name], reached=reached)


async def main(*numbers: int) -> None:
    async with migrated_server() as server:
        print(json.dumps(await rows(server, *numbers), indent=2))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
