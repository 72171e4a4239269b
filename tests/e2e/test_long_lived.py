"""A long-lived installation: a year passes in steps of days, and what is dropped by age stays as large as it was."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.ingest.housekeeping import Housekeeping
from services.ingest.scheduling import RUN_DAYS
from services.ingest.store.rejects import Rejects
from services.ingest.store.schedule import Schedule
from services.kit.db import Database
from services.kit.recorder import Recorder
from services.kit.requests import Requests

STEP = 12
"""Days."""
STEPS = 36
"""Somewhat more than a year."""
SLICE_DAYS, REJECT_DAYS = 30, 90
GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"

# The database's clock cannot be moved, so all that has happened moves into the past.
PASS = """
UPDATE ingest.backfills SET finish_time = finish_time - $1::interval, create_time = create_time - $1::interval;
UPDATE ingest.slices SET end_time = end_time - $1::interval;
UPDATE ingest.rejected_bars SET last_seen = last_seen - $1::interval;
UPDATE ingest.schedule_runs SET run_time = run_time - $1::interval;
UPDATE auth.requests SET create_time = create_time - $1::interval;
UPDATE symbols.requests SET create_time = create_time - $1::interval;
UPDATE ingest.requests SET create_time = create_time - $1::interval
"""
# A day of $1 ago: a backfill of three slices, one of which ends later, two refused bars, one request each, one run.
HAPPEN = """
WITH days AS (
  SELECT d, clock_timestamp() - make_interval(days => d, mins => 1) AS at
  FROM generate_series(0, $1::integer - 1) AS d
), jobs AS (
  INSERT INTO ingest.backfills (backfill_id, kind, mode, priority, state, timeframes, create_time, finish_time)
  SELECT gen_random_uuid(), 1, 1, 1, 4, '{7}', at, at FROM days
  RETURNING backfill_id, finish_time
), slices AS (
  INSERT INTO ingest.slices (kind, priority, state, end_time, symbol_id, timeframe, first_date, last_date)
  SELECT 1, 1, 3, j.finish_time, 1, 7, '2024-01-02', '2024-01-02' FROM jobs j, generate_series(1, 3)
  RETURNING slice_id, end_time
), refused AS (
  INSERT INTO ingest.rejected_bars (timeframe, ticker, reason, raw, raw_hash, last_seen)
  SELECT 7, 'X', 'NOT_FINITE', '{}', decode(md5(random()::text), 'hex'), at FROM days, generate_series(1, 2)
), runs AS (
  INSERT INTO ingest.schedule_runs (calendar, session_date, regular, result, run_time)
  SELECT 'XNYS', date '2000-01-01' + ($2::integer * $1 + d), true, '', at FROM days
), keys AS (
  INSERT INTO auth.requests (key_id, method, request_id, request_hash, create_time)
  SELECT gen_random_uuid(), 'M', gen_random_uuid(), '', at FROM days
), names AS (
  INSERT INTO symbols.requests (key_id, method, request_id, request_hash, create_time)
  SELECT gen_random_uuid(), 'M', gen_random_uuid(), '', at FROM days
), orders AS (
  INSERT INTO ingest.requests (key_id, method, request_id, request_hash, create_time)
  SELECT gen_random_uuid(), 'M', gen_random_uuid(), '', at FROM days
)
SELECT s.slice_id, j.backfill_id
FROM slices s
JOIN jobs j ON j.finish_time = s.end_time
"""
SIZES = """
SELECT (SELECT count(*) FROM ingest.backfills) AS backfills,
       (SELECT count(*) FROM ingest.slices) AS slices,
       (SELECT count(*) FROM ingest.backfill_slices) AS links,
       (SELECT count(*) FROM ingest.rejected_bars) AS rejected,
       (SELECT count(*) FROM ingest.schedule_runs) AS runs,
       (SELECT count(*) FROM auth.requests) + (SELECT count(*) FROM symbols.requests)
       + (SELECT count(*) FROM ingest.requests) AS requests
"""
TABLES = """
SELECT n.nspname || '.' || c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('auth', 'symbols', 'ingest', 'migrator')
  AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition
"""


@dataclass
class Year:
    """An installation of which every service keeps its house."""

    sql: asyncpg.Connection
    auth: Database
    symbols: Database
    ingest: Database
    steps: int = 0

    async def step(self) -> dict[str, int]:
        """Lets days pass, in which work is done and the house is kept; returns the sizes."""
        interval = f"{STEP} days"
        await self.sql.execute(PASS.replace("$1", f"'{interval}'"))
        rows = await self.sql.fetch(HAPPEN, STEP, self.steps)
        self.steps += 1
        await self.sql.executemany(
            "INSERT INTO ingest.backfill_slices (slice_id, backfill_id) VALUES ($1, $2)",
            [(row["slice_id"], row["backfill_id"]) for row in rows],
        )
        await self.keep()
        return dict(await self.sql.fetchrow(SIZES))

    async def keep(self) -> None:
        house = Housekeeping(
            db=self.ingest,
            rejects=Rejects(self.ingest),
            requests=Requests("ingest"),
            slice_days=SLICE_DAYS,
            reject_days=REJECT_DAYS,
        )
        await house.drop()
        await Schedule(self.ingest, Recorder(self.ingest, service="ingest")).drop_runs(RUN_DAYS)
        await Requests("symbols").sweep(self.symbols)
        await Requests("auth").sweep(self.auth)


@pytest.fixture
async def year(database):
    sql = await asyncpg.connect(database.admin_url)
    pools = [await Database.open(url, size=2) for url in (database.auth_url, database.symbols_url, database.ingest_url)]
    yield Year(sql, *pools)
    for pool in pools:
        await pool.close()
    await sql.close()


async def test_a_year_makes_nothing_larger_but_what_is_meant_to_grow(year):
    sizes: list[dict[str, int]] = [await year.step() for _ in range(STEPS)]
    last = sizes[-1]
    # What is younger than its retention, to the row: a day more or less is one row a day, whenever the house is kept.
    assert last["slices"] == last["links"] == 3 * SLICE_DAYS
    assert last["rejected"] == 2 * REJECT_DAYS
    assert last["requests"] == 3 * 2
    assert last["runs"] == RUN_DAYS
    assert last["backfills"] == STEP * STEPS, "one row a backfill, for ever"
    settled = [size for number, size in enumerate(sizes) if (number + 1) * STEP > REJECT_DAYS]
    for name in ("slices", "links", "rejected", "requests"):
        assert len({size[name] for size in settled}) == 1, name


async def test_a_slice_stays_as_long_as_the_last_backfill_that_it_served(year):
    first = (await year.step())["slices"]
    slice_id = await year.sql.fetchval("SELECT min(slice_id) FROM ingest.slices")
    for _ in range(4):
        await year.step()
    assert await year.sql.fetchval("SELECT count(*) FROM ingest.slices WHERE slice_id = $1", slice_id) == 0
    shared = await year.sql.fetchval("SELECT max(slice_id) FROM ingest.slices")
    await year.sql.execute(
        "UPDATE ingest.slices SET end_time = end_time - interval '90 days' WHERE slice_id = $1", shared
    )
    await year.keep()
    assert await year.sql.fetchval("SELECT count(*) FROM ingest.slices WHERE slice_id = $1", shared) == 1
    assert first == 3 * STEP


async def test_the_guide_says_of_every_table_how_long_its_rows_are_kept(year):
    section = GUIDE.read_text().partition("## What is kept")[2].partition("\n## ")[0]
    named = [name for line in section.splitlines() if line.startswith("| `") for name in _tables(line)]
    real = {row[0] for row in await year.sql.fetch(TABLES)}
    assert len(named) == len(set(named))
    assert set(named) == real


def _tables(line: str) -> list[Any]:
    return re.findall(r"`([a-z]+\.[a-z_]+)`", line.split("|")[1])
