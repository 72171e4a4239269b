"""GetSymbol: whom a ticker means, now and at a date."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc

from mdw.symbols.v1 import symbols_pb2 as pb
from tests.support import info, violations
from tests.symbols.making import CRYPTO, ETF, STOCK, create, facebook, get, refusal, rename, spans


async def test_a_former_ticker_finds_the_symbol_and_says_since_when(symbols):
    """FB finds Meta; the answer says until when it was FB, and since when it is META."""
    meta = await facebook(symbols)
    found = await symbols.GetSymbol(pb.GetSymbolRequest(ticker="FB"))
    assert found.symbol == meta
    assert (found.symbol.ticker, spans(found.symbol)[-1]) == ("META", ("META", "2022-06-09", ""))
    assert (found.found_under.ticker, found.found_under.from_date) == ("FB", "2012-05-18")
    assert found.found_under.to_date == "2022-06-08"


async def test_a_present_ticker_needs_no_explanation(symbols):
    """found_under stays unset, by ticker and by id."""
    meta = await facebook(symbols)
    for named in (pb.GetSymbolRequest(ticker="META"), pb.GetSymbolRequest(symbol_id=meta.symbol_id)):
        assert not (await symbols.GetSymbol(named)).HasField("found_under")


async def test_a_ticker_that_another_took_up_finds_the_holder_of_the_day(symbols):
    """FB is somebody else's now, and was Meta's then."""
    meta = await facebook(symbols)
    other = await create(symbols, "FB", ETF, from_date="2024-01-02")
    assert (await get(symbols, "FB")).symbol_id == other.symbol_id
    assert (await get(symbols, "FB", date="2022-06-08")).symbol_id == meta.symbol_id
    reused, own = (await get(symbols, "FB", date="2022-06-08")).tickers
    assert (list(reused.other_symbol_ids), list(own.other_symbol_ids)) == ([other.symbol_id], [])


async def test_a_class_narrows_whom_a_ticker_means(symbols):
    """As a stock, FB is still Meta's last ticker."""
    meta = await facebook(symbols)
    await create(symbols, "FB", ETF, from_date="2024-01-02")
    assert (await get(symbols, "FB", asset_class=STOCK)).symbol_id == meta.symbol_id


async def test_a_change_to_come_is_not_shown_before_its_day(symbols):
    """The present ticker stays until the day, and the new one finds nobody before it but the last to hold it."""
    await create(symbols, "OLD")
    day = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()
    changed = await rename(symbols, "OLD", "NEWER", day)
    assert (changed.ticker, spans(changed)[-1]) == ("OLD", ("NEWER", day, ""))
    assert (await get(symbols, "OLD")).ticker == "OLD"
    assert (await get(symbols, "NEWER")).symbol_id == changed.symbol_id


async def test_unknown_symbols_are_named(symbols):
    """NOT_FOUND with what was asked for."""
    refused = await refusal(get(symbols, "NOPE"), "SYMBOL_NOT_FOUND")
    assert refused.code() == grpc.StatusCode.NOT_FOUND
    assert info(refused).metadata["ticker"] == "NOPE"
    for symbol_id in (4711, -1, 2**40):
        refused = await refusal(get(symbols, symbol_id=symbol_id), "SYMBOL_NOT_FOUND")
        assert info(refused).metadata["symbol_id"] == str(symbol_id)


async def test_a_pair_needs_no_class(symbols):
    """BTC-USD and X:BTCUSD can be nothing else."""
    coin = await create(symbols, "BTC", CRYPTO)
    for spelling in ("BTC-USD", "X:BTCUSD", "BTC"):
        assert (await get(symbols, spelling)).symbol_id == coin.symbol_id


WRONG = [
    ({}, "ticker"),
    ({"ticker": "AAPL", "symbol_id": 1}, "ticker"),
    ({"ticker": "aapl"}, "ticker"),
    ({"ticker": "AAPL", "asset_class": 7}, "asset_class"),
    ({"ticker": "AAPL", "date": "2022-6-9"}, "date"),
    ({"ticker": "AAPL", "date": "2200-01-01"}, "date"),
]


async def test_what_breaks_a_rule_is_named(symbols):
    """INVALID_ARGUMENT names the field."""
    for fields, field in WRONG:
        refused = await refusal(symbols.GetSymbol(pb.GetSymbolRequest(**fields)), "FIELD_INVALID")
        assert violations(refused) == [field]
