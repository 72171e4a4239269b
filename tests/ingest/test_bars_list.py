"""ListBars: pages of one series, and what it was at any instant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import grpc
import pytest

from mdw.ingest.v1 import bars_pb2
from tests.ingest.bars_support import at, refused, to_time
from tests.ingest.history import CRYPTO, day, days
from tests.support import make_key, reason, violations, with_key

M1, D1, W1 = 1, 7, 8


def closes(answer):
    return [bar.close for bar in answer.bars]


async def test_bars_come_in_order_with_their_dates_and_quality(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, [day("2024-01-02", close=10.0, vwap=9.5, trade_count=7), day("2024-01-03", flags=2)])
    answer = await bars.list(ticker="AAPL", timeframe=D1)
    first, second = answer.bars
    assert (first.session_date, first.close, first.vwap, first.trade_count) == ("2024-01-02", 10.0, 9.5, 7)
    assert (second.session_date, second.flags, second.quality) == ("2024-01-03", 2, 0.8)
    assert not second.HasField("vwap")
    assert not second.HasField("trade_count")
    assert answer.symbol_id == aapl
    assert answer.receipt.bars == 2


async def test_without_a_key_nothing_is_answered(bars):
    error = await refused(bars.stub.ListBars(bars_pb2.ListBarsRequest(ticker="AAPL", timeframe=D1), timeout=10))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_without_the_scope_is_denied(database, bars):
    bars.metadata = with_key(await make_key(database, "symbols.read"))
    error = await refused(bars.list(ticker="AAPL", timeframe=D1))
    assert (error.code(), reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_an_unknown_ticker_is_not_found(bars):
    error = await refused(bars.list(ticker="NOPE", timeframe=D1))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "SYMBOL_NOT_FOUND")


async def test_a_ticker_of_a_coin_and_a_stock_needs_the_class(history, bars):
    await history.symbol("BTC")
    coin = await history.symbol("BTC-USD", CRYPTO)
    error = await refused(bars.list(ticker="BTC", timeframe=D1))
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "SYMBOL_AMBIGUOUS")
    assert (await bars.list(ticker="btc", asset_class=CRYPTO, timeframe=D1)).symbol_id == coin


async def test_an_old_ticker_finds_the_symbol_that_held_it(history, bars):
    meta = await history.symbol("META", spans=[("FB", date(2012, 5, 18), date(2022, 6, 8))])
    assert (await bars.list(ticker="FB", timeframe=D1)).symbol_id == meta
    assert (await bars.list(symbol_id=meta, timeframe=D1)).symbol_id == meta


WRONG = [
    ({"timeframe": 0}, ["timeframe"]),
    ({"timeframe": 99}, ["timeframe"]),
    ({"start_time": at("2024-02-01"), "end_time": at("2024-01-01")}, ["end_time"]),
    ({"start_time": at("2024-02-01"), "end_time": at("2024-02-01")}, ["end_time"]),
    ({"start_time": at("2024-02-01T05:00")}, ["start_time"]),
    ({"timeframe": W1, "end_time": at("2024-02-01T05:00")}, ["end_time"]),
    ({"min_quality": 1.5}, ["min_quality"]),
    ({"min_quality": float("nan")}, ["min_quality"]),
    ({"order": 9}, ["order"]),
    ({"hours": 9}, ["hours"]),
    ({"adjustment": 9}, ["adjustment"]),
    ({"page_size": -1}, ["page_size"]),
    ({"ticker": "no ticker"}, ["ticker"]),
    ({"ticker": ""}, ["ticker"]),
    ({"symbol_id": 4}, ["ticker"]),
    ({"min_quality": -1, "hours": 9}, ["min_quality", "hours"]),
]


async def test_a_wrong_field_is_named(bars):
    for fields, named in WRONG:
        error = await refused(bars.list(**{"ticker": "AAPL", "timeframe": D1, **fields}))
        assert (error.code(), violations(error)) == (grpc.StatusCode.INVALID_ARGUMENT, named)


async def test_a_new_york_day_is_refused_with_the_time_that_was_meant(bars):
    error = await refused(bars.list(ticker="AAPL", timeframe=D1, start_time=at("2024-07-01T04:00")))
    assert "use 2024-07-01T00:00:00Z" in error.details()


async def test_a_span_beyond_the_calendar_is_out_of_range(bars):
    error = await refused(bars.list(ticker="AAPL", timeframe=D1, end_time=at("2036-01-02")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.OUT_OF_RANGE, "CALENDAR_HORIZON")


async def test_a_span_too_wide_to_page_through_says_to_stream(history, bars):
    await history.symbol("AAPL")
    error = await refused(
        bars.list(ticker="AAPL", timeframe=M1, start_time=at("2010-01-01"), end_time=at("2024-01-01"))
    )
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "StreamBars" in error.details()


async def test_start_is_inclusive_and_end_exclusive(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, days("2024-01-01", [1, 2, 3, 4]))
    answer = await bars.list(ticker="AAPL", timeframe=D1, start_time=at("2024-01-02"), end_time=at("2024-01-04"))
    assert closes(answer) == [2, 3]


@pytest.mark.parametrize("order", [bars_pb2.ORDER_TIME_ASC, bars_pb2.ORDER_TIME_DESC])
async def test_pages_hold_every_bar_once_in_order(history, bars, order):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, days("2024-01-01", range(1, 8)))
    await history.write(aapl, days("2024-01-03", [30, 40]))
    expected = [1, 2, 30, 40, 5, 6, 7]
    for size in (1, 2, 3, 5, 6, 7, 50):
        pages = await bars.pages(ticker="AAPL", timeframe=D1, page_size=size, order=order)
        found = [close for page in pages for close in closes(page)]
        assert found == (expected if order == bars_pb2.ORDER_TIME_ASC else expected[::-1])
        assert all(len(page.bars) == size for page in pages[:-1])


async def test_pages_go_on_in_the_as_of_of_the_first(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, days("2024-01-01", [1, 2, 3, 4]))
    fields = {"ticker": "AAPL", "timeframe": D1, "page_size": 2}
    first = await bars.list(**fields)
    await history.write(aapl, days("2024-01-01", [10, 20, 30, 40, 50]))
    second = await bars.list(**fields, page_token=first.next_page_token)
    assert (closes(first), closes(second), second.next_page_token) == ([1, 2], [3, 4], "")
    assert second.as_of == first.as_of


async def test_a_token_belongs_to_its_filters_and_to_its_text(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, days("2024-01-01", [1, 2, 3, 4]))
    token = (await bars.list(ticker="AAPL", timeframe=D1, page_size=2)).next_page_token
    for fields in ({"page_token": token, "min_quality": 0.5}, {"page_token": token[:-2] + "AA"}, {"page_token": "x"}):
        error = await refused(bars.list(ticker="AAPL", timeframe=D1, **fields))
        assert reason(error) == "PAGE_TOKEN_INVALID"


async def test_every_instant_can_be_read_again(history, bars):
    aapl = await history.symbol("AAPL")
    times = [
        await history.write(aapl, days("2024-01-01", [1, 2, 3])),
        await history.write(aapl, days("2024-01-02", [20])),
        await history.write(aapl, days("2024-01-05", [5])),
        await history.write(aapl, delete=[row.ts for row in days("2024-01-01", [0, 0])]),
        await history.write(aapl, days("2024-01-02", [22])),
    ]
    before = times[0] - timedelta(microseconds=1)
    answers = [closes(await bars.list(ticker="AAPL", timeframe=D1, as_of=to_time(t))) for t in [before, *times]]
    assert answers == [[], [1, 2, 3], [1, 20, 3], [1, 20, 3, 5], [3, 5], [22, 3, 5]]
    between = await bars.list(ticker="AAPL", timeframe=D1, as_of=to_time(times[1] + timedelta(microseconds=1)))
    assert closes(between) == [1, 20, 3]


async def test_a_read_does_not_see_a_write_before_it_commits_nor_one_that_gave_up(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, days("2024-01-01", [1, 2]))
    async with history.begin(aapl) as pending:
        await pending.apply(days("2024-01-02", [20]))
        during = await bars.list(ticker="AAPL", timeframe=D1)
        committed = await pending.finish()
    async with history.begin(aapl) as lost:
        await lost.apply(days("2024-01-01", [10]))
        await lost.give_up()
    assert closes(during) == [1, 2]
    assert closes(await bars.list(ticker="AAPL", timeframe=D1, as_of=during.as_of)) == [1, 2]
    assert closes(await bars.list(ticker="AAPL", timeframe=D1)) == [1, 20]
    assert closes(await bars.list(ticker="AAPL", timeframe=D1, as_of=to_time(committed))) == [1, 20]


async def test_an_earlier_write_that_commits_later_is_not_seen_at_the_time_between(history, bars):
    aapl, msft = await history.symbol("AAPL"), await history.symbol("MSFT")
    async with history.begin(msft) as slow:
        await slow.apply(days("2024-01-01", [1]))
        await history.write(aapl, days("2024-01-01", [5]))
        between = await bars.list(ticker="AAPL", timeframe=D1)
        await slow.finish()
    assert closes(await bars.list(ticker="MSFT", timeframe=D1, as_of=between.as_of)) == []
    assert closes(await bars.list(ticker="MSFT", timeframe=D1)) == [1]


async def test_an_as_of_in_the_future_is_lowered_to_the_newest_write(history, bars):
    aapl = await history.symbol("AAPL")
    written = await history.write(aapl, days("2024-01-01", [1]))
    answer = await bars.list(ticker="AAPL", timeframe=D1, as_of=to_time(datetime.now(UTC) + timedelta(days=1)))
    assert answer.receipt.as_of_lowered
    assert answer.as_of == to_time(written)
    assert not (await bars.list(ticker="AAPL", timeframe=D1, as_of=answer.as_of)).receipt.as_of_lowered


async def test_bars_below_the_quality_asked_for_are_left_out_and_counted(history, bars):
    aapl = await history.symbol("AAPL")
    rows = days("2024-01-01", range(1, 9))
    await history.write(aapl, [replace(row, flags=2 if row.close % 2 else 8) for row in rows])
    pages = await bars.pages(ticker="AAPL", timeframe=D1, min_quality=0.85, page_size=3)
    assert [closes(page) for page in pages] == [[2, 4, 6], [8]]
    assert [page.receipt.bars_filtered for page in pages] == [3, 1]


async def test_several_symbols_are_paged_through_one_after_the_other(history, bars):
    ids = [await history.symbol(ticker) for ticker in ("AAPL", "MSFT", "NVDA", "AMD")]
    for symbol_id, count in zip(ids, (3, 0, 4, 2), strict=True):
        await history.write(symbol_id, days("2024-01-01", [symbol_id * 10 + n for n in range(count)]))
    counts = dict(zip(ids, (3, 0, 4, 2), strict=True))
    expected = [(symbol_id, symbol_id * 10 + n) for symbol_id, count in counts.items() for n in range(count)]
    fields = {"tickers": ["AAPL", "MSFT", "NOPE", "NVDA", "AMD"], "timeframe": D1}
    for size in (1, 2, 3, 4, 9, 50):
        pages = await bars.pages(**fields, page_size=size)
        assert [(bar.symbol_id, bar.close) for page in pages for bar in page.bars] == expected
        assert sum(page.receipt.bars for page in pages) == 9
        assert {one.ticker for page in pages for one in page.unresolved} == {"NOPE"}
        assert [one for page in pages for one in page.receipt.symbol_ids if one == ids[1]] == [ids[1]]
    newest = await bars.list(all_active=True, timeframe=D1, order=bars_pb2.ORDER_TIME_DESC, page_size=4)
    assert [bar.close for bar in newest.bars] == [ids[0] * 10 + n for n in (2, 1, 0)] + [ids[2] * 10 + 3]
    assert reason(await refused(bars.list(**fields, strict=True))) == "SYMBOL_NOT_FOUND"


async def test_a_token_goes_on_in_the_symbol_it_was_made_for(history, bars):
    first, second = await history.symbol("AAPL"), await history.symbol("MSFT")
    for symbol_id in (first, second):
        await history.write(symbol_id, days("2024-01-01", [1, 2]))
    fields = {"asset_class": 1, "timeframe": D1, "page_size": 3}
    token = (await bars.list(**fields)).next_page_token
    await history.deactivate(second)
    error = await refused(bars.list(**fields, page_token=token))
    assert reason(error) == "PAGE_TOKEN_INVALID"


async def test_symbols_are_named_in_one_way(bars):
    for fields in ({}, {"ticker": "AAPL", "tickers": ["MSFT"]}, {"symbol_id": 1, "all_active": True}):
        assert violations(await refused(bars.list(**fields, timeframe=D1))) == ["ticker"]
