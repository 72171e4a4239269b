"""Statistics equal a full recount, whatever happened to the bars."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdw.symbols.v1 import symbols_pb2 as pb
from services.ingest.calendar import day_of
from services.ingest.columns import Columns
from services.ingest.slices import SliceSpan
from services.ingest.store import parts, sessions, slices
from services.ingest.store.refused import Reject
from services.ingest.timeframes import MINUTE_MS
from services.kit.errors import MdwError
from tests.ingest.working import CRYPTO, DAY, MINUTE, STOCK, Ask, desk

# Everything is counted from the bars themselves, in other words than the parts' own.
RECOUNT = """
WITH held AS (
  SELECT ts, (ts AT TIME ZONE $4)::date AS day,
         1.00 - 0.30 * (flags & 1) - 0.20 * (flags >> 1 & 1) - 0.10 * (flags >> 2 & 1) - 0.15 * (flags >> 3 & 1)
           AS quality
  FROM ingest.bars
  WHERE symbol_id = $1 AND timeframe = $2
)
SELECT count(*) AS bars, min(ts) AS first_time, max(ts) AS last_time,
       (SELECT count(*) FROM ingest.sessions
        WHERE calendar = $3 AND session_date BETWEEN min(day) AND max(day)) AS sessions_expected,
       (SELECT count(*) FROM ingest.sessions
        WHERE calendar = $3 AND session_date IN (SELECT day FROM held)) AS sessions_present,
       avg((quality >= 0.85)::int) AS validated_share,
       (SELECT count(*) FROM ingest.rejected_bars WHERE symbol_id = $1 AND timeframe = $2) AS rejected
FROM held
"""
KILL = """
SELECT pg_terminate_backend(pid)
FROM pg_locks
WHERE locktype = 'advisory' AND classid = 1833045 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True)
class Series:
    ticker: str
    asset_class: int
    timeframe: int
    calendar: str
    zone: str
    minutes: tuple[int, ...]
    """Minutes of the day at which it may have bars."""


SERIES = (
    Series("AAPL", STOCK, MINUTE, "XNYS", "America/New_York", (240, 570, 780, 1199)),
    Series("AAPL", STOCK, DAY, "XNYS", "UTC", (0,)),
    Series("X:BTCUSD", CRYPTO, DAY, "24/7", "UTC", (0,)),
)

prices = st.sampled_from([None, 10.0, 10.0, 10.5, 13.0, 90.0])


@st.composite
def answers(draw):
    """What the provider says of some days of January: bars that are missing, odd, corrected, impossible."""
    series = draw(st.sampled_from(SERIES))
    first = draw(st.integers(1, 28))
    last = draw(st.integers(first, min(first + 6, 31)))
    times = [(day, minute) for day in range(first, last + 1) for minute in series.minutes]
    said = dict(zip(times, draw(st.lists(prices, min_size=len(times), max_size=len(times))), strict=True))
    rejects = draw(st.lists(st.sampled_from(["a", "b", "c"]), max_size=2))
    return series, first, last, {time: price for time, price in said.items() if price}, rejects


steps = st.one_of(
    st.tuples(st.just("written"), answers()),
    st.tuples(st.just("late"), answers(), answers()),
    st.tuples(st.just("killed"), answers(), st.floats(0, 0.008)),
)


class Desk:
    """Starts work, claims it and writes its parts, as workers do."""

    def __init__(self, work, calendars, ids) -> None:
        self.work, self.calendars, self.ids = work, calendars, ids

    async def claim(self, answer):
        series, first, last, _, _ = answer
        days = (f"2024-01-{first:02}", f"2024-01-{last:02}")
        await self.work.start(Ask(self.ids[series.ticker], series.ticker, *days, series.timeframe, series.asset_class))
        return await slices.claim(self.work.db, "tests", timedelta(minutes=1))

    async def write(self, claimed, answer):
        return await parts.write(self.work.db, self.part(claimed, answer))

    def part(self, claimed, answer) -> parts.Part:
        series, first, last, said, rejects = answer
        days = (day_of(date(2024, 1, day)) for day in (first, last))
        span = SliceSpan.of(series.timeframe, self.calendars[series.calendar], *days, None)
        starts = {day: span.start_of(day_of(date(2024, 1, day))) for day, _ in said}
        ts = np.array([starts[day] + minute * MINUTE_MS for day, minute in said], np.int64)
        close = np.array(list(said.values()))
        bars = Columns(ts, close, close + 1, close - 0.5, close, close, close, np.full(len(ts), 3, np.int64))
        refused = [Reject(span.start_ms, "HIGH_LOW", raw) for raw in rejects]
        return parts.Part(claimed, span, bars, refused, span.end_ms)

    async def do(self, kind, answer, more=None):
        claimed = await self.claim(answer)
        if kind == "late":
            newer = await self.claim(more)
            await self.write(newer, more)
        if kind == "killed":
            claimed = await self.killed(claimed, answer, more)
        if claimed:
            await self.write(claimed, answer)

    async def killed(self, claimed, answer, seconds):
        """Ends the part's connection somewhere on its way; returns the claim of whoever takes the slice up again."""
        writing = asyncio.create_task(self.write(claimed, answer))
        await asyncio.wait([writing], timeout=seconds)
        await self.work.sql.execute(KILL)
        with suppress(MdwError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await writing
            return None
        await slices.free_lost(self.work.db, lambda owner: owner == "tests")
        return await slices.claim(self.work.db, "tests", timedelta(minutes=1))


async def compare(work, symbols, ids) -> None:
    """Asserts that what the service says of each series is what a recount finds."""
    for ticker, symbol_id in ids.items():
        request = pb.GetSymbolStatisticsRequest(symbol_id=symbol_id)
        told = {one.timeframe: one for one in (await symbols.GetSymbolStatistics(request)).statistics.series}
        for series in (one for one in SERIES if one.ticker == ticker and one.timeframe in told):
            one = told[series.timeframe]
            row = await work.sql.fetchrow(RECOUNT, symbol_id, series.timeframe, series.calendar, series.zone)
            for name in ("bars", "sessions_expected", "sessions_present", "rejected"):
                assert getattr(one, name) == row[name], (series, name)
            assert one.sessions_missing == row["sessions_expected"] - row["sessions_present"]
            for name in ("first_time", "last_time"):
                assert (getattr(one, name).ToDatetime(tzinfo=row[name].tzinfo) if row[name] else None) == row[name]
            share = None if row["validated_share"] is None else float(row["validated_share"])
            assert (one.validated_share if one.HasField("validated_share") else None) == pytest.approx(share)
            assert one.state.state == pb.BACKFILL_STATE_SUCCEEDED


async def test_statistics_equal_a_full_recount(database, symbols):
    """After any mix of backfills, corrections, refused bars, answers that come late and parts that are killed."""
    async with desk(database) as work:
        calendars = await sessions.load(work.db)
        ids = {"AAPL": await work.symbol("AAPL"), "X:BTCUSD": await work.symbol("X:BTCUSD", CRYPTO)}
        loop = asyncio.get_running_loop()

        async def run(script):
            await work.empty()
            for step in script:
                await Desk(work, calendars, ids).do(*step)
            await compare(work, symbols, ids)

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(steps, min_size=1, max_size=6))
        def check(script):
            asyncio.run_coroutine_threadsafe(run(script), loop).result()

        await asyncio.to_thread(check)
