"""Deletions: bars are taken away for good or as a version, figures stay right, and nothing brings them back unasked."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import date, timedelta
from uuid import uuid4

import asyncpg
import grpc
import numpy as np
import pytest

from mdw.ingest.v1 import ingest_pb2
from services.ingest.calendar import day_of
from services.ingest.columns import Columns
from services.ingest.quality import ABSENT, NO_CONTEXT, decode_tail, judge
from services.ingest.slices import SliceSpan
from services.ingest.store import bars as reads
from services.ingest.store import deleting, parts, sessions, slices
from services.ingest.store.instants import to_ms
from services.ingest.store.refused import Reject
from services.ingest.store.snapshots import Snapshots
from services.ingest.timeframes import DAY_MS, MINUTE_MS
from services.kit.errors import MdwError
from tests.ingest.backfilling import DAY, ETF, at
from tests.ingest.working import CRYPTO, MINUTE, SUCCEEDED, Ask, desk, replaying
from tests.support import make_key, with_key

LEASE = timedelta(minutes=1)
KINDS = [slices.RANGE, slices.DELETE]
REFETCH, MISSING = 2, 1
INSERT_DELETION = """
INSERT INTO ingest.deletions (slice_id, symbol_id, timeframe, first_date, last_date, purge, reason)
VALUES ($1, $2, $3, $4, $5, $6, 'a test')
"""
KILL = """
SELECT pg_terminate_backend(pid)
FROM pg_locks
WHERE locktype = 'advisory' AND classid = 1833045 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
RECOUNT = """
SELECT (SELECT count(*) FROM ingest.minute_sessions WHERE symbol_id = $1) AS minute_sessions,
       (SELECT count(DISTINCT ts::date) FROM ingest.bars WHERE symbol_id = $1 AND timeframe = $2) AS sessions,
       (SELECT count(*) FROM ingest.rejected_bars WHERE symbol_id = $1 AND timeframe = $2) AS rejected,
       (SELECT coalesce(sum(bars), 0) FROM ingest.minute_sessions WHERE symbol_id = $1) AS minute_bars
"""


@pytest.fixture
async def work(database):
    async with desk(database) as made:
        made.calendars = await sessions.load(made.db)
        made.btc = await made.symbol("X:BTCUSD", CRYPTO)
        yield made


def dates(first, last):
    return f"2024-01-{first:02}", f"2024-01-{last:02}"


async def ask(work, first, last, *, mode=REFETCH, timeframe=DAY):
    """Starts a job for these days of January and claims its slice."""
    await work.start(Ask(work.btc, "X:BTCUSD", *dates(first, last), timeframe, CRYPTO))
    slice_id = await work.sql.fetchval("SELECT max(slice_id) FROM ingest.slices")
    await work.sql.execute("UPDATE ingest.slices SET mode = $2 WHERE slice_id = $1", slice_id, mode)
    return await slices.claim(work.db, "tests", LEASE)


async def ask_to_delete(work, first, last, *, purge=False, timeframe=DAY):
    """Starts a deletion of these days of January and claims its slice."""
    await work.start(Ask(work.btc, "X:BTCUSD", *dates(first, last), timeframe, CRYPTO))
    slice_id = await work.sql.fetchval("SELECT max(slice_id) FROM ingest.slices")
    await work.sql.execute("UPDATE ingest.slices SET kind = 4, mode = 1 WHERE slice_id = $1", slice_id)
    days = (date.fromisoformat(day) for day in dates(first, last))
    await work.sql.execute(INSERT_DELETION, slice_id, work.btc, timeframe, *days, purge)
    return await slices.claim(work.db, "tests", LEASE, KINDS)


def span_of(work, claim):
    cursor = None if claim.cursor is None else to_ms(claim.cursor)
    days = (day_of(claim.first_date), day_of(claim.last_date))
    return SliceSpan.of(claim.key.timeframe, work.calendars["24/7"], *days, cursor)


async def write(work, claim, values, refused=()):
    """Writes daily bars of {day: close}, or minutes of {(day, minute): close}."""
    span = span_of(work, claim)
    where = [one if isinstance(one, tuple) else (one, 0) for one in sorted(values)]
    ts = np.array([day_of(date(2024, 1, day)) * DAY_MS + minute * MINUTE_MS for day, minute in where], np.int64)
    close = np.array([float(values[one]) for one in sorted(values)])
    bars = Columns(ts, close, close, close, close, close * 2, close, np.full(len(ts), 7, np.int64))
    rejects = [Reject(span.start_ms, "HIGH_LOW", raw) for raw in refused]
    return await parts.write(work.db, parts.Part(claim, span, bars, rejects, span.end_ms))


async def delete(work, claim, most=1000):
    """Works on a claimed deletion until it has ended; returns how many bars it took away."""
    gone = 0
    while claim is not None:
        done = await deleting.write(work.db, claim, span_of(work, claim), most)
        gone += done.bars
        claim = None if done.state == SUCCEEDED else await slices.claim(work.db, "tests", LEASE, KINDS)
    return gone


async def closes(work):
    rows = await work.sql.fetch("SELECT ts, close FROM ingest.bars ORDER BY ts")
    return {row["ts"].day: row["close"] for row in rows}


async def deleted(work, timeframe=DAY):
    ranges = (await work.series(work.btc, timeframe))["deleted"]
    return [(one.lower.day, (one.upper - timedelta(days=1)).day) for one in ranges]


async def test_an_earlier_as_of_still_shows_what_was_deleted(work):
    await write(work, await ask(work, 1, 10), dict.fromkeys(range(1, 11), 5))
    before = await Snapshots(work.db).newest()
    assert await delete(work, await ask_to_delete(work, 3, 5)) == 3
    assert list(await closes(work)) == [1, 2, 6, 7, 8, 9, 10]
    assert await deleted(work) == [(3, 5)]
    async with work.db.connection() as conn:
        block = await reads.read(conn, reads.Span(symbol_id=work.btc, timeframe=DAY), before, limit=100)
    assert len(block.bars) == 10


async def test_the_bars_behind_the_hole_are_judged_again_and_the_tail_is_that_of_what_stays(work):
    values = {day: 10 if day < 10 else 30 for day in range(1, 32)}
    await write(work, await ask(work, 1, 31), values)
    await delete(work, await ask_to_delete(work, 1, 9))
    await recount(work, DAY)
    await delete(work, await ask_to_delete(work, 12, 31))
    await recount(work, DAY)


async def test_a_series_that_is_deleted_whole_is_empty_again(work):
    await write(work, await ask(work, 1, 10), dict.fromkeys(range(1, 11), 5), ["raw"])
    await delete(work, await ask_to_delete(work, 1, 31, purge=True))
    series = await work.series(work.btc)
    assert (series["bars"], series["first_ts"], series["tail"], series["rejected"]) == (0, None, b"", 0)
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.bar_revisions") == 0
    await write(work, await ask(work, 5, 8), {5: 1})
    await recount(work, DAY)


async def test_a_purge_removes_versions_and_refused_bars_of_its_span_alone(work):
    await write(work, await ask(work, 1, 4), dict.fromkeys(range(1, 5), 5), ["first"])
    await write(work, await ask(work, 5, 8), dict.fromkeys(range(5, 9), 5), ["second"])
    await write(work, await ask(work, 1, 8), dict.fromkeys(range(1, 9), 6))
    await delete(work, await ask_to_delete(work, 1, 4, purge=True))
    left = await work.sql.fetch("SELECT DISTINCT ts FROM ingest.bar_revisions ORDER BY ts")
    assert [row["ts"].day for row in left] == [5, 6, 7, 8]
    assert [row["raw"] for row in await work.sql.fetch("SELECT raw FROM ingest.rejected_bars")] == ["second"]
    row = await work.sql.fetchrow(
        "SELECT d.write_id, w.commit_time FROM ingest.deletions d JOIN ingest.writes w USING (write_id)"
    )
    assert row["commit_time"] == await work.sql.fetchval("SELECT max(commit_time) FROM ingest.writes")
    await recount(work, DAY)


async def test_an_answer_that_was_asked_for_before_and_comes_late_brings_nothing_back(work):
    await write(work, await ask(work, 1, 10), dict.fromkeys(range(1, 11), 5))
    late = await ask(work, 1, 10)
    await delete(work, await ask_to_delete(work, 4, 6))
    await write(work, late, dict.fromkeys(range(1, 11), 7))
    assert await closes(work) == dict.fromkeys((1, 2, 3, 7, 8, 9, 10), 7)
    assert await deleted(work) == [(4, 6)]


async def test_what_fetches_the_missing_brings_nothing_back_and_what_fetches_all_again_does(work):
    await write(work, await ask(work, 1, 10), dict.fromkeys(range(1, 11), 5))
    await delete(work, await ask_to_delete(work, 4, 6))
    await write(work, await ask(work, 5, 5, mode=MISSING), {5: 9})
    assert 5 not in await closes(work)
    await write(work, await ask(work, 5, 5, mode=REFETCH), {5: 9})
    assert (await closes(work))[5] == 9
    assert await deleted(work) == [(4, 4), (6, 6)]


async def test_a_later_refetch_that_comes_first_is_left_alone(work):
    await write(work, await ask(work, 1, 10), dict.fromkeys(range(1, 11), 5))
    deletion = await ask_to_delete(work, 4, 8)
    await write(work, await ask(work, 6, 7), {6: 6})
    assert await delete(work, deletion) == 4
    # The seventh was missing from the refetch: what it was before is deleted.
    assert await closes(work) == {1: 5, 2: 5, 3: 5, 6: 6, 9: 5, 10: 5}
    assert await deleted(work) == [(4, 5), (8, 8)]


async def test_a_long_deletion_goes_session_by_session(work):
    values = {(day, minute): 5 for day in range(1, 7) for minute in range(40)}
    await write(work, await ask(work, 1, 6, timeframe=MINUTE), values)
    claim = await ask_to_delete(work, 2, 5, timeframe=MINUTE)
    assert await delete(work, claim, most=50) == 160
    commits = "SELECT count(*) FROM ingest.writes WHERE slice_id = $1 AND commit_time IS NOT NULL"
    assert await work.sql.fetchval(commits, claim.slice_id) == 4
    await recount(work, MINUTE)


async def recount(work, timeframe):
    """Compares figures, flags and tail of the series with a fresh count and judgement of its bars."""
    rows = await work.sql.fetch("SELECT * FROM ingest.bars WHERE timeframe = $1 ORDER BY ts", timeframe)
    series = await work.series(work.btc, timeframe)
    close = np.array([row["close"] for row in rows])
    ts = np.array([to_ms(row["ts"]) for row in rows], np.int64)
    volume = np.array([row["volume"] for row in rows])
    flags = judge(Columns(ts, close, close, close, close, volume, close, ts), NO_CONTEXT)
    assert [row["flags"] & ~ABSENT for row in rows] == flags.tolist()
    good = sum(int(flag) in {0, 4, 8} for flag in flags.tolist())
    ends = (rows[0]["ts"], rows[-1]["ts"]) if rows else (None, None)
    assert (series["bars"], series["validated"], series["first_ts"], series["last_ts"]) == (len(rows), good, *ends)
    tail = decode_tail(series["tail"])
    assert (tail.ts.tolist(), tail.close.tolist()) == (ts[-20:].tolist(), close[-20:].tolist())
    counted = await work.sql.fetchrow(RECOUNT, work.btc, timeframe)
    assert (series["sessions_present"], series["rejected"]) == (counted["sessions"], counted["rejected"])
    if timeframe == MINUTE:
        assert (counted["minute_sessions"], counted["minute_bars"]) == (counted["sessions"], len(rows))


async def test_any_history_with_deletions_and_kills_ends_in_right_figures(work):
    """Answers, corrections and deletions of random spans; parts small, some of their connections broken on the way."""
    chance = random.Random(3)
    for round_ in range(12):
        await work.empty(*WRITTEN)
        timeframe = (DAY, MINUTE)[round_ % 2]
        for _ in range(8):
            first = chance.randint(1, 28)
            last = chance.randint(first, min(first + 12, 31))
            if chance.random() < 0.5:
                times = (
                    range(first, last + 1)
                    if timeframe == DAY
                    else [(d, m) for d in range(first, last + 1) for m in (0, 5, 9)]
                )
                values = {time: chance.choice((10, 11, 100)) for time in times if chance.random() < 0.8}
                mode = chance.choice((MISSING, REFETCH))
                raw = [str(chance.random())] * chance.randint(0, 1)
                await write(work, await ask(work, first, last, mode=mode, timeframe=timeframe), values, raw)
            elif await work.sql.fetchval("SELECT count(*) FROM ingest.series"):
                claim = await ask_to_delete(work, first, last, purge=chance.random() < 0.3, timeframe=timeframe)
                await delete(work, await disturbed(work, claim, chance), most=4)
        await recount(work, timeframe)


async def disturbed(work, claim, chance):
    """Breaks the connection of a part of a deletion somewhere on its way; returns the claim of whoever goes on."""
    writing = asyncio.create_task(deleting.write(work.db, claim, span_of(work, claim), 4))
    await asyncio.wait([writing], timeout=chance.random() * 0.008)
    await work.sql.execute(KILL)
    with suppress(MdwError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await writing
    await slices.free_lost(work.db, lambda owner: owner == "tests")
    return await slices.claim(work.db, "tests", LEASE, KINDS)


WRITTEN = (
    "deletions", "suspects", "backfill_slices", "backfills", "slices", "bars", "bar_revisions", "series",
    "minute_sessions", "rejected_bars", "absent_bars",
)  # fmt: skip

SPAN = {"start_time": at("2015-06-01"), "end_time": at("2015-07-01")}
State = ingest_pb2.Backfill.State


async def test_a_deletion_is_a_backfill_that_a_worker_does(ingest, running):
    await ingest.symbol("SPY", ETF)
    wanted = {"ticker": "SPY", "timeframe": DAY, "reason": "wrong feed", **SPAN}
    async with replaying() as replay:
        worker = await running.worker(replay.url)
        await ingest.start(tickers=["SPY"], start_time=at("2012-01-01"), end_time=at("2021-01-01"))
        await running.drain(worker)
        stored = await ingest.sql.fetchval("SELECT bars FROM ingest.series")
        planned = await ingest.call("DeleteBars", validate_only=True, **wanted)
        assert not planned.HasField("backfill")
        answer = await ingest.call("DeleteBars", request_id=str(uuid4()), **wanted)
        assert (answer.backfill.kind, answer.bars) == (ingest_pb2.Backfill.DELETE, planned.bars)
        missing = await ingest.start(tickers=["SPY"], **SPAN)
        assert missing.backfill.state == State.SUCCEEDED
        assert [one.reason for one in missing.plan.skipped] == ["deleted: 2015-06-01 to 2015-06-30"]
        await running.drain(worker)
        done = await ingest.get(answer.backfill.backfill_id)
        assert (done.state, done.progress.bars_deleted, done.progress.requests) == (State.SUCCEEDED, planned.bars, 0)
        assert await ingest.sql.fetchval("SELECT bars FROM ingest.series") == stored - planned.bars
        await ingest.start(tickers=["SPY"], mode=ingest_pb2.BACKFILL_MODE_REFETCH, **SPAN)
        await running.drain(worker)
    assert await ingest.sql.fetchval("SELECT bars FROM ingest.series") == stored
    assert await ingest.sql.fetchval("SELECT deleted = '{}' FROM ingest.series")


async def test_a_repeat_with_the_same_request_id_deletes_once(ingest):
    await ingest.symbol("SPY", ETF)
    wanted = {"ticker": "SPY", "timeframe": DAY, "reason": "x", "request_id": str(uuid4()), **SPAN}
    first, second = [await ingest.call("DeleteBars", **wanted) for _ in range(2)]
    assert first == second
    assert await ingest.sql.fetchval("SELECT count(*) FROM ingest.deletions WHERE reason = 'x'") == 1


async def test_a_bad_request_names_all_its_fields(ingest):
    assert await ingest.broken_fields("DeleteBars", timeframe=2, start_time=at("2015-06-01T12:00:00Z")) == [
        "start_time", "end_time", "ticker", "timeframe", "reason",
    ]  # fmt: skip
    backwards = {"start_time": at("2015-06-01"), "end_time": at("2015-06-01")}
    wanted = {"ticker": "SPY", "timeframe": DAY, "reason": "x"}
    assert await ingest.broken_fields("DeleteBars", **wanted, **backwards) == ["end_time"]
    far = {"start_time": at("2015-06-01"), "end_time": at("2050-01-01")}
    assert (await ingest.refused("DeleteBars", **wanted, **far))[1] == "CALENDAR_HORIZON"


async def test_deleting_needs_a_scope_of_its_own(ingest, database):
    key = await make_key(database, "ingest.write")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ingest.stub.DeleteBars(ingest_pb2.DeleteBarsRequest(), metadata=with_key(key))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
