"""Sessions that came empty or thin: noted in the part, asked again, cleared when filled, given up in the end."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest

from deploy.local.faults import parse_faults
from mdw.ingest.v1 import ingest_pb2
from tests.ingest.backfilling import ETF, MINUTE, at
from tests.ingest.working import DAY, Desk, replaying

REFETCH = ingest_pb2.BACKFILL_MODE_REFETCH
SUSPECTS = """
SELECT first_date::text, last_date::text, asks, gave_up_reason
FROM ingest.suspects
WHERE symbol_id = $1 AND timeframe = $2
ORDER BY first_date
"""
LET_TIME_PASS = "UPDATE ingest.suspects SET counts_from = clock_timestamp(), next_ask_time = clock_timestamp()"


@pytest.fixture(scope="module")
async def replay():
    async with replaying() as running:
        yield running


@pytest.fixture
async def work(ingest, replay):
    made = Desk(ingest.sql, ingest.server.db, replay.url)
    made.replay = replay
    yield made
    for worker in made.workers:
        await worker._fetcher._polygon.close()


async def suspects(work, symbol_id, timeframe=DAY):
    return [tuple(row) for row in await work.sql.fetch(SUSPECTS, symbol_id, timeframe)]


async def fetch(ingest, work, ticker, first, end, *, faults="", timeframe=DAY, mode=0):
    """Backfills a span from the replay and returns the job."""
    answer = await ingest.start(
        tickers=[ticker], timeframes=[timeframe], start_time=at(first), end_time=at(end), mode=mode
    )
    work.replay.faults = parse_faults(faults)
    await work.drain(await work.worker(work.url))
    return await ingest.get(answer.backfill.backfill_id)


async def test_days_that_came_empty_are_suspect_and_the_next_backfill_brings_them(ingest, work):
    spy = await ingest.symbol("SPY", ETF)
    await fetch(ingest, work, "SPY", "2018-01-02", "2018-02-01")
    lost = await fetch(ingest, work, "SPY", "2018-02-01", "2018-03-01", faults="empty:times=1")
    assert (lost.state, lost.progress.bars_inserted) == (ingest_pb2.Backfill.SUCCEEDED, 0)
    assert await suspects(work, spy) == [("2018-02-01", "2018-02-28", 1, "")]
    found = await fetch(ingest, work, "SPY", "2018-01-02", "2018-03-01")
    assert (found.progress.slices_total, found.progress.bars_inserted) == (1, 19)
    assert await suspects(work, spy) == []
    held = await fetch(ingest, work, "SPY", "2018-01-02", "2018-03-01")
    assert held.progress.slices_total == 0


async def test_a_series_without_any_bar_is_suspect_from_its_listing_on(ingest, work):
    spy = await ingest.symbol("SPY", ETF)
    await ingest.sql.execute("UPDATE symbols.symbols SET list_date = '2018-01-20' WHERE symbol_id = $1", spy)
    await fetch(ingest, work, "SPY", "2018-01-02", "2018-02-01", faults="empty:times=1")
    assert await suspects(work, spy) == [("2018-01-22", "2018-01-31", 1, "")]


async def test_of_a_series_without_any_bar_the_ticker_is_doubted(ingest, work):
    nix = await ingest.symbol("NIX")
    for _ in range(4):
        await ingest.sql.execute(LET_TIME_PASS)
        await fetch(ingest, work, "NIX", "2018-01-02", "2018-02-01")
    words = "no bar at all after 4 answers: does the provider know the ticker?"
    assert await suspects(work, nix) == [("2018-01-02", "2018-01-31", 4, words)]
    coverage = await ingest.call("GetCoverage", tickers=["NIX"], timeframe=DAY, start_time=at("2018-01-02"))
    assert words in {hole.detail for hole in coverage.series[0].holes}


async def test_what_lies_before_the_first_bar_is_suspect_only_until_a_bar_is_known(ingest, work):
    spy = await ingest.symbol("SPY", ETF)
    await fetch(ingest, work, "SPY", "2016-12-01", "2017-01-01")
    assert await suspects(work, spy) == [("2016-12-01", "2016-12-30", 1, "")]
    await fetch(ingest, work, "SPY", "2017-01-01", "2017-02-01")
    assert await suspects(work, spy) == []
    await fetch(ingest, work, "SPY", "2016-11-01", "2016-12-01")
    assert await suspects(work, spy) == []


async def test_nothing_is_suspect_after_the_delisting(ingest, work):
    spy = await ingest.symbol("SPY", ETF)
    await ingest.sql.execute("UPDATE symbols.symbols SET delist_date = '2019-01-03' WHERE symbol_id = $1", spy)
    await fetch(ingest, work, "SPY", "2018-12-03", "2019-02-01")
    assert await suspects(work, spy) == [("2019-01-02", "2019-01-03", 1, "")]


async def test_the_same_answer_within_minutes_is_not_one_more(ingest, work):
    spy = await ingest.symbol("SPY", ETF)
    await fetch(ingest, work, "SPY", "2018-12-03", "2019-02-01")
    await fetch(ingest, work, "SPY", "2018-12-03", "2019-02-01")
    assert [asks for _, _, asks, _ in await suspects(work, spy)] == [1]


async def test_waits_grow_and_in_the_end_it_is_given_up_with_a_reason(ingest, work):
    spy = await ingest.symbol("SPY", ETF)
    waits = []
    for _ in range(4):
        await ingest.sql.execute(LET_TIME_PASS)
        await fetch(ingest, work, "SPY", "2018-12-03", "2019-02-01")
        waits.append(await ingest.sql.fetchval("SELECT next_ask_time - clock_timestamp() FROM ingest.suspects"))
    assert [round(wait / timedelta(days=1)) for wait in waits[:3]] == [1, 4, 16]
    assert waits[3] is None
    assert await suspects(work, spy) == [("2019-01-02", "2019-01-31", 4, "still empty or thin after 4 answers")]
    assert (await fetch(ingest, work, "SPY", "2018-12-03", "2019-02-01")).progress.slices_total == 0
    await fetch(ingest, work, "SPY", "2018-12-03", "2019-02-01", mode=REFETCH)
    assert len(await suspects(work, spy)) == 1


async def test_an_answer_changes_only_the_sessions_that_it_is_about(ingest, work):
    spy = await ingest.symbol("SPY", ETF)
    await fetch(ingest, work, "SPY", "2018-12-03", "2019-03-01")
    await ingest.sql.execute(LET_TIME_PASS)
    await fetch(ingest, work, "SPY", "2019-01-15", "2019-02-01", mode=REFETCH)
    assert await suspects(work, spy) == [
        ("2019-01-02", "2019-01-14", 1, ""),
        ("2019-01-15", "2019-01-31", 2, ""),
        ("2019-02-01", "2019-02-28", 1, ""),
    ]


async def test_a_session_with_too_few_minutes_is_suspect_though_it_has_bars(ingest, work):
    """The replay's minutes of SPY are 2020-12-15 to 18; sessions before are made up, each with all of its minutes."""
    spy = await ingest.symbol("SPY", ETF)
    usual = [date(2020, 12, 7) + timedelta(days=day) for day in (0, 1, 2, 3, 4, 7)]
    await ingest.sql.executemany(
        "INSERT INTO ingest.minute_sessions VALUES ($1, $2, 390, 390)", [(spy, day) for day in usual]
    )
    await ingest.sql.execute(
        "INSERT INTO ingest.series (symbol_id, timeframe, bars, first_ts, last_ts) VALUES ($1, 1, 1, $2, $2)",
        spy,
        datetime(2020, 12, 7, 15, tzinfo=UTC),
    )
    await fetch(ingest, work, "SPY", "2020-12-15", "2020-12-22", timeframe=MINUTE)
    assert await suspects(work, spy, MINUTE) == [("2020-12-21", "2020-12-21", 1, "")]
    await ingest.sql.execute("UPDATE ingest.minute_sessions SET regular_bars = 100 WHERE session_date = '2020-12-16'")
    await fetch(ingest, work, "SPY", "2020-12-15", "2020-12-22", timeframe=MINUTE, mode=REFETCH)
    found = await suspects(work, spy, MINUTE)
    assert ("2020-12-16", "2020-12-16", 1, "") in found


async def test_a_symbol_that_is_deleted_takes_its_suspects_along(ingest, work):
    spy = await ingest.symbol("SPY", ETF)
    await fetch(ingest, work, "SPY", "2016-12-01", "2017-01-01")
    assert await ingest.sql.fetchval("SELECT ingest.forget_symbol($1)", spy)
    assert await suspects(work, spy) == []


CALENDAR = (
    "SELECT session_date FROM ingest.sessions WHERE calendar = 'XNYS' AND session_date BETWEEN $1 AND $2 ORDER BY 1"
)
ANSWER = """
WITH told AS (
  INSERT INTO ingest.bars (ts, open, high, low, close, vwap, volume, symbol_id, trade_count, write_id, timeframe, flags)
  SELECT day::timestamp AT TIME ZONE 'UTC', 1, 1, 1, 1, 1, 1, $1, 1, 0, 7, 0
  FROM unnest($2::date[]) AS day
)
UPDATE ingest.series
SET asked = asked + datemultirange(daterange($3, $4)), bars = $5, first_ts = $6, last_ts = $6
WHERE symbol_id = $1
"""
NOTE_ONE = "SELECT ingest.note_suspects($1, 7::smallint, 'XNYS', $2, $3, $4, $4)"
NOTE_MANY = """
SELECT ingest.note_many_suspects(
  ARRAY[$1::int], 7::smallint, 'XNYS', ARRAY[$2::date], ARRAY[$3::date],
  array_fill($1::int, ARRAY[cardinality($4::date[])]), $4, $4)
"""
EXPLODED = """
SELECT c.session_date, s.asks
FROM ingest.suspects s
JOIN ingest.sessions c ON c.calendar = 'XNYS' AND c.session_date BETWEEN s.first_date AND s.last_date
WHERE s.symbol_id = $1
"""


@pytest.mark.parametrize("note", [NOTE_ONE, NOTE_MANY], ids=["one", "many"])
async def test_after_any_answers_in_any_order_suspect_is_what_was_asked_for_and_is_empty(ingest, note):
    """A model of a series beside the database: 80 random answers, some empty, some filling what was empty before."""
    chance = Random(7)
    spy = await ingest.symbol("SPY", ETF)
    await ingest.sql.execute("INSERT INTO ingest.series (symbol_id, timeframe) VALUES ($1, 7)", spy)
    days = [row[0] for row in await ingest.sql.fetch(CALENDAR, date(2018, 1, 2), date(2018, 4, 30))]
    asked, held, asks = set(), set(), {}
    for _ in range(80):
        first = chance.randrange(len(days) - 1)
        answered = days[first : first + chance.randint(1, 15)]
        end = days[min(first + len(answered), len(days) - 1)] if answered[-1] != days[-1] else date(2018, 5, 1)
        new = {day for day in answered if day not in held and chance.random() < 0.1}
        asked, held = asked | set(answered), held | new
        start = min(held, default=date.min)
        bare = {day for day in asked - held if day >= start}
        asks = {day: asks.get(day, 0) + (day in answered or day not in asks) for day in bare}
        asks = {day: min(count, 4) for day, count in asks.items()}
        instant = datetime(start.year, start.month, start.day, tzinfo=UTC) if held else None
        await ingest.sql.execute(ANSWER, spy, sorted(new), answered[0], end, len(held), instant)
        await ingest.sql.execute(note, spy, answered[0], end, [day for day in answered if day not in held])
        assert dict(await ingest.sql.fetch(EXPLODED, spy)) == asks
        await ingest.sql.execute(LET_TIME_PASS + " WHERE next_ask_time IS NOT NULL")
    runs = await suspects(work=ingest, symbol_id=spy)
    assert all(before[1] < after[0] for before, after in pairwise(runs))
