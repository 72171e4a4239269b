"""Which symbol a request means by a ticker: spellings, holders of the past, ambiguity."""

from __future__ import annotations

from datetime import date

import asyncpg
import pytest

from services.ingest.resolving import Wanted, resolve, resolve_one
from services.ingest.store.symbols import SymbolStore
from services.kit.db import Database
from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.ingest.backfilling import CRYPTO, ETF, STOCK, Ingest

ALWAYS = date(1900, 1, 1)


@pytest.fixture
async def registry(database):
    conn = await asyncpg.connect(database.admin_url)
    db = await Database.open(database.ingest_url, size=2)
    yield Ingest(channel=None, sql=conn, key="", server=None), SymbolStore(db)
    await db.close()
    await conn.close()


async def found(store, ticker, asset_class=0):
    return (await resolve_one(store, ticker, asset_class, 0)).symbol_id


async def test_a_former_ticker_finds_who_held_it_last(registry):
    made, store = registry
    spans = (("FB", date(2012, 5, 18), date(2022, 6, 8)), ("META", date(2022, 6, 9), None))
    meta = await made.symbol("META", spans=spans)
    assert await found(store, "FB") == meta
    symbol = await resolve_one(store, "FB", 0, 0)
    assert (symbol.ticker, symbol.spans[-1].from_date) == ("META", date(2022, 6, 9))


async def test_a_bare_ticker_means_its_present_holder_in_any_class(registry):
    made, store = registry
    await made.symbol("META", ETF, spans=(("META", ALWAYS, date(2022, 1, 31)),))
    meta = await made.symbol("META", spans=(("META", date(2022, 6, 9), None),))
    assert await found(store, "META") == meta


async def test_of_several_former_holders_the_last_one_is_meant(registry):
    made, store = registry
    await made.symbol("OLD", spans=(("OLD", ALWAYS, date(2001, 1, 1)),))
    later = await made.symbol("OLD", spans=(("OLD", date(2005, 1, 1), date(2010, 1, 1)),))
    assert await found(store, "OLD") == later


async def test_a_coin_and_a_stock_of_one_name_are_told_apart_by_class(registry):
    made, store = registry
    stock, coin = await made.symbol("BTC"), await made.symbol("BTC-USD", CRYPTO)
    assert await found(store, "BTC", STOCK) == stock
    for spelling in ("BTC", "BTCUSD", "BTC-USD", "X:BTCUSD"):
        assert await found(store, spelling, CRYPTO) == coin
    assert await found(store, "X:BTCUSD") == coin
    with pytest.raises(FailedPrecondition) as caught:
        await found(store, "BTC")
    assert caught.value.reason == "SYMBOL_AMBIGUOUS"
    for part in ("BTC (stock", "BTC-USD (crypto"):
        assert part in caught.value.metadata["candidates"]


async def test_a_coin_alone_is_fine_while_no_stock_has_its_name(registry):
    made, store = registry
    assert await made.symbol("ETH-USD", CRYPTO) == await found(store, "ETH")


async def test_what_is_unknown_is_not_found_and_what_is_no_ticker_is_invalid(registry):
    _, store = registry
    for ticker in ("NOPE", "X:NOPEUSD"):
        with pytest.raises(NotFound) as caught:
            await found(store, ticker)
        assert caught.value.metadata == {"ticker": ticker}
    with pytest.raises(InvalidArgument):
        await found(store, "no ticker!")


async def test_ids_are_looked_up_each_once_in_the_order_asked_for(registry):
    made, store = registry
    first, second = await made.symbol("AA"), await made.symbol("BB")
    result = await resolve(store, Wanted(symbol_ids=[second, first, second, 2**40]))
    assert [one.symbol_id for one in result.symbols] == [second, first]
    assert [one.symbol_id for one in result.unresolved] == [2**40]


async def test_with_strict_one_unknown_among_several_is_an_error(registry):
    made, store = registry
    await made.symbol("AA")
    assert len((await resolve(store, Wanted(tickers=["AA", "NOPE"]))).unresolved) == 1
    with pytest.raises(NotFound):
        await resolve(store, Wanted(tickers=["AA", "NOPE"]), strict=True)


async def test_all_that_are_unknown_are_told_in_one_error(registry):
    made, store = registry
    await made.symbol("AA")
    unknown = [f"NO{number}" for number in range(22)]
    with pytest.raises(NotFound, match=r"there are no symbols NO0, NO1, .* NO19 and 2 more") as caught:
        await resolve(store, Wanted(tickers=["AA", *unknown]), strict=True)
    assert caught.value.metadata == {"ticker": ", ".join(unknown[:20])}
    with pytest.raises(NotFound, match="there are no symbols 1000, 1001") as caught:
        await resolve(store, Wanted(symbol_ids=[1000, 1001]))
    assert caught.value.metadata == {"symbol_id": "1000, 1001"}
