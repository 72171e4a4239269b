"""Benches `import_day`, `day_parts` and `growth_day`: days of the whole market, from files and one by one.

The limit is a server-side COPY BINARY of the same rows into the same table, for symbols of its own, in the same round.
`python -m tests.bench.days [SYMBOLS [FILES [DAYS]]]` runs it alone.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import numpy as np

from services.ingest.batches import Batch, cut
from services.ingest.calendar import EVERY_DAY, XNYS, date_of
from services.ingest.columns import Columns
from services.ingest.errands import Errands
from services.ingest.filenames import published
from services.ingest.importing import Importer
from services.ingest.merge import Held
from services.ingest.store import many, sessions, slices
from services.ingest.store.rows import pieces_of_many
from services.ingest.timeframes import DAY, DAY_MS
from services.kit.db import Database
from tests.bench.server import migrated_server, row

if TYPE_CHECKING:
    from pathlib import Path

    from services.ingest.calendar import Sessions
    from tests.bench.server import Server

SYMBOLS, FILES, DAYS = 10_000, 100, 300
COMPARED = 20
"""Days at each end that growth_day compares."""
ROUNDS = 3
TARGETS = {"import_day": 0.50, "day_parts": 0.08, "growth_day": 0.40}
LEASE = timedelta(minutes=5)
FIRST = 17_532
"""2018-01-01."""

MAKE_SYMBOLS = """
WITH made AS (
  INSERT INTO symbols.symbols (asset_class) SELECT 1 FROM generate_series(1, $1) RETURNING symbol_id
)
INSERT INTO symbols.tickers (symbol_id, from_date, asset_class, ticker, provider_ticker)
SELECT symbol_id, '1900-01-01', 1, 'T' || symbol_id, 'T' || symbol_id FROM made
RETURNING symbol_id
"""
INSERT_JOB = """
INSERT INTO ingest.backfills (backfill_id, kind, mode, priority, timeframes) VALUES ($1, 5, 2, 2, '{7}')
"""
INSERT_SLICE = """
WITH made AS (
  INSERT INTO ingest.slices (kind, mode, priority, timeframe, asset_class, provider_ticker, first_date, last_date)
  VALUES (3, 2, 2, 7, 1, $2, $3, $3)
  RETURNING slice_id
)
INSERT INTO ingest.backfill_slices SELECT $1, slice_id FROM made
"""
EMPTY = (
    "TRUNCATE ingest.bars, ingest.series, ingest.slices, ingest.backfill_slices, ingest.backfills, ingest.files CASCADE"
)


@dataclass
class Bench:
    """One database with a market of symbols, and as many for the limit."""

    server: Server
    conn: asyncpg.Connection
    db: Database
    calendar: Sessions
    ids: list[int]
    other: list[int]

    @property
    def days(self) -> list[int]:
        return [int(day) for day in self.calendar.days if day >= FIRST]

    def market(self, days: list[int]) -> Columns:
        """Makes the daily bars of all symbols on some days, by symbol."""
        chance = np.random.default_rng(len(days) * 1_000 + days[0])
        count = len(self.ids) * len(days)
        close = np.round(chance.uniform(5, 500, count), 2)
        volume = np.floor(chance.lognormal(9, 0.5, count))
        ts = np.tile(np.array(days, np.int64) * DAY_MS, len(self.ids))
        nothing = np.full(count, np.nan)
        return Columns(ts, close, close + 0.5, close - 0.5, close, volume, nothing, chance.integers(1, 500, count))

    async def limit(self, days: list[int]) -> float:
        """Returns the rows a second of a server-side COPY of some days, and takes them away again."""
        bars = self.market(days)
        owners = np.repeat(np.array(self.other), len(days))
        path = self.server.folder / "rows.copy"
        path.write_bytes(b"".join(pieces_of_many(Held(bars, np.zeros(len(bars), np.int16)), owners, DAY, 0)))
        path.chmod(0o644)
        taken = await timed(self.conn.execute(f"COPY ingest.bars FROM '{path}' (FORMAT binary)"))
        await self.conn.execute("DELETE FROM ingest.bars WHERE symbol_id = ANY ($1)", self.other)
        return len(bars) / taken

    async def day(self, day: int) -> float:
        """Returns the rows a second of one day's parts, the claim included."""
        bars, job = self.market([day]), uuid4()
        await self.conn.execute(INSERT_JOB, job)
        await self.conn.execute(INSERT_SLICE, job, str(day), date_of(day))
        return len(bars) / await timed(self._parts(day, bars))

    async def _parts(self, day: int, bars: Columns) -> None:
        claim = await slices.claim(self.db, "bench", LEASE, [slices.FILE])
        assert claim is not None
        ids = np.array(self.ids, np.int64)
        starts = np.arange(len(ids) + 1)
        batch = Batch(DAY, self.calendar, day, day + 1, published(date_of(day)), ids, starts, bars)
        parts = list(cut(batch))
        for part in parts:
            written = await many.write(self.db, claim, part, done=part is parts[-1])
            assert written is not None
            claim = written.claim

    def files(self, days: list[int]) -> Path:
        """Writes a folder of day files; returns it."""
        folder = self.server.folder / "flat"
        folder.mkdir(exist_ok=True)
        names = [f"T{one}" for one in self.ids]
        midnight = (sessions_start(self.calendar, day) * 1_000_000 for day in days)
        for day, start in zip(days, midnight, strict=True):
            bars = self.market([day])
            columns = (bars.volume, bars.open, bars.close, bars.high, bars.low, bars.trade_count)
            values = zip(names, *(one.tolist() for one in columns), strict=True)
            lines = (f"{name},{v},{o},{c},{h},{low},{start},{n}" for name, v, o, c, h, low, n in values)
            text = "\n".join(("ticker,volume,open,close,high,low,window_start,transactions", *lines, ""))
            (folder / f"{date_of(day)}.csv.gz").write_bytes(gzip.compress(text.encode(), 1))
        return folder

    async def imported(self, folder: Path, rows: int) -> float:
        """Returns the rows a second of the import of a folder into empty tables, from the listing on."""
        await self.conn.execute(EMPTY)
        job = uuid4()
        await self.conn.execute(INSERT_JOB, job)
        await self.conn.execute(INSERT_SLICE, job, ".", None)
        calendars = {XNYS: self.calendar, EVERY_DAY: self.calendar}
        errands = Errands(self.db, {slices.FILE: Importer(self.db, calendars, folder)})
        taken = await timed(self._work(errands))
        assert await self.conn.fetchval("SELECT count(*) FROM ingest.bars") == rows
        return rows / taken

    async def _work(self, errands: Errands) -> None:
        while claim := await slices.claim(self.db, "bench", LEASE, [slices.FILE]):
            await errands.handle(claim)


def sessions_start(calendar: Sessions, day: int) -> int:
    """Returns midnight in New York of a day, milliseconds."""
    at = int(np.searchsorted(calendar.days, day))
    return int(calendar.open_ms[at]) - 9 * 3_600_000 - 1_800_000


async def timed(work: object) -> float:
    start = time.perf_counter()
    await work  # type: ignore[misc]
    return time.perf_counter() - start


async def rows(server: Server, symbols: int = SYMBOLS, files: int = FILES, days: int = DAYS) -> list[dict[str, object]]:
    """Measures all rows."""
    conn = await asyncpg.connect(server.superuser_url)
    db = await Database.open(server.ingest_url, size=3, command_timeout=600)
    calendar = (await sessions.load(db))[XNYS]
    ids = [one["symbol_id"] for one in await conn.fetch(MAKE_SYMBOLS, 2 * symbols)]
    bench = Bench(server, conn, db, calendar, sorted(ids)[:symbols], sorted(ids)[symbols:])
    found = [await _import(bench, files), *await _days(bench, days)]
    await db.close()
    await conn.close()
    return found


async def _import(bench: Bench, count: int) -> dict[str, object]:
    days = bench.days[:count]
    folder = bench.files(days)
    measured = []
    for number in range(ROUNDS + 1):  # the first round warms up, and is forgotten
        limit = await bench.limit(days)
        ours = await bench.imported(folder, len(bench.ids) * count)
        measured += [(ours, limit)] if number else []
    return _row("import_day", measured)


async def _days(bench: Bench, count: int) -> list[dict[str, object]]:
    await bench.conn.execute(EMPTY)
    # From here on files of WAL are used again instead of made, as on any server that has run for a while.
    await bench.conn.execute("CHECKPOINT")
    measured = []
    days = bench.days[:count]
    for number, day in enumerate(days):
        if number == count - COMPARED:
            await bench.conn.execute("CHECKPOINT")
        limit = await bench.limit([day]) if number in range(2, 12) else 0.0
        measured.append((await bench.day(day), limit))
    rates = [ours for ours, _ in measured]
    compared = min(COMPARED, len(rates) // 2)
    first, last = statistics.median(rates[1 : compared + 1]), statistics.median(rates[-compared:])
    growth = row("growth_day", ours=last, limit=first, rival=None, ratio=last / first, target=TARGETS["growth_day"])
    return [
        _row("day_parts", [one for one in measured if one[1]]),
        {**growth, "days": count, "symbols": len(bench.ids), "compared": compared},
    ]


def _row(name: str, measured: list[tuple[float, float]]) -> dict[str, object]:
    ours, limit = (statistics.median(one[at] for one in measured) for at in (0, 1))
    ratio = statistics.median(one / beside for one, beside in measured)
    return row(name, ours=ours, limit=limit, rival=None, ratio=ratio, target=TARGETS[name])


async def main(*numbers: int) -> None:
    async with migrated_server() as server:
        print(json.dumps(await rows(server, *numbers), indent=2))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
