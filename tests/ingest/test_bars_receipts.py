"""What an answer says about itself: sessions expected and missing, bars left out, why it is empty."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mdw.ingest.v1 import bars_pb2
from services.ingest.reading.wire import CHUNK
from tests.ingest.bars_support import at, direct_bars, to_time
from tests.ingest.history import CRYPTO, MINUTE, History, Row, day, days
from tests.ingest.test_bars_rollup import PARTIAL, XNYS, plain_roll

M1, M5, M30, H1, H4, D1, W1 = 1, 2, 4, 5, 6, 7, 8
NEW_YORK = ZoneInfo("America/New_York")
Receipt = bars_pb2.Receipt


SUSPECT = """
INSERT INTO ingest.suspects (symbol_id, timeframe, first_date, last_date, asks, counts_from, next_ask_time,
                             gave_up_reason)
VALUES ($1, 7, $2, $3, 1, $4, $4, $5)
"""


@pytest.fixture
async def history(database):
    return History(database.ingest_url, database.admin_url)


@pytest.fixture
async def bars(database):
    async with direct_bars(database) as bars:
        yield bars


def new_york(text, **values):
    return Row(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK), **values)


async def counted(bars, ticker, timeframe, **fields):
    """Returns expected and missing sessions, which both ways to read must agree on."""
    listed = (await bars.list(ticker=ticker, timeframe=timeframe, **fields)).receipt
    streamed = (await bars.streamed(tickers=[ticker], timeframe=timeframe, **fields)).receipt
    assert listed == streamed
    return listed.sessions_expected, listed.sessions_missing


async def test_sessions_count_between_the_first_and_the_last_bar(history, bars):
    aapl = await history.symbol("AAPL")
    # July 4 is a holiday, 6 and 7 a weekend; July 3 and 9 are missing.
    await history.write(aapl, [day(f"2024-07-{number:02}") for number in (1, 2, 5, 8, 10)])
    assert await counted(bars, "AAPL", D1) == (7, 2)
    assert await counted(bars, "AAPL", D1, start_time=at("2024-06-01"), end_time=at("2024-08-01")) == (7, 2)
    assert await counted(bars, "AAPL", D1, start_time=at("2024-07-03"), end_time=at("2024-07-06")) == (2, 1)
    assert await counted(bars, "AAPL", D1, start_time=at("2024-07-03"), end_time=at("2024-07-04")) == (1, 1)
    assert await counted(bars, "AAPL", D1, start_time=at("2024-07-04"), end_time=at("2024-07-05")) == (0, 0)
    assert await counted(bars, "AAPL", D1, start_time=at("2024-05-01"), end_time=at("2024-06-01")) == (0, 0)
    assert await counted(bars, "AAPL", D1, start_time=at("2024-08-01")) == (0, 0)


async def test_crypto_has_a_session_every_day(history, bars):
    coin = await history.symbol("BTC-USD", CRYPTO)
    await history.write(coin, [day("2024-07-01"), day("2024-07-07")])
    assert await counted(bars, "BTC-USD", D1) == (7, 5)


async def test_minutes_count_for_the_sessions_they_lie_in(history, bars):
    aapl = await history.symbol("AAPL")
    minutes = ("2024-07-01T04:00", "2024-07-01T19:59", "2024-07-02T09:30", "2024-07-05T09:30", "2024-07-08T20:30")
    await history.write(aapl, [new_york(minute) for minute in minutes], timeframe=MINUTE)
    assert await counted(bars, "AAPL", M1) == (5, 1)
    assert await counted(bars, "AAPL", H1, hours=bars_pb2.HOURS_REGULAR) == (5, 1)
    assert await counted(bars, "AAPL", M1, start_time=at("2024-07-02T20:00")) == (3, 1)
    assert await counted(bars, "AAPL", M1, start_time=at("2024-07-02T19:59")) == (4, 2)


async def test_a_session_whose_regular_hours_lie_outside_the_span_is_not_expected_whatever_it_holds(history, bars):
    aapl = await history.symbol("AAPL")
    minutes = ("2024-06-28T12:00", "2024-07-01T17:30", "2024-07-03T10:00", "2024-07-05T05:00", "2024-07-08T12:00")
    await history.write(aapl, [new_york(minute) for minute in minutes], timeframe=MINUTE)
    evening, morning = at("2024-07-01T21:00"), at("2024-07-05T10:00")  # 17:00 and 06:00 in New York
    assert await counted(bars, "AAPL", M1, start_time=evening, end_time=morning) == (2, 1)
    assert await counted(bars, "AAPL", M1, start_time=at("2024-07-05T08:00"), end_time=morning) == (0, 0)
    for order in (bars_pb2.ORDER_TIME_ASC, bars_pb2.ORDER_TIME_DESC):
        for start in (evening, at("2024-07-05T08:00")):
            fields = {"ticker": "AAPL", "timeframe": M1, "start_time": start, "end_time": morning}
            pages = await bars.pages(**fields, order=order, page_size=1)
            found = [(page.receipt.sessions_expected, page.receipt.sessions_missing) for page in pages]
            assert [sum(column) for column in zip(*found, strict=True)] == ([2, 1] if start == evening else [0, 0])


async def test_the_newest_windows_do_not_reach_before_the_span(history, bars):
    aapl = await history.symbol("AAPL")
    minutes = [new_york(f"2024-07-02T{time}", close=hour) for hour, time in enumerate(("10:15", "10:45", "11:15"))]
    await history.write(aapl, minutes, timeframe=MINUTE)
    for last in (1, 2, 3):
        fields = {"timeframe": H1, "start_time": at("2024-07-02T14:30"), "last": last}
        answer = await bars.streamed(tickers=["AAPL"], **fields)
        assert answer.column("open") == [1, 2][-last:]
        assert [bool(flags & PARTIAL) for flags in answer.column("flags")] == [True, False][-last:]


async def test_the_pages_of_an_answer_count_each_session_once(history, bars):
    aapl = await history.symbol("AAPL")
    rng = random.Random(7)
    start = datetime(2024, 6, 24, tzinfo=NEW_YORK)
    minutes = sorted(rng.sample(range(14 * 24 * 60), 60))
    await history.write(aapl, [Row(start + timedelta(minutes=minute)) for minute in minutes], timeframe=MINUTE)
    whole = (await bars.list(ticker="AAPL", timeframe=M1)).receipt
    for order in (bars_pb2.ORDER_TIME_ASC, bars_pb2.ORDER_TIME_DESC):
        for size in (1, 7, 23):
            pages = await bars.pages(ticker="AAPL", timeframe=M1, order=order, page_size=size)
            assert sum(page.receipt.sessions_expected for page in pages) == whole.sessions_expected
            assert sum(page.receipt.sessions_missing for page in pages) == whole.sessions_missing
            assert sum(page.receipt.bars for page in pages) == 60


async def test_an_empty_answer_says_why(history, bars):
    asked = [(date(2024, 1, 1), date(2024, 3, 1))]
    held, bare = await history.symbol("AAPL"), await history.symbol("NVDA")
    await history.write(held, [day("2024-01-02", flags=1)], asked=asked)
    cases = [
        ("NVDA", {}, Receipt.NEVER_INGESTED),
        ("AAPL", {"min_quality": 0.9}, Receipt.FILTERED),
        ("AAPL", {"start_time": at("2024-02-01")}, Receipt.NO_BARS),
        ("AAPL", {"start_time": at("2024-04-01")}, Receipt.OUTSIDE_COVERAGE),
        ("AAPL", {"start_time": at("2024-01-06"), "end_time": at("2024-01-08")}, Receipt.OUTSIDE_COVERAGE),
    ]
    for ticker, fields, why in cases:
        listed = (await bars.list(ticker=ticker, timeframe=D1, **fields)).receipt
        assert (listed.bars, listed.empty_reason) == (0, why)
        streamed = (await bars.streamed(tickers=[ticker], timeframe=D1, **fields)).receipt
        assert [(one.symbol_id, one.reason) for one in streamed.empty_series] == [
            (held if ticker == "AAPL" else bare, why)
        ]
    both = (await bars.streamed(tickers=["AAPL", "NVDA"], timeframe=D1)).receipt
    assert (both.empty_reason, [one.ticker for one in both.empty_series]) == (0, ["NVDA"])


async def test_a_span_outside_the_plan_is_told(database, history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, [day("2024-01-02")], asked=[(date(2024, 1, 1), date(2024, 3, 1))])
    async with history.begin(aapl) as write:
        await write.conn.execute(
            "UPDATE ingest.series SET outside_plan = '{[2020-01-01,2021-01-01)}' WHERE symbol_id = $1", aapl
        )
        await write.finish()
    fields = {"start_time": at("2020-02-01"), "end_time": at("2020-03-01")}
    assert (await bars.list(ticker="AAPL", timeframe=D1, **fields)).receipt.empty_reason == Receipt.OUTSIDE_PLAN


async def test_a_receipt_names_the_first_and_the_last_bar(history, bars):
    aapl, msft = await history.symbol("AAPL"), await history.symbol("MSFT")
    await history.write(aapl, days("2024-01-02", [1, 2]))
    await history.write(msft, days("2023-01-03", [1]))
    receipt = (await bars.streamed(tickers=["AAPL", "MSFT"], timeframe=D1)).receipt
    assert (receipt.first_time, receipt.last_time) == (at("2023-01-03"), at("2024-01-03"))


async def test_longer_bars_are_the_same_in_pages_and_streams_and_by_a_plain_reading(history, bars):
    aapl = await history.symbol("AAPL")
    rng = random.Random(11)
    start = datetime(2024, 6, 30, tzinfo=UTC)
    rows = [
        Row(
            start + timedelta(minutes=minute),
            close=rng.randint(1, 50),
            volume=rng.randint(1, 9),
            flags=rng.choice([0, 2, 8]),
        )
        for minute in sorted(rng.sample(range(6 * 24 * 60), 700))
    ]
    written = await history.write(aapl, rows, timeframe=MINUTE)
    await history.write(aapl, [Row(row.ts, close=99.0) for row in rows[::5]], timeframe=MINUTE)
    for timeframe in (M5, M30, H1, H4):
        for fields in ({}, {"min_quality": 0.85}, {"hours": bars_pb2.HOURS_REGULAR}):
            asked = {"timeframe": timeframe, "as_of": to_time(written), **fields}
            expected = plain(rows, timeframe, fields)
            streamed = await bars.streamed(tickers=["AAPL"], **asked)
            found = zip(*(streamed.column(name) for name in ("start_time_ms", "close", "volume")), strict=True)
            assert list(found) == expected
            for order, size in ((bars_pb2.ORDER_TIME_ASC, 40), (bars_pb2.ORDER_TIME_DESC, 33)):
                pages = await bars.pages(ticker="AAPL", **asked, order=order, page_size=size)
                listed = [bar for page in pages for bar in page.bars]
                found = [(bar.start_time.ToMilliseconds(), bar.close, bar.volume) for bar in listed]
                assert found == (expected if order == bars_pb2.ORDER_TIME_ASC else expected[::-1])
            assert sum(bool(flags & PARTIAL) for flags in streamed.column("flags")) == sum(
                bool(bar.flags & PARTIAL) for bar in listed
            )


def plain(rows, timeframe, fields):
    """Returns start, close and volume of each longer bar."""
    regular = "hours" in fields
    kept = [
        (round(row.ts.timestamp() * 1000), row.close, row.close, row.close, row.close, row.volume, row.flags)
        for row in rows
        if not ("min_quality" in fields and row.flags == 2) and not (regular and not is_regular(row.ts))
    ]
    return [(rolled[0], rolled[4], rolled[5]) for rolled in plain_roll(kept, timeframe, XNYS, regular=regular)]


def is_regular(moment):
    local = moment.astimezone(NEW_YORK)
    closes = {date(2024, 7, 1): 16, date(2024, 7, 2): 16, date(2024, 7, 3): 13, date(2024, 7, 5): 16}
    minutes = local.hour * 60 + local.minute
    return local.date() in closes and 570 <= minutes < closes[local.date()] * 60


async def test_weeks_are_made_of_days(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, [day(f"2024-07-{number:02}", close=number) for number in (1, 2, 3, 5, 8)])
    answer = await bars.list(ticker="AAPL", timeframe=W1)
    assert [(bar.session_date, bar.open, bar.close, bar.volume) for bar in answer.bars] == [
        ("2024-07-01", 1, 5, 4000),
        ("2024-07-08", 8, 8, 1000),
    ]


async def test_sessions_that_are_asked_for_again_are_suspect(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, [day("2024-07-01"), day("2024-07-12")])
    async with history.begin(aapl) as write:
        await write.conn.execute(SUSPECT, aapl, date(2024, 7, 3), date(2024, 7, 8), datetime.now(UTC), "")
        await write.conn.execute(SUSPECT, aapl, date(2024, 7, 10), date(2024, 7, 10), None, "the provider has none")
        await write.finish()
    assert (await bars.list(ticker="AAPL", timeframe=D1)).receipt.sessions_suspect == 3
    part = {"start_time": at("2024-07-05"), "end_time": at("2024-07-08")}
    assert (await bars.streamed(tickers=["AAPL"], timeframe=D1, **part)).receipt.sessions_suspect == 1


async def test_the_symbols_receipts_of_a_stream_add_up_to_its_own(database, history, bars):
    aapl, bare, msft = [await history.symbol(ticker) for ticker in ("AAPL", "NVDA", "MSFT")]
    await history.write(aapl, [day(f"2024-07-{number:02}") for number in (1, 2, 5)])
    await history.write(msft, [day("2024-07-01", flags=2), day("2024-07-02"), day("2024-07-08")])
    await history.write(msft, [], timeframe=MINUTE)
    fields = {"timeframe": D1, "min_quality": 0.85}
    answer = await bars.streamed(symbol_ids=[aapl, bare, msft], **fields)
    assert list(answer.opening.symbol_ids) == [aapl, bare, msft]
    own = {one.symbol_id: one.symbol_receipt for one in answer.chunks if one.HasField("symbol_receipt")}
    assert list(own) == [aapl, msft]
    assert [(one.bars, one.sessions_missing, one.bars_filtered) for one in own.values()] == [(3, 1, 0), (2, 2, 1)]
    for name in ("bars", "sessions_expected", "sessions_missing", "bars_filtered"):
        assert sum(getattr(one, name) for one in own.values()) == getattr(answer.receipt, name)
    for symbol_id, receipt in own.items():
        alone = (await bars.streamed(symbol_ids=[symbol_id], **fields)).receipt
        assert alone.HasField("sessions_suspect")
        alone.ClearField("sessions_suspect")
        assert alone == receipt


async def test_a_symbols_receipt_comes_with_its_last_bars_whatever_their_number(history, bars):
    aapl = await history.symbol("AAPL")
    for count in (CHUNK, CHUNK + 1):
        async with history.begin(aapl, MINUTE) as write:
            await write.apply(delete=[datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=n) for n in range(count)])
            await write.fill(count)
            await write.finish()
        chunks = (await bars.streamed(symbol_ids=[aapl], timeframe=M1)).chunks
        assert [one.HasField("symbol_receipt") for one in chunks] == [False, True]
        assert chunks[-1].symbol_receipt.bars == sum(len(one.close) for one in chunks) == count
