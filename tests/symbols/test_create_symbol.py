"""CreateSymbol: who a symbol is, and what is refused."""

from __future__ import annotations

from uuid import uuid4

import grpc
import pytest

from mdw.symbols.v1 import symbols_pb2 as pb
from mdw.type.v1 import type_pb2 as types
from tests.support import info, violations
from tests.symbols.making import CRYPTO, ETF, create, get, refusal, request


async def test_a_symbol_is_what_was_said_of_it(symbols):
    """All fields come back, the daily timeframe is kept fresh, and nothing was asked for yet."""
    made = await create(
        symbols,
        "AAPL",
        name="Apple Inc.",
        exchange="XNAS",
        type="CS",
        figi="BBG000B9XRY4",
        list_date="1980-12-12",
    )
    found = (await symbols.GetSymbol(pb.GetSymbolRequest(symbol_id=made.symbol_id))).symbol
    assert found == made
    assert (made.ticker, made.provider_ticker, made.name, made.active) == ("AAPL", "AAPL", "Apple Inc.", True)
    assert (made.exchange, made.type, made.figi, made.list_date) == ("XNAS", "CS", "BBG000B9XRY4", "1980-12-12")
    assert list(made.timeframes) == [types.TIMEFRAME_1D]
    assert list(made.tickers) == [pb.TickerSpan(ticker="AAPL", provider_ticker="AAPL", from_date="1900-01-01")]
    assert list(made.series) == [pb.SeriesState(timeframe=types.TIMEFRAME_1D, state=pb.BACKFILL_STATE_NONE)]
    assert made.create_time.seconds > 0


@pytest.mark.parametrize("spelling", ["BTC", "BTCUSD", "X:BTCUSD", "btc-usd"])
async def test_all_spellings_of_a_pair_meet_in_one_symbol(symbols, spelling):
    """However a coin is spelled, it is found, and not registered twice."""
    made = await create(symbols, spelling, CRYPTO)
    assert (made.ticker, made.provider_ticker) == ("BTC-USD", "X:BTCUSD")
    for other in ("BTC", "BTCUSD", "BTC-USD", "X:BTCUSD"):
        assert (await get(symbols, other, asset_class=CRYPTO)).symbol_id == made.symbol_id
        refused = await refusal(create(symbols, other, CRYPTO), "SYMBOL_EXISTS")
        assert info(refused).metadata["symbol_id"] == str(made.symbol_id)


async def test_class_shares_and_preferreds_keep_case_and_dots(symbols):
    """BRK.B and KIMpL stay as they are, and KIMPL is another symbol."""
    assert (await create(symbols, "BRK.B")).ticker == "BRK.B"
    assert (await create(symbols, "KIMpL")).provider_ticker == "KIMpL"
    assert (await create(symbols, "KIMPL")).ticker == "KIMPL"


async def test_a_stock_and_the_coin_of_the_same_name_never_meet(symbols):
    """BTC alone could be either and says so; with its class it is one of the two."""
    coin, stock = await create(symbols, "BTC", CRYPTO), await create(symbols, "BTC")
    refused = await refusal(get(symbols, "BTC"), "SYMBOL_AMBIGUOUS")
    assert refused.code() == grpc.StatusCode.FAILED_PRECONDITION
    candidates = info(refused).metadata["candidates"]
    assert f"BTC (stock, symbol_id {stock.symbol_id})" in candidates
    assert f"BTC-USD (crypto, symbol_id {coin.symbol_id})" in candidates
    for made in (coin, stock):
        assert (await get(symbols, "BTC", asset_class=made.asset_class)).symbol_id == made.symbol_id


async def test_creating_again_says_which_symbol_there_is(symbols):
    """ALREADY_EXISTS with the id, in the details too."""
    made = await create(symbols, "SPY", ETF)
    refused = await refusal(create(symbols, "SPY", ETF, list_date="1993-01-29"), "SYMBOL_EXISTS")
    assert refused.code() == grpc.StatusCode.ALREADY_EXISTS
    assert info(refused).metadata["symbol_id"] == str(made.symbol_id)


async def test_the_same_request_id_gives_the_first_answer(symbols, admin_db):
    """A repeat is answered as the first time, and one symbol is made."""
    again = request("NVDA", request_id=str(uuid4()))
    first = await symbols.CreateSymbol(again)
    assert await symbols.CreateSymbol(again) == first
    assert await admin_db.fetchval("SELECT count(*) FROM symbols.symbols") == 1


async def test_a_request_id_belongs_to_one_request(symbols):
    """With another request it is refused, and nothing is made."""
    request_id = str(uuid4())
    await symbols.CreateSymbol(request("NVDA", request_id=request_id))
    await refusal(symbols.CreateSymbol(request("AMD", request_id=request_id)), "REQUEST_ID_REUSED")


async def test_a_refused_request_leaves_its_request_id_free(symbols):
    """What changed nothing may be put right and sent again under the same id."""
    request_id = str(uuid4())
    await create(symbols, "AMD")
    await refusal(symbols.CreateSymbol(request("AMD", request_id=request_id)), "SYMBOL_EXISTS")
    assert (await symbols.CreateSymbol(request("INTC", request_id=request_id))).symbol.ticker == "INTC"


WRONG = [
    ({"ticker": "aapl"}, "symbol.ticker"),
    ({"ticker": ""}, "symbol.ticker"),
    ({"ticker": "A" * 33}, "symbol.ticker"),
    ({"ticker": "BTC-USD"}, "symbol.ticker"),
    ({"asset_class": 0}, "symbol.asset_class"),
    ({"asset_class": 9}, "symbol.asset_class"),
    ({"name": "x" * 201}, "symbol.name"),
    ({"name": "a\x00b"}, "symbol.name"),
    ({"exchange": "nasdaq"}, "symbol.exchange"),
    ({"type": "common stock"}, "symbol.type"),
    ({"figi": "BBG"}, "symbol.figi"),
    ({"list_date": "2020-02-30"}, "symbol.list_date"),
    ({"list_date": "20200203"}, "symbol.list_date"),
    ({"list_date": "1899-12-31"}, "symbol.list_date"),
    ({"list_date": "2020-01-02", "delist_date": "2020-01-01"}, "symbol.delist_date"),
    ({"timeframes": [types.TIMEFRAME_5M]}, "symbol.timeframes[0]"),
    ({"from_date": "2020-01-02", "to_date": "2020-01-01"}, "symbol.from_date"),
    ({"delist_date": "2020-01-02", "to_date": "2020-01-03"}, "symbol.to_date"),
]


async def test_what_breaks_a_rule_is_named(symbols):
    """INVALID_ARGUMENT names the field."""
    for fields, field in WRONG:
        refused = await refusal(symbols.CreateSymbol(request(**{"ticker": "AAPL", **fields})), "FIELD_INVALID")
        assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert violations(refused) == [field]

    async def test_all_that_is_wrong_is_said_at_once(symbols):
        """One answer names every field."""
        wrong = create(symbols, "aapl", figi="x", from_date="soon", timeframes=[3])
        refused = await refusal(wrong, "FIELD_INVALID")
        assert violations(refused) == ["symbol.ticker", "symbol.timeframes[0]", "symbol.figi", "symbol.from_date"]

    async def test_a_ticker_may_change_hands(symbols):
        """META was an ETF until January 2022 and is Meta since June: two symbols, each found at its date."""
        fund = await create(symbols, "META", ETF, from_date="2021-06-30", to_date="2022-01-28")
        meta = await create(symbols, "META", from_date="2022-06-09")
        for day, holder in (("2021-07-01", fund), ("2023-01-03", meta), ("", meta)):
            assert (await get(symbols, "META", date=day)).symbol_id == holder.symbol_id
        await refusal(get(symbols, "META", date="2022-03-01"), "SYMBOL_NOT_FOUND")

    async def test_days_that_another_symbol_holds_are_refused(symbols):
        """TICKER_TAKEN names the symbol, also of another class: both would want the same bars of the provider."""
        meta = await create(symbols, "META", from_date="2022-06-09")
        refused = await refusal(create(symbols, "META", ETF), "TICKER_TAKEN")
        assert refused.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert dict(info(refused).metadata) == {"symbol_id": str(meta.symbol_id), "ticker": "META"}

    async def test_a_delisted_symbol_gives_its_ticker_up(symbols):
        """After the last day of trading another symbol may have the ticker."""
        old = await create(symbols, "X", delist_date="2015-03-31")
        new = await create(symbols, "X", from_date="2015-04-01")
        assert [span.to_date for span in old.tickers] == ["2015-03-31"]
        assert (await get(symbols, "X")).symbol_id == new.symbol_id
