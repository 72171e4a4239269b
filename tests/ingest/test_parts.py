"""Parts: one transaction, the newest answer wins, every version is kept, and a lost worker is fenced off."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import asyncpg
import numpy as np
import pytest

from services.ingest.calendar import day_of
from services.ingest.columns import Columns
from services.ingest.quality import NO_CONTEXT, judge
from services.ingest.slices import SliceSpan
from services.ingest.store import parts, sessions, slices
from services.ingest.store.refused import Reject
from services.ingest.timeframes import DAY_MS
from services.kit.errors import MdwError
from tests.ingest.working import CRYPTO, DAY, PENDING, SUCCEEDED, Ask, desk

LEASE = timedelta(minutes=1)
JANUARY = ("2024-01-01", "2024-01-31")


@pytest.fixture
async def work(database):
    async with desk(database) as made:
        made.calendars = await sessions.load(made.db)
        yield made


def bars(values):
    """Makes daily bars of {day of January: close}."""
    ts = np.array([day_of(date(2024, 1, day)) * DAY_MS for day in sorted(values)], np.int64)
    close = np.array([float(values[day]) for day in sorted(values)])
    count = np.full(len(ts), 7, np.int64)
    return Columns(ts, close, close + 1, close - 0.5, close, close * 2, close, count)


async def claim(work):
    return await slices.claim(work.db, "tests", LEASE)


def part(work, claimed, values, until=None):
    span = SliceSpan.of(DAY, work.calendars["24/7"], day_of(claimed.first_date), day_of(claimed.last_date), None)
    return parts.Part(claimed, span, bars(values), [], span.end_ms if until is None else until)


async def ask(work, symbol, first, last):
    """Starts a job for these days of January and claims its slice: what it says is known from now on."""
    await work.start(Ask(symbol, "X:BTCUSD", f"2024-01-{first:02}", f"2024-01-{last:02}", DAY, CRYPTO))
    return await claim(work)


async def write(work, claimed, values):
    return await parts.write(work.db, part(work, claimed, values))


async def closes(work):
    rows = await work.sql.fetch("SELECT ts, close, flags FROM ingest.bars ORDER BY ts")
    return {row["ts"].day: (row["close"], row["flags"] & 16) for row in rows}


async def test_an_older_answer_that_comes_late_does_not_undo_a_newer_one(work):
    """A asks and stalls; B asks later and writes; A writes."""
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    a = await ask(work, symbol, 1, 10)
    b = await ask(work, symbol, 1, 10)
    await write(work, b, {5: 120})
    written = await write(work, a, {5: 100})
    assert (written.inserted, written.updated, written.unchanged) == (0, 0, 1)
    assert await closes(work) == {5: (120, 0)}
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.bar_revisions") == 0


async def test_an_older_answer_fills_what_no_newer_one_covers_and_elsewhere_says_absent(work):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    a = await ask(work, symbol, 1, 10)
    b = await ask(work, symbol, 4, 6)
    await write(work, b, {4: 40})
    await write(work, a, {3: 3, 4: 4, 5: 5})
    assert await closes(work) == {3: (3, 0), 4: (40, 0), 5: (5, 16)}


async def test_any_order_of_writing_ends_in_the_same_tables(work):
    """Eight answers of a provider that changes its mind, written in order and in random orders."""
    chance = random.Random(7)
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    for _ in range(4):
        said = [provider_says(chance) for _ in range(8)]
        found = []
        for order in (range(8), *(chance.sample(range(8), 8) for _ in range(3))):
            await work.empty()
            claims = [await ask(work, symbol, first, last) for first, last, _ in said]
            for at in order:
                await write(work, claims[at], said[at][2])
            found.append(await work.tables(slices=False))
        assert found[1:] == found[:1] * 3
        await recount(work, symbol)


def provider_says(chance):
    """Returns a span and what it holds: some bars missing, some corrected, some far off."""
    first = chance.randint(1, 28)
    last = chance.randint(first, 31)
    return first, last, {day: chance.choice((10, 11, 100)) for day in range(first, last + 1) if chance.random() < 0.7}


async def recount(work, symbol):
    """Compares the figures of the series with its bars, and every flag with a fresh judgement of all of them."""
    rows = await work.sql.fetch("SELECT * FROM ingest.bars ORDER BY ts")
    series = await work.series(symbol)
    stored = bars({row["ts"].day: row["close"] for row in rows})
    flags = judge(stored, NO_CONTEXT)
    assert [row["flags"] & 15 for row in rows] == flags.tolist()
    assert series["bars"] == series["sessions_present"] == len(rows)
    good = await work.sql.fetchval(
        "SELECT count(*) FROM ingest.bars WHERE flags & 3 = 0 AND flags & 12 = 0 OR flags & 15 IN (4, 8)"
    )
    assert series["validated"] == good
    assert (series["first_ts"], series["last_ts"]) == (rows[0]["ts"], rows[-1]["ts"])


async def test_an_append_is_judged_by_the_tail_and_reads_no_bars(work):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    await write(work, await ask(work, symbol, 1, 20), dict.fromkeys(range(1, 21), 10))
    await work.sql.execute("DELETE FROM ingest.bars")
    await write(work, await ask(work, symbol, 21, 31), {21: 10, 22: 200})
    assert [row["flags"] for row in await work.sql.fetch("SELECT flags FROM ingest.bars ORDER BY ts")] == [0, 2 | 4]


async def test_a_part_of_a_slice_that_went_to_another_worker_writes_nothing(work):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    lost = await ask(work, symbol, 1, 10)
    await work.sql.execute("UPDATE ingest.slices SET lease_until = now() - interval '1 s'")
    assert await slices.free_lost(work.db, lambda _: False) == 1
    again = await claim(work)
    assert (again.token, again.write_id) == (lost.token + 2, lost.write_id)
    assert await write(work, lost, {5: 1}) is None
    assert (await write(work, again, {5: 2})).inserted == 1
    assert await closes(work) == {5: (2, 0)}


async def test_a_stopped_part_is_ended_by_the_reaper_and_only_then_handed_out(work):
    """What SIGSTOP leaves behind is an open transaction that holds the write, the slice and the series."""
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    stopped = await ask(work, symbol, 1, 10)
    conn = await asyncpg.connect(work.url)
    await conn.execute("BEGIN")
    row = await conn.fetchrow(parts.BEGIN_RANGE, *begin_arguments(stopped))
    assert row is not None
    await work.sql.execute("SET lock_timeout = '60s'")
    assert await slices.free_lost(work.db, lambda _: False) == 0
    assert await claim(work) is None
    # The lease ends while its row is locked: a lease in the past from the beginning is the same.
    assert await free_as_if_expired(work, stopped) == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await conn.execute("COMMIT")
    again = await claim(work)
    assert (await write(work, again, {5: 2})).state == SUCCEEDED


def begin_arguments(claimed):
    start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 11, tzinfo=UTC)
    key = claimed.key
    return (
        claimed.slice_id,
        claimed.token,
        claimed.write_id,
        key.symbol_id,
        key.timeframe,
        claimed.fetch_time,
        start,
        end,
    )


async def free_as_if_expired(work, claimed):
    return await slices.free_lost(work.db, lambda owner: owner == "tests")


async def test_a_part_that_fails_leaves_nothing_and_its_write_is_used_again(work):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    claimed = await ask(work, symbol, 1, 10)
    broken = part(work, claimed, {5: 1})
    broken = parts.Part(
        claimed,
        broken.span,
        broken.bars,
        [SimpleNamespace(ts=0, time=None, reason=None, raw="", hash=b"")],
        broken.until_ms,
    )
    with pytest.raises((MdwError, asyncpg.PostgresError)):
        await parts.write(work.db, broken)
    assert await closes(work) == {}
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.writes WHERE commit_time IS NOT NULL") == 1
    await slices.release(work.db, claimed, reason="")
    again = await claim(work)
    assert again.write_id == claimed.write_id
    assert (await write(work, again, {5: 1})).inserted == 1


async def test_writes_end_in_the_order_of_their_commit_times_and_say_what_is_seen(work):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    a = await ask(work, symbol, 1, 10)
    b = await ask(work, symbol, 11, 20)
    await write(work, b, {15: 1})
    await write(work, a, {5: 1})
    rows = await work.sql.fetch(
        "SELECT write_id, high, open FROM ingest.writes WHERE commit_time IS NOT NULL ORDER BY commit_time"
    )
    assert [
        (row["write_id"] - a.write_id, row["high"] - a.write_id, [i - a.write_id for i in row["open"]])
        for row in rows[1:]
    ] == [
        (1, 2, [0]),
        (0, 2, []),
    ]


async def test_a_slice_in_pages_announces_the_write_of_the_next_one(work):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    first = await ask(work, symbol, 1, 10)
    until = day_of(date(2024, 1, 6)) * DAY_MS
    written = await parts.write(work.db, part(work, first, {1: 1, 5: 5}, until))
    assert written.state == PENDING
    second = await claim(work)
    assert (second.write_id, second.cursor) == (first.write_id + 1, datetime(2024, 1, 6, tzinfo=UTC))
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.writes WHERE commit_time IS NULL") == 1


async def test_a_part_that_would_read_too_much_covers_only_what_it_can(work, monkeypatch):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    await write(work, await ask(work, symbol, 1, 31), dict.fromkeys(range(1, 32), 10))
    monkeypatch.setattr(parts, "MOST_STORED", 10)
    claimed = await ask(work, symbol, 1, 31)
    written = await write(work, claimed, dict.fromkeys(range(1, 32), 11))
    assert (written.updated, written.state) == (10, PENDING)
    again = await claim(work)
    assert again.cursor == datetime(2024, 1, 11, tzinfo=UTC)


async def test_a_version_is_kept_for_every_change_of_values_or_flags(work):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    first = await ask(work, symbol, 1, 3)
    await write(work, first, {1: 10, 2: 10, 3: 10})
    second = await ask(work, symbol, 1, 1)
    await write(work, second, {1: 20})
    rows = await work.sql.fetch(
        "SELECT ts, close, flags, write_id, ended_write_id FROM ingest.bar_revisions ORDER BY ts"
    )
    assert [(row["ts"].day, row["close"], row["flags"]) for row in rows] == [(1, 10, 0), (2, 10, 0)]
    assert {(row["write_id"], row["ended_write_id"]) for row in rows} == {(first.write_id, second.write_id)}
    assert await work.sql.fetchval("SELECT flags FROM ingest.bars WHERE close = 10 AND ts = '2024-01-02 00:00Z'") == 2
    span = await work.sql.fetchrow("SELECT min_ts, max_ts FROM ingest.writes WHERE write_id = $1", second.write_id)
    assert (span["min_ts"].day, span["max_ts"].day) == (1, 2)


async def test_refused_bars_are_kept_once_and_their_last_sight_moves(work):
    symbol = await work.symbol("X:BTCUSD", CRYPTO)
    refused = [
        Reject(0, "HIGH_LOW", '{"o":1}'),
        Reject(0, "HIGH_LOW", '{"o":1}'),
        Reject(-(2**60), "MISSING_FIELD", "\x00"),
    ]
    for _ in range(2):
        claimed = await ask(work, symbol, 1, 3)
        plain = part(work, claimed, {})
        await parts.write(work.db, parts.Part(claimed, plain.span, plain.bars, refused, plain.until_ms))
    rows = await work.sql.fetch(
        "SELECT ts, raw, slice_id, last_seen > first_seen AS again FROM ingest.rejected_bars ORDER BY reason"
    )
    assert [(row["raw"], row["again"]) for row in rows] == [('{"o":1}', True), ("\ufffd", True)]
    assert (await work.series(symbol))["rejected"] == 2
    assert [row["rejected"] for row in await work.slices()] == [3, 3]


async def test_no_plan_of_a_part_reads_a_table_from_end_to_end(work):
    """Never analysed, and long: context, comparison and change go by the primary key."""
    await work.sql.execute(
        "INSERT INTO ingest.bars "
        "SELECT '2024-01-01'::timestamptz + n * interval '1 minute', 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0 "
        "FROM generate_series(1, 30000) n"
    )
    read = parts.READ.format(
        columns="ts",
        symbol_id=1,
        timeframe=1,
        start="'2024-01-05'::timestamptz",
        end="'2024-01-06'::timestamptz",
        window=20,
        limit=100,
    )
    times = [datetime(2024, 1, 5, tzinfo=UTC)] * 3
    ones, counts = [1.0] * 3, [1] * 3
    change = parts.CHANGE, (1, 1, 5, times, ones, ones, ones, ones, ones, ones, counts, counts)
    keep = parts.KEEP_VERSIONS, (1, 1, 5, times)
    async with work.db.connection() as conn:
        await conn.execute(parts.BEGIN)
        for sql, arguments in ((read, ()), change, keep):
            plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {sql}", *arguments))
            assert "Index" in plan
            for word in ("Seq Scan", "Bitmap", "Sort", "Hash", "Merge"):
                assert word not in plan, plan
        await conn.execute("ROLLBACK")
