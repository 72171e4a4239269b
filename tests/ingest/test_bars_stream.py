"""StreamBars and GetLatestBars: columns of many symbols, at the reader's pace."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdw.ingest.v1 import bars_pb2
from mdw.type.v1 import type_pb2
from services.ingest.columns import Columns
from services.ingest.reading import pump, streams
from services.ingest.reading.blocks import Block
from services.ingest.reading.messages import RECEIPT_TRAILER, trailer
from services.ingest.reading.wire import CHUNK, chunk
from services.ingest.store import bars as stored
from tests.ingest.bars_support import COLUMNS, Bars, at, refused, to_time
from tests.ingest.history import CRYPTO, ETF, MINUTE, Row, day, days
from tests.support import make_key, reason, violations

M1, H1, D1 = 1, 5, 7


async def many(history, symbol_id, count):
    """Writes so many minutes of one symbol."""
    async with history.begin(symbol_id, MINUTE) as write:
        await write.fill(count)
        return await write.finish()


async def test_columns_hold_what_was_written(history, bars):
    aapl = await history.symbol("AAPL")
    rows = [
        day("2024-01-02", close=10.5, open=10, high=11, low=9.25, volume=0.7, vwap=10.1, trade_count=300, flags=2),
        day("2024-01-03", close=12),
    ]
    await history.write(aapl, rows)
    answer = await bars.streamed(tickers=["AAPL"], timeframe=D1)
    (only,) = answer.chunks
    assert (only.symbol_id, only.ticker) == (aapl, "AAPL")
    assert list(only.start_time_ms) == [round(row.ts.timestamp() * 1000) for row in rows]
    assert [getattr(only, name)[0] for name in COLUMNS[1:]] == [10, 11, 9.25, 10.5, 0.7, 10.1, 300, 2]
    assert math.isnan(only.vwap[1])
    assert only.trade_count[1] == -1
    assert (answer.receipt.bars, list(answer.receipt.symbol_ids)) == (2, [aapl])
    assert answer.receipt.as_of == answer.opening.as_of


async def test_receipts_are_repeated_in_the_trailers_of_every_call(history, bars):
    await history.write(await history.symbol("AAPL"), days("2024-01-01", [1, 2]))
    stream = bars.stream(tickers=["AAPL"], timeframe=D1)
    messages = [message async for message in stream]
    listed = bars.stub.ListBars(bars_pb2.ListBarsRequest(ticker="AAPL", timeframe=D1), metadata=bars.metadata)
    latest = bars.stub.GetLatestBars(
        bars_pb2.GetLatestBarsRequest(tickers=["AAPL"], timeframe=D1), metadata=bars.metadata
    )
    for call, receipt in (
        (stream, messages[-1].receipt),
        (listed, (await listed).receipt),
        (latest, (await latest).receipt),
    ):
        assert receipt.HasField("as_of")
        assert dict(await call.trailing_metadata())[RECEIPT_TRAILER] == receipt.SerializeToString()


def test_a_receipt_leaves_lists_out_of_its_trailer_that_metadata_has_no_room_for():
    receipt = bars_pb2.Receipt(bars=7, symbol_ids=range(1, 1_001))
    assert bars_pb2.Receipt.FromString(trailer(receipt)[1]) == receipt
    receipt.empty_series.extend(bars_pb2.EmptySeries(symbol_id=1, ticker="AAPL") for _ in range(1_000))
    assert bars_pb2.Receipt.FromString(trailer(receipt)[1]) == bars_pb2.Receipt(bars=7, symbol_ids=range(1, 1_001))
    receipt.symbol_ids.extend(range(20_000))
    assert bars_pb2.Receipt.FromString(trailer(receipt)[1]) == bars_pb2.Receipt(bars=7)


async def test_symbols_come_one_after_the_other_in_the_order_asked_for(history, bars):
    ids = [await history.symbol(ticker) for ticker in ("AAPL", "MSFT", "NVDA")]
    for number, symbol_id in enumerate(ids):
        await history.write(symbol_id, days("2024-01-01", [number + 1] * 2))
    answer = await bars.streamed(tickers=["NVDA", "AAPL", "NVDA", "MSFT"], timeframe=D1)
    assert [(one.ticker, list(one.close)) for one in answer.chunks] == [
        ("NVDA", [3, 3]),
        ("AAPL", [1, 1]),
        ("MSFT", [2, 2]),
    ]
    assert (await bars.streamed(symbol_ids=ids[::-1], timeframe=D1)).column("close") == [3, 3, 2, 2, 1, 1]


async def test_a_class_and_all_active_are_streamed(history, bars):
    stock, fund = await history.symbol("AAPL"), await history.symbol("SPY", ETF)
    coin, idle = await history.symbol("BTC-USD", CRYPTO), await history.symbol("GE", active=False)
    for symbol_id in (stock, fund, coin, idle):
        await history.write(symbol_id, days("2024-01-01", [1]))
    assert list((await bars.streamed(all_active=True, timeframe=D1)).receipt.symbol_ids) == [stock, fund, coin]
    assert list((await bars.streamed(asset_class=ETF, timeframe=D1)).receipt.symbol_ids) == [fund]
    assert list((await bars.streamed(tickers=["GE"], timeframe=D1)).receipt.symbol_ids) == [idle]


async def test_unknown_tickers_among_others_are_told_first_and_the_rest_is_served(history, bars):
    aapl = await history.symbol("AAPL")
    await history.symbol("BTC")
    await history.symbol("BTC-USD", CRYPTO)
    await history.write(aapl, days("2024-01-01", [1]))
    answer = await bars.streamed(tickers=["NOPE", "AAPL", "BTC", "no ticker"], timeframe=D1)
    assert [(one.ticker, one.reason) for one in answer.opening.unresolved] == [
        ("NOPE", type_pb2.SYMBOL_NOT_FOUND),
        ("BTC", type_pb2.SYMBOL_AMBIGUOUS),
        ("no ticker", type_pb2.SYMBOL_NOT_FOUND),
    ]
    assert answer.column("close") == [1]
    by_id = await bars.streamed(symbol_ids=[aapl, 999_999], timeframe=D1)
    assert [one.symbol_id for one in by_id.opening.unresolved] == [999_999]


async def test_one_unknown_ticker_alone_or_with_strict_is_not_found(history, bars):
    await history.symbol("AAPL")
    for fields in ({"tickers": ["NOPE"]}, {"tickers": ["AAPL", "NOPE"], "strict": True}, {"symbol_ids": [999_999]}):
        error = await refused(bars.streamed(**fields, timeframe=D1))
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "SYMBOL_NOT_FOUND")


async def test_a_wrong_way_to_name_symbols_is_refused(bars):
    for fields, named in (
        ({}, "tickers"),
        ({"tickers": ["AAPL"], "all_active": True}, "tickers"),
        ({"all_active": True, "asset_class": ETF}, "asset_class"),
        ({"asset_class": 9}, "asset_class"),
        ({"tickers": ["AAPL"] * 20_001}, "tickers"),
        ({"tickers": ["AAPL"], "last": -1}, "last"),
        ({"tickers": ["AAPL"], "last": 1_000_001}, "last"),
    ):
        error = await refused(bars.streamed(**fields, timeframe=D1))
        assert (error.code(), violations(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [named])


async def test_long_series_come_in_chunks_below_a_mebibyte(history, bars):
    aapl = await history.symbol("AAPL")
    await many(history, aapl, 2 * CHUNK + 5)
    answer = await bars.streamed(tickers=["AAPL"], timeframe=M1)
    assert [len(one.close) for one in answer.chunks] == [CHUNK, CHUNK, 5]
    assert max(one.ByteSize() for one in answer.chunks) < 2**20
    assert answer.column("volume") == list(range(2 * CHUNK + 5))
    assert answer.column("trade_count") == [n % 300 - 1 for n in range(2 * CHUNK + 5)]


async def test_replaced_and_deleted_bars_stand_in_their_place_at_an_old_instant(history, bars):
    aapl = await history.symbol("AAPL")
    before = await many(history, aapl, CHUNK + 50)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    changed = [Row(start + timedelta(minutes=n), close=5.0, volume=-n) for n in range(0, CHUNK + 50, 7)]
    gone = [start + timedelta(minutes=n) for n in range(3, CHUNK + 50, 11)]
    await history.write(aapl, changed, timeframe=MINUTE)
    await history.write(aapl, delete=gone, timeframe=MINUTE)
    old = await bars.streamed(tickers=["AAPL"], timeframe=M1, as_of=to_time(before))
    assert old.column("volume") == list(range(CHUNK + 50))
    new = await bars.streamed(tickers=["AAPL"], timeframe=M1)
    assert new.column("volume") == [-n if n % 7 == 0 else n for n in range(CHUNK + 50) if n % 11 != 3]


async def test_more_revisions_than_are_kept_at_once_are_read_in_spans(history, bars, monkeypatch):
    monkeypatch.setattr(streams, "MAX_REVISIONS", 100)
    aapl = await history.symbol("AAPL")
    before = await history.write(aapl, days("2020-01-01", range(1, 501)))
    await history.write(aapl, days("2020-01-01", [1000] * 450))
    old = await bars.streamed(tickers=["AAPL"], timeframe=D1, as_of=to_time(before))
    assert old.column("close") == list(range(1, 501))


async def test_more_bars_than_there_are_now_are_read_at_an_old_instant(history, bars, monkeypatch):
    monkeypatch.setattr(stored, "FEW", 100)
    aapl = await history.symbol("AAPL")
    rows = days("2020-01-01", range(1, 151))
    before = await history.write(aapl, rows)
    await history.write(aapl, delete=[row.ts for row in rows[50:]])
    old = await bars.streamed(tickers=["AAPL"], timeframe=D1, as_of=to_time(before))
    assert old.column("close") == list(range(1, 151))
    assert (await bars.streamed(tickers=["AAPL"], timeframe=D1)).column("close") == list(range(1, 51))


@pytest.mark.parametrize("last", [1, 3, 7, 50])
async def test_the_newest_bars_come_oldest_first(history, bars, last):
    aapl, msft = await history.symbol("AAPL"), await history.symbol("MSFT")
    rows = days("2024-01-01", range(1, 11))
    await history.write(aapl, [replace(row, flags=2 if row.close in {4, 9} else 0) for row in rows])
    await history.write(msft, rows[:2])
    answer = await bars.streamed(tickers=["AAPL", "MSFT"], timeframe=D1, last=last)
    assert answer.column("close", aapl) == list(range(1, 11))[-last:]
    assert answer.column("close", msft) == [1, 2][-last:]
    good = await bars.streamed(tickers=["AAPL"], timeframe=D1, last=last, min_quality=0.85)
    assert good.column("close") == [1, 2, 3, 5, 6, 7, 8, 10][-last:]
    early = await bars.streamed(tickers=["AAPL"], timeframe=D1, last=last, end_time=at("2024-01-06"))
    assert early.column("close") == [1, 2, 3, 4, 5][-last:]


async def test_the_newest_bars_of_a_long_series_are_found_from_behind(history, bars):
    aapl = await history.symbol("AAPL")
    await many(history, aapl, 3 * CHUNK)
    minutes = await bars.streamed(tickers=["AAPL"], timeframe=M1, last=CHUNK + 7)
    assert minutes.column("volume") == list(range(2 * CHUNK - 7, 3 * CHUNK))
    hours = await bars.streamed(tickers=["AAPL"], timeframe=H1, last=400)
    assert hours.column("open") == [100.0] * 400
    assert hours.column("start_time_ms")[0] == round(at("2020-01-01").seconds * 1000) + 100 * 3_600_000


async def sessions(database):
    """Returns what the connections of the streams' pool do."""
    conn = await asyncpg.connect(database.admin_url)
    rows = await conn.fetch(
        "SELECT state, backend_xmin FROM pg_stat_activity WHERE datname = $1 AND application_name = 'test streams'",
        database.name,
    )
    await conn.close()
    return [(row["state"], row["backend_xmin"]) for row in rows]


async def until(condition, seconds=60.0):
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.05)


async def test_a_reader_that_stops_holds_no_connection_and_gets_the_rest_when_it_goes_on(
    database, history, bars, monkeypatch
):
    monkeypatch.setattr(pump, "STALL_SECONDS", 0.2)
    aapl = await history.symbol("AAPL")
    await many(history, aapl, 15 * CHUNK)

    async def busy():
        return any(xmin is not None for _, xmin in await sessions(database))

    async def idle():
        return not await busy()

    stalled = [bars.stream(tickers=["AAPL"], timeframe=M1) for _ in range(6)]
    firsts = [await call.read() for call in stalled]
    await until(idle)
    assert (await bars.streamed(tickers=["AAPL"], timeframe=M1, last=3)).receipt.bars == 3
    await history.write(aapl, [Row(datetime(2020, 1, 1, tzinfo=UTC), close=1.0)], timeframe=MINUTE)
    for first, call in zip(firsts, stalled, strict=True):
        assert first.HasField("as_of")
        volumes, receipt = [], None
        while (message := await call.read()) is not grpc.aio.EOF:
            volumes.extend(message.volume)
            receipt = message.receipt if message.HasField("receipt") else receipt
        assert volumes == list(range(15 * CHUNK))
        assert receipt.bars == 15 * CHUNK


@pytest.fixture
async def no_autovacuum(database):
    """Dead bars stay until the test itself vacuums them."""
    conn = await asyncpg.connect(database.admin_url)
    await conn.execute("ALTER TABLE ingest.bars SET (autovacuum_enabled = off)")
    yield
    await conn.execute("ALTER TABLE ingest.bars RESET (autovacuum_enabled)")
    await conn.close()


async def removed_by_vacuum(database, table):
    """Vacuums a table and returns how many of its dead rows had to stay, since somebody might still read them."""
    told = []
    conn = await asyncpg.connect(database.admin_url)
    conn.add_log_listener(lambda _, message: told.append(message.message))
    await conn.execute(f"VACUUM (VERBOSE) {table}")
    await conn.close()
    found = re.search(r"tuples: (\d+) removed, .* (\d+) are dead but not yet removable", "".join(told))
    return int(found[1]), int(found[2])


@pytest.mark.usefixtures("no_autovacuum")
async def test_fifty_readers_that_stop_leave_connections_to_others_and_hold_no_vacuum_back(database, history, bars):
    aapl, msft = await history.symbol("AAPL"), await history.symbol("MSFT")
    await many(history, aapl, 8 * CHUNK)
    await history.write(msft, days("2024-01-01", range(1, 101)))
    async with grpc.aio.insecure_channel(bars.target) as channel:
        other = Bars(channel, await make_key(database, "bars.read", name="stalled"), bars.target)
        stalled = [other.stream(symbol_ids=[aapl], timeframe=M1) for _ in range(50)]
        assert all([(await call.read()).HasField("as_of") and (await call.read()).close for call in stalled])

        async def idle():
            return all(xmin is None for _, xmin in await sessions(database))

        await until(idle)
        answers = await asyncio.gather(*(bars.streamed(symbol_ids=[aapl], timeframe=M1) for _ in range(4)))
        assert [answer.receipt.bars for answer in answers] == [8 * CHUNK] * 4
        await history.write(msft, delete=[row.ts for row in days("2024-01-01", range(1, 101))])
        removed, kept = await removed_by_vacuum(database, "ingest.bars")
        while kept:  # by what else the service reads now and then, which is soon over; a stopped reader never is
            more, kept = await removed_by_vacuum(database, "ingest.bars")
            removed += more
        assert removed >= 100
        for call in stalled:
            call.cancel()


async def test_more_readers_than_connections_take_turns(history, bars, monkeypatch):
    monkeypatch.setattr(pump, "TURN_SECONDS", 0.01)
    aapl, *bare = [await history.symbol(ticker) for ticker in ("AAPL", "MSFT", "NVDA", "AMD")]
    await many(history, aapl, 4 * CHUNK)
    asked = {"symbol_ids": [aapl, *bare], "timeframe": M1}
    answers = await asyncio.gather(*(bars.streamed(**asked) for _ in range(6)))
    for answer in answers:
        assert answer.column("volume") == list(range(4 * CHUNK))
        assert answer.receipt == answers[0].receipt
        assert list(answer.receipt.symbol_ids) == [aapl, *bare]


async def test_a_caller_that_goes_away_ends_the_work_at_once(database, history, bars, monkeypatch):
    monkeypatch.setattr(pump, "STALL_SECONDS", 600)  # so that nothing else ends it
    aapl = await history.symbol("AAPL")
    await many(history, aapl, 15 * CHUNK)
    call = bars.stream(tickers=["AAPL"], timeframe=M1)
    await call.read()
    await call.read()
    call.cancel()

    async def idle():
        return all(state == "idle" and xmin is None for state, xmin in await sessions(database))

    await until(idle)


async def test_a_series_written_while_it_is_streamed_stays_as_it_was(history, bars):
    aapl, msft = await history.symbol("AAPL"), await history.symbol("MSFT")
    await many(history, aapl, 8 * CHUNK)
    await history.write(msft, [Row(datetime(2020, 1, 1, tzinfo=UTC), close=1.0)], timeframe=MINUTE)
    call = bars.stream(tickers=["AAPL", "MSFT"], timeframe=M1)
    messages = [await call.read()]
    await history.write(msft, [Row(datetime(2020, 1, 1, tzinfo=UTC), close=2.0)], timeframe=MINUTE)
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    assert [message.close[0] for message in messages if message.ticker == "MSFT"] == [1.0]


counts = st.lists(st.one_of(st.integers(-1, 130), st.integers(-1, 2**31 - 1)), max_size=40)


@given(counts)
def test_messages_written_from_arrays_read_as_what_they_hold(trades):
    n = len(trades)
    floats = {name: np.arange(n) + at for at, name in enumerate(COLUMNS[1:7])}
    floats = {name: values.astype(np.float64) / 3 for name, values in floats.items()}
    block = Block(
        Columns(ts=np.arange(n) * 60_000, trade_count=np.array(trades, np.int64), **floats),
        np.arange(n, dtype=np.int16),
    )
    head = bars_pb2.StreamBarsResponse(symbol_id=7, ticker="AAPL")
    message = bars_pb2.StreamBarsResponse.FromString(chunk(head, block, np.array([-1, 5], np.int64)))
    assert (message.symbol_id, message.ticker, list(message.deleted_time_ms)) == (7, "AAPL", [-1, 5])
    assert list(message.trade_count) == trades
    assert list(message.flags) == list(range(n))
    assert list(message.start_time_ms) == block.bars.ts.tolist()
    assert all(list(getattr(message, name)) == values.tolist() for name, values in floats.items())
    plain = bars_pb2.StreamBarsResponse.FromString(message.SerializeToString())
    assert plain == message
