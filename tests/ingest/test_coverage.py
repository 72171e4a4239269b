"""GetCoverage: which sessions are held, and for each hole why it is one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import asyncpg
import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdw.ingest.v1 import ingest_pb2
from services.ingest.calendar import EVERY_DAY, Sessions, date_of, day_of
from services.ingest.coverage import UNEXPECTED, Facts, Ledger, OpenWork, Suspect, Why, cover
from services.ingest.store.symbols import Symbol, TickerSpan
from services.ingest.timeframes import DAY_MS
from tests.ingest.backfilling import CRYPTO, DAY, MINUTE, STOCK, at
from tests.support import make_key

Reason = ingest_pb2.Hole.Reason
JANUARY = {"start_time": at("2024-01-01"), "end_time": at("2024-02-01")}

INSERT_BAR = """
INSERT INTO ingest.bars (ts, open, high, low, close, vwap, volume, symbol_id, trade_count, write_id, timeframe, flags)
SELECT day::timestamptz, 1, 1, 1, 1, 1, 1, $1, 1, 0, 7, 0
FROM unnest($2::date[]) AS day
"""
INSERT_SERIES = """
INSERT INTO ingest.series (symbol_id, timeframe, asked, failed, outside_plan, deleted, last_error)
VALUES ($1, $2, $3, $4, $5, $6, 'no such thing')
"""


def dates(first, last):
    return [date.fromisoformat(first) + timedelta(days=n) for n in range((d(last) - d(first)).days + 1)]


def d(text):
    return date.fromisoformat(text)


async def series(ingest, symbol_id, timeframe=DAY, *, held=(), **ranges):
    """Writes a series with the days that it holds, and ranges of dates as (first, end) by name."""
    columns = [
        [asyncpg.Range(d(first), d(end)) for first, end in ranges.get(name, ())]
        for name in ("asked", "failed", "outside_plan", "deleted")
    ]
    await ingest.sql.execute(INSERT_SERIES, symbol_id, timeframe, *columns)
    await ingest.sql.execute("SET TIME ZONE 'UTC'")
    await ingest.sql.execute(INSERT_BAR, symbol_id, list(held))


async def coverage(ingest, **fields):
    answer = await ingest.call("GetCoverage", **{"timeframe": DAY, **JANUARY, **fields})
    return answer.series[0]


def holes(found, name="holes"):
    return [(hole.first_date[5:], hole.last_date[5:], Reason.Name(hole.reason)) for hole in getattr(found, name)]


SUSPECTS = """
INSERT INTO ingest.suspects
VALUES ($1, 7, '2024-01-11', '2024-01-12', 2, now(), now() + interval '1 day', ''),
       ($1, 7, '2024-01-16', '2024-01-17', 4, NULL, NULL, 'enough')
"""
ALL_HOLES = [
    ("01-02", "01-02", "BEFORE_LISTING"),
    ("01-03", "01-04", "BEFORE_FIRST_BAR"),
    ("01-05", "01-05", "NO_BARS"),
    ("01-10", "01-10", "DELETED"),
    ("01-11", "01-12", "SUSPECT"),
    ("01-16", "01-17", "GIVEN_UP"),
    ("01-18", "01-19", "NO_BARS"),
    ("01-22", "01-22", "FAILED"),
    ("01-23", "01-23", "OUTSIDE_PLAN"),
    ("01-24", "01-29", "NEVER_ASKED"),
    ("01-30", "01-30", "IN_PROGRESS"),
    ("01-31", "01-31", "NEVER_ASKED"),
]


async def test_every_hole_has_its_reason(ingest):
    aapl = await ingest.symbol("AAPL")
    await ingest.sql.execute("UPDATE symbols.symbols SET list_date = '2024-01-03' WHERE symbol_id = $1", aapl)
    await ingest.start(tickers=["AAPL"], start_time=at("2024-01-30"), end_time=at("2024-01-31"))
    await ingest.sql.execute("DELETE FROM ingest.series")
    await series(
        ingest,
        aapl,
        held=dates("2024-01-08", "2024-01-09"),
        asked=[("2024-01-03", "2024-01-20")],
        failed=[("2024-01-22", "2024-01-23")],
        outside_plan=[("2024-01-23", "2024-01-24")],
        deleted=[("2024-01-10", "2024-01-11")],
    )
    await ingest.sql.execute(SUSPECTS, aapl)
    await ingest.sql.execute("UPDATE ingest.series SET bars = 1, first_ts = '2024-01-05Z', last_ts = '2024-01-09Z'")
    found = await coverage(ingest, tickers=["AAPL"])
    assert holes(found) == ALL_HOLES
    assert (found.sessions_expected, found.sessions_present, found.sessions_missing) == (18, 2, 16)
    told = {hole.reason: hole for hole in found.holes}
    assert (told[Reason.SUSPECT].asks, told[Reason.GIVEN_UP].detail, told[Reason.FAILED].detail) == (
        2,
        "enough",
        "no such thing",
    )
    assert told[Reason.SUSPECT].HasField("next_ask_time")
    assert not told[Reason.GIVEN_UP].HasField("next_ask_time")


async def test_what_waits_for_a_person_says_what_for(ingest):
    await ingest.symbol("AAPL")
    backfill_id = (await ingest.start(tickers=["AAPL"], end_time=at("2024-02-01"))).backfill.backfill_id

    async def told():
        (hole,) = (await coverage(ingest, tickers=["AAPL"])).holes
        return Reason.Name(hole.reason), hole.detail

    assert await told() == ("IN_PROGRESS", "")
    await ingest.call("PauseBackfill", backfill_id=backfill_id, reason="the key is renewed")
    assert await told() == ("IN_PROGRESS", "paused: the key is renewed")
    await ingest.call("PauseBackfill", backfill_id=backfill_id)
    assert await told() == ("IN_PROGRESS", f"paused by key {ingest.key[:12]}")


async def test_holes_join_over_weekends_and_holidays(ingest):
    await ingest.symbol("AAPL")
    found = await coverage(ingest, tickers=["AAPL"])
    assert holes(found) == [("01-02", "01-31", "NEVER_ASKED")]
    assert found.holes[0].sessions == 21


async def test_crypto_is_expected_every_day_and_nothing_is_beyond_the_last_closed_session(ingest):
    btc = await ingest.symbol("BTC-USD", CRYPTO)
    today = datetime.now(UTC).date()
    await series(ingest, btc, held=[today - timedelta(days=1), today - timedelta(days=3)])
    span = {"start_time": at(str(today - timedelta(days=4))), "end_time": at(str(today + timedelta(days=30)))}
    found = await coverage(ingest, tickers=["BTC"], **span)
    assert (found.sessions_expected, found.sessions_present, found.sessions_missing) == (4, 2, 2)


async def test_of_minutes_it_says_the_share_of_regular_hours_and_what_may_be_thin(ingest):
    aapl = await ingest.symbol("AAPL")
    await series(ingest, aapl, MINUTE, asked=[("2024-01-02", "2024-01-05")])
    await ingest.sql.executemany(
        "INSERT INTO ingest.minute_sessions VALUES ($1, $2, 700, $3)",
        [(aapl, d("2024-01-02"), 390), (aapl, d("2024-01-03"), 39), (aapl, d("2024-01-05"), 195)],
    )
    await ingest.sql.execute(
        "INSERT INTO ingest.suspects VALUES ($1, 1, '2024-01-03', '2024-01-04', 1, now(), now(), '')", aapl
    )
    span = {"start_time": at("2024-01-02"), "end_time": at("2024-01-06")}
    found = await coverage(ingest, tickers=["AAPL"], timeframe=MINUTE, **span)
    assert holes(found) == [("01-04", "01-04", "SUSPECT")]
    assert holes(found, "doubtful") == [("01-03", "01-03", "SUSPECT"), ("01-05", "01-05", "NEVER_ASKED")]
    assert found.regular_share == pytest.approx((390 + 39 + 195) / (4 * 390))
    assert not (await coverage(ingest, tickers=["AAPL"])).HasField("regular_share")


async def test_a_derived_timeframe_is_covered_by_its_base(ingest):
    await ingest.symbol("AAPL")
    assert (await coverage(ingest, tickers=["AAPL"], timeframe=4)).timeframe == MINUTE


async def test_after_its_last_ticker_nothing_is_expected(ingest):
    await ingest.symbol("OLD", spans=(("OLD", date(2000, 1, 1), date(2024, 1, 10)),))
    assert holes(await coverage(ingest, tickers=["OLD"])) == [
        ("01-02", "01-10", "NEVER_ASKED"),
        ("01-11", "01-31", "AFTER_DELISTING"),
    ]


async def test_many_symbols_come_in_pages(ingest):
    ids = [await ingest.symbol(ticker) for ticker in ("A", "B", "C")]
    first = await ingest.call("GetCoverage", all_active=True, timeframe=DAY, page_size=2, **JANUARY)
    rest = await ingest.call(
        "GetCoverage", all_active=True, timeframe=DAY, page_size=2, page_token=first.next_page_token, **JANUARY
    )
    assert [one.symbol_id for one in [*first.series, *rest.series]] == ids
    assert rest.next_page_token == ""
    assert await ingest.refused(
        "GetCoverage", tickers=["A"], timeframe=DAY, page_token=first.next_page_token, **JANUARY
    ) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"timeframe": 0}, "FIELD_INVALID"),
        ({"tickers": []}, "FIELD_INVALID"),
        ({"start_time": at("2024-01-01T10:00:00Z")}, "FIELD_INVALID"),
        ({"end_time": at("2023-01-01")}, "FIELD_INVALID"),
        ({"end_time": at("2040-01-01")}, "CALENDAR_HORIZON"),
        ({"tickers": ["NONE"]}, "SYMBOL_NOT_FOUND"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(ingest, fields, reason):
    await ingest.symbol("AAPL")
    refused = await ingest.refused("GetCoverage", **{"tickers": ["AAPL"], "timeframe": DAY, **JANUARY, **fields})
    assert refused[1] == reason


async def test_who_may_read_bars_may_ask_for_coverage(ingest, database):
    await ingest.symbol("AAPL")
    for scope in ("bars.read", "ingest.read"):
        await ingest.call("GetCoverage", await make_key(database, scope), tickers=["AAPL"], timeframe=DAY, **JANUARY)
    assert (await ingest.refused("GetCoverage", key=await make_key(database, "symbols.read")))[1] == "SCOPE_MISSING"


SOME_DAYS = np.arange(day_of(date(2024, 1, 1)), day_of(date(2024, 3, 1)))
CALENDAR = Sessions(
    EVERY_DAY, SOME_DAYS[SOME_DAYS % 7 > 1], *(SOME_DAYS[SOME_DAYS % 7 > 1] * DAY_MS + ms for ms in (0, DAY_MS))
)
FIRST, END = int(SOME_DAYS[0]), int(SOME_DAYS[-1]) + 1
day = st.integers(FIRST - 5, END + 5)
spans = st.lists(st.tuples(day, day).map(sorted).map(tuple), max_size=4)


@st.composite
def facts(draw):
    span = TickerSpan(STOCK, "A", "A", date(2024, 1, 1), None)
    runs = sorted({first: end for first, end in draw(spans) if first < end}.items())
    held = np.array(sorted(draw(st.sets(st.sampled_from(CALENDAR.days.tolist())))), np.int64)
    return Facts(
        symbol=Symbol(1, True, (DAY,), None, None, (span,)),
        timeframe=draw(st.sampled_from([DAY, MINUTE])),
        listed=tuple(draw(spans)),
        ledger=Ledger(
            asked=tuple(draw(spans)),
            failed=tuple(draw(spans)),
            outside_plan=tuple(draw(spans)),
            deleted=tuple(draw(spans)),
            first_bar=draw(st.none() | day),
        ),
        suspects=[Suspect(first, end, 1, None, draw(st.sampled_from(["", "enough"]))) for first, end in runs],
        open_work=[OpenWork(first, end, "") for first, end in draw(spans)],
        present=held,
        regular=np.ones(len(held), np.int64),
    )


@settings(max_examples=150, deadline=None)
@given(facts(), day, day, day)
def test_sessions_held_and_holes_are_together_all_sessions_of_the_span_each_once(known, first, end, closed):
    found = cover(known, CALENDAR, first, end, closed)
    asked = [one for one in CALENDAR.days.tolist() if first <= one < end]
    held = [one for one in asked if one in known.present]
    missing = [one for hole in found.holes for one in CALENDAR.days.tolist() if hole.first <= one <= hole.last]
    assert sorted(held + missing) == asked
    assert [hole.sessions for hole in found.holes] == [
        CALENDAR.count(hole.first, hole.last + 1) for hole in found.holes
    ]
    assert found.present == len(held)
    assert found.expected == found.present + found.missing
    doubted = {one for hole in found.doubtful for one in asked if hole.first <= one <= hole.last}
    assert doubted <= set(held)
    assert all(hole.why not in UNEXPECTED for hole in found.doubtful)
    joined = list(zip(found.holes, found.holes[1:], strict=False))
    assert all(before.last < after.first for before, after in joined)


def test_reasons_are_numbered_as_in_the_contract():
    assert {why.name: why.value for why in Why} == {name: number for name, number in Reason.items() if number}
    assert date_of(FIRST) == date(2024, 1, 1)
