"""UpdateSymbol, ActivateSymbols, DeactivateSymbols, DeleteSymbol."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from mdw.symbols.v1 import symbols_pb2 as pb
from tests.support import info, violations
from tests.symbols.making import CRYPTO, DAY, ETF, MINUTE, create, facebook, get, refusal, spans


async def update(symbols, *mask: str, **fields) -> pb.Symbol:
    request = pb.UpdateSymbolRequest(symbol=pb.Symbol(**fields))
    if mask:
        request.update_mask.CopyFrom(FieldMask(paths=mask))
    return (await symbols.UpdateSymbol(request)).symbol


async def test_the_mask_says_what_changes(symbols):
    """Named fields change, others stay, whatever the request holds."""
    made = await create(symbols, "AAPL", name="Apple", exchange="XNAS")
    changed = await update(symbols, "name", symbol_id=made.symbol_id, name="Apple Inc.", exchange="XNYS")
    assert (changed.name, changed.exchange) == ("Apple Inc.", "XNAS")
    assert changed == await get(symbols, "AAPL")
    assert changed.update_time.ToNanoseconds() > made.update_time.ToNanoseconds()


async def test_without_a_mask_the_fields_that_are_set_change(symbols):
    """Named by ticker; what is not set stays."""
    await create(symbols, "AAPL", name="Apple")
    changed = await update(symbols, ticker="AAPL", timeframes=[DAY, MINUTE, DAY], type="CS")
    assert (changed.name, changed.type, list(changed.timeframes)) == ("Apple", "CS", [MINUTE, DAY])


async def test_a_field_that_is_named_and_not_set_is_cleared(symbols):
    """So are all of them with `*`."""
    await create(symbols, "AAPL", name="Apple", exchange="XNAS", list_date="1980-12-12", figi="BBG000B9XRY4")
    assert (await update(symbols, "list_date", ticker="AAPL")).list_date == ""
    changed = await update(symbols, "*", ticker="AAPL", name="Apple Inc.")
    assert (changed.name, changed.exchange, changed.figi, list(changed.timeframes)) == ("Apple Inc.", "", "", [])


async def test_a_symbol_that_was_read_can_be_sent_back(symbols):
    """Its id says which it is, also when its ticker is another's by now; and saying the same changes nothing."""
    meta = await facebook(symbols)
    assert (await symbols.UpdateSymbol(pb.UpdateSymbolRequest(symbol=meta))).symbol == meta


async def test_the_end_of_a_listing_ends_the_ticker(symbols):
    """The ticker is free from the next day on; until somebody took it, the end can be taken back."""
    made = await create(symbols, "TWTR")
    delisted = await update(symbols, ticker="TWTR", delist_date="2022-10-27")
    assert spans(delisted) == [("TWTR", "1900-01-01", "2022-10-27")]
    reopened = await update(symbols, "delist_date", symbol_id=made.symbol_id)
    assert spans(reopened) == [("TWTR", "1900-01-01", "")]
    await update(symbols, ticker="TWTR", delist_date="2022-10-27")
    other = await create(symbols, "TWTR", ETF, from_date="2023-01-02")
    refused = await refusal(update(symbols, "delist_date", symbol_id=made.symbol_id), "TICKER_TAKEN")
    assert info(refused).metadata["symbol_id"] == str(other.symbol_id)


WRONG = [
    (("ticker",), {"ticker": "AAPL"}, "update_mask"),
    (("active",), {"ticker": "AAPL"}, "update_mask"),
    ((), {"ticker": "AAPL"}, "update_mask"),
    ((), {"name": "x"}, "symbol.ticker"),
    ((), {"ticker": "AAPL", "exchange": "?"}, "symbol.exchange"),
    ((), {"ticker": "AAPL", "timeframes": [DAY, 8]}, "symbol.timeframes[1]"),
    ((), {"ticker": "AAPL", "list_date": "1990-01-01", "delist_date": "1980-01-01"}, "symbol.delist_date"),
    ((), {"ticker": "AAPL", "delist_date": "1999-12-31"}, "symbol.delist_date"),
]


async def test_what_breaks_a_rule_is_named(symbols):
    """INVALID_ARGUMENT names the field."""
    await create(symbols, "AAPL", from_date="2000-01-01")
    for mask, fields, field in WRONG:
        assert violations(await refusal(update(symbols, *mask, **fields), "FIELD_INVALID")) == [field]


@pytest.fixture
async def four(symbols):
    await create(symbols, "AAPL", exchange="XNAS", type="CS")
    await create(symbols, "IBM", exchange="XNYS", type="CS")
    await create(symbols, "SPY", ETF, exchange="ARCX", type="ETF")
    await create(symbols, "BTC", CRYPTO)
    return symbols


async def active(symbols) -> list[str]:
    return [found.ticker for found in (await symbols.ListSymbols(pb.ListSymbolsRequest(active_only=True))).symbols]


def named(*tickers: str) -> dict[str, list[pb.SymbolKey]]:
    return {"symbols": [pb.SymbolKey(ticker=ticker) for ticker in tickers]}


async def test_lists_are_made_inactive_and_active_again(four):
    """Counts say how many were named and how many changed; a repeat changes none; history stays."""
    both = named("AAPL", "BTC-USD", "AAPL")
    answer = await four.DeactivateSymbols(pb.DeactivateSymbolsRequest(**both))
    assert (answer.matched, answer.changed) == (2, 2)
    again = await four.DeactivateSymbols(pb.DeactivateSymbolsRequest(**both))
    assert (again.matched, again.changed) == (2, 0)
    assert await active(four) == ["IBM", "SPY"]
    assert not (await get(four, "AAPL")).active
    answer = await four.ActivateSymbols(pb.ActivateSymbolsRequest(**named("BTC-USD", "IBM")))
    assert (answer.matched, answer.changed) == (2, 1)
    assert await active(four) == ["IBM", "SPY", "BTC-USD"]


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"asset_class": 1}, ["SPY", "BTC-USD"]),
        ({"exchange": "XNYS"}, ["AAPL", "SPY", "BTC-USD"]),
        ({"type": "CS", "exchange": "XNAS"}, ["IBM", "SPY", "BTC-USD"]),
        ({"search": "b"}, ["AAPL", "IBM", "SPY"]),
        ({}, []),
    ],
)
async def test_a_filter_chooses_symbols(four, fields, left):
    """By class, exchange, type and text; an empty one chooses all."""
    await four.DeactivateSymbols(pb.DeactivateSymbolsRequest(filter=pb.SymbolFilter(**fields)))
    assert await active(four) == left


async def test_validate_only_counts_and_changes_nothing(four):
    """The numbers are those of the change."""
    chosen = pb.SymbolFilter(asset_class=1)
    plan = await four.DeactivateSymbols(pb.DeactivateSymbolsRequest(filter=chosen, validate_only=True))
    assert (plan.matched, plan.changed) == (2, 2)
    assert len(await active(four)) == 4
    plan = await four.ActivateSymbols(pb.ActivateSymbolsRequest(filter=chosen, validate_only=True))
    assert (plan.matched, plan.changed) == (2, 0)


async def test_one_unknown_ticker_of_a_list_changes_none(four):
    """NOT_FOUND names it."""
    refused = await refusal(
        four.DeactivateSymbols(pb.DeactivateSymbolsRequest(**named("AAPL", "NOPE"))), "SYMBOL_NOT_FOUND"
    )
    assert info(refused).metadata["ticker"] == "NOPE"
    assert len(await active(four)) == 4


NO_CHOICES = [
    ({}, "symbols"),
    ({**named("AAPL"), "filter": pb.SymbolFilter()}, "symbols"),
    (named(*["AAPL"] * 5_001), "symbols"),
    (named("AAPL", ""), "symbols[1].ticker"),
    ({"filter": pb.SymbolFilter(asset_class=9)}, "filter.asset_class"),
    ({"filter": pb.SymbolFilter(exchange="nyse")}, "filter.exchange"),
]


async def test_a_choice_that_is_none_is_named(symbols):
    """Neither, both, too many, or a filter that breaks a rule."""
    for fields, field in NO_CHOICES:
        refused = await refusal(symbols.ActivateSymbols(pb.ActivateSymbolsRequest(**fields)), "FIELD_INVALID")
        assert violations(refused) == [field]


async def delete(symbols, ticker: str) -> None:
    await symbols.DeleteSymbol(pb.DeleteSymbolRequest(symbol=pb.SymbolKey(ticker=ticker)))


SERIES = """
INSERT INTO ingest.series (symbol_id, timeframe, bars, first_ts, last_ts, last_write_id)
VALUES ($1, 7, $2::int, CASE WHEN $2 > 0 THEN now() END, CASE WHEN $2 > 0 THEN now() END, $3)
"""


async def test_a_symbol_that_never_held_a_bar_can_be_deleted(symbols, admin_db):
    """With what was asked of it; its ticker is free, its id is never used again."""
    made = await create(symbols, "AAPL")
    await admin_db.execute(SERIES, made.symbol_id, 0, None)
    await delete(symbols, "AAPL")
    await refusal(get(symbols, "AAPL"), "SYMBOL_NOT_FOUND")
    await refusal(delete(symbols, "AAPL"), "SYMBOL_NOT_FOUND")
    assert (await create(symbols, "AAPL")).symbol_id > made.symbol_id


@pytest.mark.parametrize(("bars", "write"), [(3, 0), (0, 0)])
async def test_a_symbol_that_holds_or_held_bars_stays(symbols, admin_db, bars, write):
    """SYMBOL_HAS_BARS, also when all its bars were deleted."""
    made = await create(symbols, "AAPL")
    await admin_db.execute(SERIES, made.symbol_id, bars, write)
    refused = await refusal(delete(symbols, "AAPL"), "SYMBOL_HAS_BARS")
    assert info(refused).metadata["symbol_id"] == str(made.symbol_id)
    assert (await get(symbols, "AAPL")).symbol_id == made.symbol_id


async def test_a_symbol_under_work_stays(symbols, admin_db):
    """Open work might bring bars."""
    made = await create(symbols, "AAPL")
    await admin_db.execute(
        "INSERT INTO ingest.slices (kind, state, priority, symbol_id, timeframe, first_date, last_date)"
        " VALUES (1, 1, 2, $1, 7, '2024-01-02', '2024-01-03')",
        made.symbol_id,
    )
    await refusal(delete(symbols, "AAPL"), "SYMBOL_HAS_BARS")
