"""Parts of many series: the same tables as series by series, in any order of answers and whatever breaks on the way."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import asyncpg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.batches import Batch, cut
from services.ingest.calendar import day_of
from services.ingest.columns import Columns, concatenate, no_bars
from services.ingest.quality import (
    GAP,
    NO_CONTEXT,
    Contexts,
    context_after,
    decode_tail,
    encode_tail,
    judge,
    judge_many,
)
from services.ingest.slices import SliceSpan
from services.ingest.store import many, parts, sessions, slices
from services.ingest.store.instants import to_ms
from services.ingest.store.refused import Reject
from services.ingest.timeframes import DAY_MS, MINUTE_MS
from services.kit.errors import MdwError
from tests.ingest.test_deletions import KILL, WRITTEN
from tests.ingest.working import CRYPTO, DAY, FAILED, MINUTE, PENDING, RUNNING, SUCCEEDED, Ask, desk

LEASE = timedelta(minutes=1)
NAN = float("nan")
MARKET = slices.FILE
SPLIT = """
INSERT INTO ingest.actions (action_id, write_id, symbol_id, ex_date, kind, split_from, split_to)
VALUES (1, 0, $1, $2, 1, 1, 2)
"""
SYMBOLS = 4


@pytest.fixture
async def work(database):
    async with desk(database) as made:
        made.calendars = await sessions.load(made.db)
        made.ids = [await made.symbol(f"X:C{number}USD", CRYPTO) for number in range(SYMBOLS)]
        yield made


def bars(values, *, vwap=True):
    """Makes bars of {time: close}."""
    ts = np.array(sorted(values), np.int64)
    close = np.array([float(values[time]) for time in ts.tolist()])
    average = close if vwap else np.full(len(ts), NAN)
    return Columns(ts, close, close, close, close, close * 2, average, np.full(len(ts), 3, np.int64))


series_of_bars = st.lists(
    st.tuples(st.lists(st.sampled_from([10.0, 11.0, 90.0, 700.0]), min_size=1, max_size=30), st.integers(0, 30)),
    min_size=1,
    max_size=5,
)


@given(series_of_bars)
def test_many_series_are_judged_together_as_one_by_one(series):
    """Each has bars behind it, from none to more than count, and leaves the same tail."""
    new, tails, expected, left = [], [], [], []
    for closes, count in series:
        earlier = bars({at * DAY_MS: 10.0 + at % 3 for at in range(count)})
        before = context_after(NO_CONTEXT, earlier)
        own = bars({(count + at) * DAY_MS: close for at, close in enumerate(closes)})
        new.append(own)
        tails.append(encode_tail(before))
        expected += judge(own, before).tolist()
        left.append(encode_tail(context_after(before, own)))
    starts = np.concatenate([[0], np.cumsum([len(one) for one in new])])
    flags, after = judge_many(concatenate(new), starts, Contexts.of_tails(tails))
    assert flags.tolist() == expected
    assert after == left


async def start(work, first, last, timeframe=DAY, *, mode=2):
    """Starts a job of one slice over all symbols, and claims it."""
    await work.start(Ask(work.ids[0], "all", f"2024-01-{first:02}", f"2024-01-{last:02}", timeframe, CRYPTO))
    slice_id = await work.sql.fetchval("SELECT max(slice_id) FROM ingest.slices")
    await work.sql.execute(
        "UPDATE ingest.slices SET kind = 3, mode = $2, symbol_id = NULL WHERE slice_id = $1", slice_id, mode
    )
    return await slices.claim(work.db, "tests", LEASE, [MARKET])


def batch(work, first, last, said, timeframe=DAY, *, vwap=True, fetched=None, rejects=()):
    """Makes a batch of {symbol: {day or (day, minute): close}}, days of January."""
    whose = sorted({*said, *(one[0] for one in rejects if one[0] is not None)})
    made = [bars({time_of(time): close for time, close in said.get(one, {}).items()}, vwap=vwap) for one in whose]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in made])]).astype(np.int64)
    return Batch(
        timeframe,
        work.calendars["24/7"],
        day_of(date(2024, 1, first)),
        day_of(date(2024, 1, last)) + 1,
        fetched or datetime(2024, 1, last, 16, tzinfo=UTC) + timedelta(days=1),
        np.array(whose, np.int64),
        starts,
        concatenate(made) if made else no_bars(),
        rejects,
        partial=not vwap,
    )


def time_of(time):
    day, minute = time if isinstance(time, tuple) else (time, 0)
    return day_of(date(2024, 1, day)) * DAY_MS + minute * MINUTE_MS


async def write(work, claim, whole, *, series=2):
    """Writes all parts of a batch; returns what they did in all."""
    done = []
    pieces = list(cut(whole, claim.position, series=series))
    for part in pieces:
        done.append(await many.write(work.db, claim, part, done=part is pieces[-1]))
        claim = done[-1].claim
    return done


async def test_a_part_writes_bars_figures_and_goes_on_under_the_same_claim(work):
    claim = await start(work, 2, 2)
    a, b, c = work.ids[:3]
    done = await write(work, claim, batch(work, 2, 2, {a: {2: 5}, b: {2: 6}, c: {2: 7}}))
    assert [(one.state, one.inserted) for one in done] == [(RUNNING, 2), (SUCCEEDED, 1)]
    assert [row["close"] for row in await work.sql.fetch("SELECT close FROM ingest.bars ORDER BY symbol_id")] == [
        5,
        6,
        7,
    ]
    (row,) = await work.slices()
    assert (row["inserted"], row["requests"], row["position"]) == (3, 0, None)
    await recount(work, DAY)


@pytest.mark.parametrize("together", [True, False], ids=["one part", "days apart"])
async def test_a_fall_is_a_gap_but_where_a_split_explains_it(work, together):
    a, b = work.ids[:2]
    await work.sql.execute(SPLIT, a, date(2024, 1, 3))
    if together:
        await write(work, await start(work, 2, 3), batch(work, 2, 3, {a: {2: 10, 3: 5}, b: {2: 10, 3: 5}}))
    else:
        await write(work, await start(work, 2, 2), batch(work, 2, 2, {a: {2: 10}, b: {2: 10}}))
        await write(work, await start(work, 3, 3), batch(work, 3, 3, {a: {3: 5}, b: {3: 5}}))
    flags = await work.sql.fetch("SELECT symbol_id, flags FROM ingest.bars ORDER BY symbol_id, ts")
    assert [tuple(row) for row in flags] == [(a, 0), (a, 0), (b, 0), (b, GAP)]


async def test_the_same_again_changes_nothing(work):
    said = {one: {day: day for day in range(1, 9)} for one in work.ids}
    await write(work, await start(work, 1, 8), batch(work, 1, 8, said))
    done = await write(work, await start(work, 1, 8), batch(work, 1, 8, said))
    assert [(one.inserted, one.updated, one.unchanged) for one in done] == [(0, 0, 16), (0, 0, 16)]
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.bar_revisions") == 0


async def test_a_source_without_vwap_keeps_the_stored_one_and_an_earlier_answer_completes_it(work):
    a, b = work.ids[:2]
    await write(work, await start(work, 1, 1), batch(work, 1, 1, {a: {1: 5}}))
    await write(work, await start(work, 1, 1), batch(work, 1, 1, {a: {1: 6}, b: {1: 6}}, vwap=False))
    early = datetime(2024, 1, 2, 1, tzinfo=UTC)
    await write(work, await start(work, 1, 1), batch(work, 1, 1, {b: {1: 4}}, fetched=early))
    rows = await work.sql.fetch("SELECT close, vwap FROM ingest.bars ORDER BY symbol_id")
    assert [(row["close"], row["vwap"]) for row in rows] == [(6, 5), (6, 4)]


async def test_an_answer_of_the_provider_that_is_later_wins_and_one_that_is_earlier_does_not(work):
    """A file counts as published on the day after its day: bars asked for in between give way to it."""
    a = work.ids[0]
    claim = await ask(work, a, 1, 10)
    await parts.write(work.db, part(work, claim, dict.fromkeys(range(1, 11), 1), datetime(2024, 1, 5, tzinfo=UTC)))
    said = {a: dict.fromkeys(range(1, 11), 2)}
    done = await write(work, await start(work, 1, 10), batch(work, 1, 10, said))
    # The file of the third was published on the fourth, before the answer; that of the fourth after it.
    assert await closes(work, a) == {day: (1 if day < 4 else 2) for day in range(1, 11)}
    assert done[0].superseded == {day_of(date(2024, 1, day)): 1 for day in (1, 2, 3)}
    late = await ask(work, a, 1, 10)
    await parts.write(work.db, part(work, late, dict.fromkeys(range(1, 11), 3), datetime(2024, 1, 9, tzinfo=UTC)))
    assert await closes(work, a) == {day: (3 if day < 8 else 2) for day in range(1, 11)}
    await recount(work, DAY)


async def test_what_was_deleted_stays_so_unless_all_is_fetched_again(work):
    a = work.ids[0]
    await write(work, await start(work, 1, 3), batch(work, 1, 3, {a: {1: 5, 2: 5, 3: 5}}))
    await work.sql.execute("UPDATE ingest.series SET deleted = '{[2024-01-04,2024-01-06)}'")
    said = {a: {4: 5, 5: 5, 6: 5}}
    await write(work, await start(work, 4, 6, mode=1), batch(work, 4, 6, said))
    assert list(await closes(work, a)) == [1, 2, 3, 6]
    await write(work, await start(work, 4, 6, mode=2), batch(work, 4, 6, said))
    assert list(await closes(work, a)) == [1, 2, 3, 4, 5, 6]
    assert await work.sql.fetchval("SELECT deleted = '{}' FROM ingest.series")
    await recount(work, DAY)


async def test_refused_bars_are_kept_with_their_series_and_those_of_unknown_tickers_without(work):
    a = work.ids[0]
    rejects = [(a, "X:C0USD", Reject(0, "HIGH_LOW", "raw")), (None, "NOBODY", Reject(0, "UNKNOWN_TICKER", "raw"))]
    for _ in range(2):
        await write(work, await start(work, 1, 1), batch(work, 1, 1, {}, rejects=rejects))
    rows = await work.sql.fetch("SELECT symbol_id, ticker FROM ingest.rejected_bars ORDER BY symbol_id")
    assert [tuple(row) for row in rows] == [(a, "X:C0USD"), (None, "NOBODY")]
    assert (await work.series(a))["rejected"] == 1


async def test_a_part_of_a_slice_that_went_to_another_worker_writes_nothing(work):
    claim = await start(work, 1, 1)
    await work.sql.execute("UPDATE ingest.slices SET token = token + 1")
    whole = batch(work, 1, 1, {work.ids[0]: {1: 5}})
    assert await many.write(work.db, claim, whole, done=True) is None
    assert await many.write(work.db, claim, whole.take(0, 0), done=True) is None
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.bars") == 0


async def test_a_paused_slice_goes_back_after_its_part_and_on_from_there(work):
    claim = await start(work, 1, 1)
    whole = batch(work, 1, 1, {one: {1: 5} for one in work.ids})
    await work.sql.execute("UPDATE ingest.slices SET held = true")
    first = await many.write(work.db, claim, next(cut(whole, series=1)), done=False)
    assert first.state == PENDING
    await work.sql.execute("UPDATE ingest.slices SET held = false")
    again = await slices.claim(work.db, "tests", LEASE, [MARKET])
    assert again.position == work.ids[0]
    await write(work, again, whole)
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.bars") == SYMBOLS


async def test_a_slice_that_is_given_up_ends_with_its_reason(work):
    claim = await start(work, 1, 1)
    assert await slices.close(work.db, claim, FAILED, "no such file") == FAILED
    (row,) = await work.slices()
    assert (row["reason"], row["write_id"], row["requests"]) == ("no such file", None, 0)
    assert await slices.close(work.db, claim, FAILED, "again") is None


async def test_any_order_of_answers_and_kills_ends_in_the_same_tables(work):
    """Days and spans of many series beside answers for one, with a time each; some connections broken on the way."""
    chance = random.Random(5)
    for timeframe in (DAY, MINUTE, DAY):
        said = [one_of_many(chance, work, timeframe) for _ in range(5)] + [
            one_alone(chance, work, timeframe) for _ in range(4)
        ]
        found = []
        for order in (range(9), chance.sample(range(9), 9), chance.sample(range(9), 9)):
            await work.empty(*WRITTEN)
            for at in order:
                await disturbed(work, said[at], timeframe, chance)
            await recount(work, timeframe)
            found.append(await work.tables(slices=False))
        for name in found[0]:
            assert [one[name] for one in found[1:]] == [found[0][name]] * 2, name


def one_of_many(chance, work, timeframe):
    """Returns a span, and for most series what it holds of each of its days."""
    first = chance.randint(1, 28)
    last = chance.choice((first, min(first + 3, 31)))
    minutes = (0, 7, 1000) if timeframe == MINUTE else (0,)
    times = [(day, minute) for day in range(first, last + 1) for minute in minutes]
    fetched = datetime(2024, 1, last, 16, chance.randint(0, 59), chance.randint(0, 59), tzinfo=UTC) + timedelta(days=1)
    values = {one: {time: chance.choice((10, 11, 100)) for time in times} for one in work.ids if chance.random() < 0.8}
    return first, last, values, fetched


def one_alone(chance, work, timeframe):
    """Returns the same of one series, asked for at any time; some bars are missing."""
    first = chance.randint(1, 25)
    last = chance.randint(first, first + 6)
    fetched = datetime(2024, 1, chance.randint(1, 31), chance.randint(0, 23), 1, chance.randint(0, 59), tzinfo=UTC)
    minutes = (0, 7, 1000) if timeframe == MINUTE else (0,)
    times = [(day, minute) for day in range(first, last + 1) for minute in minutes]
    values = {time: chance.choice((10, 11, 100)) for time in times if chance.random() < 0.8}
    return first, last, {chance.choice(work.ids): values}, fetched


async def disturbed(work, said, timeframe, chance):
    """Writes an answer; once its connection may break in the middle, and whoever takes the slice up goes on."""
    first, last, values, fetched = said
    alone = len(values) == 1 and chance.random() < 2 and fetched.minute == 1
    if alone:
        ((whose, own),) = values.items()
        claim = await ask(work, whose, first, last, timeframe)
        await parts.write(work.db, part(work, claim, own, fetched, timeframe))
        return
    whole = batch(work, first, last, values, timeframe, fetched=fetched)
    claim = await start(work, first, last, timeframe)
    writing = asyncio.create_task(write(work, claim, whole, series=1))
    await asyncio.wait([writing], timeout=chance.random() * 0.03)
    await work.sql.execute(KILL)
    with suppress(MdwError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await writing
    await slices.free_lost(work.db, lambda owner: owner == "tests")
    again = await slices.claim(work.db, "tests", LEASE, [MARKET])
    if again is not None:
        await write(work, again, whole, series=3)


async def ask(work, symbol, first, last, timeframe=DAY):
    await work.start(Ask(symbol, "X", f"2024-01-{first:02}", f"2024-01-{last:02}", timeframe, CRYPTO))
    return await slices.claim(work.db, "tests", LEASE)


def part(work, claim, values, fetched, timeframe=DAY):
    """Makes a part of one series that was asked for at a time of the tests'."""
    claim = replace(claim, fetch_time=fetched)
    span = SliceSpan.of(timeframe, work.calendars["24/7"], day_of(claim.first_date), day_of(claim.last_date))
    made = bars({time_of(time): close for time, close in values.items()})
    return parts.Part(claim, span, made, [], span.end_ms)


async def closes(work, symbol):
    rows = await work.sql.fetch("SELECT ts, close FROM ingest.bars WHERE symbol_id = $1 ORDER BY ts", symbol)
    return {row["ts"].day: row["close"] for row in rows}


async def recount(work, timeframe):
    """Compares figures, flags and tails of all series with a fresh count and judgement of their bars."""
    for series in await work.sql.fetch("SELECT * FROM ingest.series"):
        key = (series["symbol_id"], timeframe)
        rows = await work.sql.fetch(
            "SELECT * FROM ingest.bars WHERE symbol_id = $1 AND timeframe = $2 ORDER BY ts", *key
        )
        own = bars({to_ms(row["ts"]): row["close"] for row in rows})
        flags = judge(own, NO_CONTEXT).tolist()
        assert [row["flags"] & 15 for row in rows] == flags
        good = sum(flag in {0, 4, 8} for flag in flags)
        ends = (rows[0]["ts"], rows[-1]["ts"]) if rows else (None, None)
        days = len({row["ts"].date() for row in rows})
        assert (series["bars"], series["validated"], series["sessions_present"]) == (len(rows), good, days)
        assert (series["first_ts"], series["last_ts"]) == ends
        tail = decode_tail(series["tail"])
        assert tail.ts.tolist() == own.ts[-20:].tolist()
        if timeframe == MINUTE:
            counted = await work.sql.fetchrow(
                "SELECT count(*), coalesce(sum(bars), 0) FROM ingest.minute_sessions WHERE symbol_id = $1", key[0]
            )
            assert tuple(counted) == (days, len(rows))
