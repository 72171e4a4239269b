"""RecordTickerChange: facts with dates, and no two symbols under one ticker on one day."""

from __future__ import annotations

import asyncio
import random

import grpc

from mdw.symbols.v1 import symbols_pb2 as pb
from tests.support import info, reason, violations
from tests.symbols.making import CRYPTO, ETF, STOCK, create, facebook, get, refusal, rename, spans


async def test_a_change_is_told_with_its_date(symbols):
    """FB until the day before, META from the day; the symbol is the same."""
    made = await create(symbols, "FB", from_date="2012-05-18")
    changed = await rename(symbols, "FB", "META", "2022-06-09")
    assert changed.symbol_id == made.symbol_id
    assert spans(changed) == [("FB", "2012-05-18", "2022-06-08"), ("META", "2022-06-09", "")]
    assert changed == await get(symbols, "META")


async def test_telling_it_again_changes_nothing(symbols):
    """By the old ticker or the new one."""
    meta = await facebook(symbols)
    assert await rename(symbols, "FB", "META", "2022-06-09") == meta
    assert await rename(symbols, "META", "META", "2022-06-09") == meta


async def test_a_change_is_told_again_after_the_old_ticker_found_another_holder(symbols):
    """The old ticker means who held it the day before."""
    meta = await facebook(symbols)
    other = await create(symbols, "FB", from_date="2023-01-02")
    told = await rename(symbols, "FB", "META", "2022-06-09")
    assert (told.symbol_id, spans(told)) == (meta.symbol_id, spans(meta))
    assert [list(span.other_symbol_ids) for span in told.tickers] == [[other.symbol_id], []]


async def test_a_date_can_be_put_right(symbols):
    """Another date for the same change moves it."""
    await create(symbols, "FB")
    await rename(symbols, "FB", "META", "2022-06-11")
    moved = await rename(symbols, "FB", "META", "2022-06-09")
    assert spans(moved) == [("FB", "1900-01-01", "2022-06-08"), ("META", "2022-06-09", "")]


async def test_an_earlier_ticker_can_be_told_later(symbols):
    """Registered as META alone: it was FB from ever, and META since."""
    await create(symbols, "META")
    await rename(symbols, "META", "FB", "1900-01-01")
    told = await rename(symbols, "FB", "META", "2022-06-09")
    assert spans(told) == [("FB", "1900-01-01", "2022-06-08"), ("META", "2022-06-09", "")]


async def test_a_pair_is_renamed_in_any_spelling(symbols):
    """MATIC became POL; both sides are spelled as they are kept."""
    await create(symbols, "MATIC", CRYPTO)
    changed = await rename(symbols, "X:MATICUSD", "POL", "2024-09-04", CRYPTO)
    assert (changed.ticker, changed.provider_ticker) == ("POL-USD", "X:POLUSD")


async def test_a_ticker_of_another_is_refused(symbols):
    """TICKER_TAKEN names who holds it, also an ETF; nothing has changed."""
    fund = await create(symbols, "META", ETF, to_date="2022-07-01", from_date="2021-06-30")
    made = await create(symbols, "FB")
    refused = await refusal(rename(symbols, "FB", "META", "2022-06-09"), "TICKER_TAKEN")
    assert info(refused).metadata["symbol_id"] == str(fund.symbol_id)
    assert await get(symbols, "FB") == made


WRONG = [
    ("meta", "2022-06-09", "new_ticker"),
    ("", "2022-06-09", "new_ticker"),
    ("BTC-USD", "2022-06-09", "new_ticker"),
    ("META", "", "from_date"),
    ("META", "2012-05-17", "from_date"),
    ("FB", "2022-06-09", "from_date"),
]


async def test_what_breaks_a_rule_is_named(symbols):
    """INVALID_ARGUMENT names the field."""
    await create(symbols, "FB", from_date="2012-05-18")
    for new_ticker, day, field in WRONG:
        refused = await refusal(rename(symbols, "FB", new_ticker, day), "FIELD_INVALID")
        assert violations(refused) == [field]


OVERLAPS = """
SELECT count(*)
FROM symbols.tickers a
JOIN symbols.tickers b
  ON (a.symbol_id, a.from_date) < (b.symbol_id, b.from_date)
  AND daterange(a.from_date, a.to_date, '[]') && daterange(b.from_date, b.to_date, '[]')
  AND (a.symbol_id = b.symbol_id OR a.provider_ticker = b.provider_ticker
       OR (a.asset_class, a.ticker) = (b.asset_class, b.ticker))
"""


async def _attempt(call) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason(error)
    return "OK"


async def test_whoever_writes_at_once_no_day_has_two_holders(symbols, admin_db):
    """Eight writers create, rename and delist under four tickers: each is served or told why, and no spans overlap."""
    dice = random.Random(15)
    tickers = ["AA", "BB", "CC", "DD"]

    def some_call():
        day = f"20{dice.randint(10, 25)}-0{dice.randint(1, 9)}-15"
        ticker, other, asset_class = dice.choice(tickers), dice.choice(tickers), dice.choice([STOCK, ETF])
        match dice.randint(0, 2):
            case 0:
                return create(symbols, ticker, asset_class, from_date=day)
            case 1:
                return rename(symbols, ticker, other, day, asset_class)
        symbol = pb.Symbol(ticker=ticker, asset_class=asset_class, delist_date=day)
        return symbols.UpdateSymbol(pb.UpdateSymbolRequest(symbol=symbol))

    told = {"OK", "SYMBOL_EXISTS", "TICKER_TAKEN", "SYMBOL_NOT_FOUND", "FIELD_INVALID", "CONFLICT"}
    seen: set[str] = set()
    for _ in range(15):
        seen.update(await asyncio.gather(*(_attempt(some_call()) for _ in range(8))))
        assert await admin_db.fetchval(OVERLAPS) == 0
    assert seen <= told
    assert {"OK", "TICKER_TAKEN"} <= seen


async def test_one_of_many_who_create_at_once_wins(symbols, admin_db):
    """The others hear which symbol there is."""
    answers = await asyncio.gather(*(_attempt(create(symbols, "AAPL")) for _ in range(12)))
    assert sorted(answers) == ["OK"] + ["SYMBOL_EXISTS"] * 11
    assert await admin_db.fetchval("SELECT count(*) FROM symbols.symbols") == 1


async def test_two_classes_that_want_one_provider_ticker_at_once(symbols):
    """One gets it, the others hear whose it is."""
    answers = await asyncio.gather(*(_attempt(create(symbols, "META", one)) for one in (STOCK, ETF) * 3))
    assert answers.count("OK") == 1
    assert set(answers) == {"OK", "SYMBOL_EXISTS", "TICKER_TAKEN"}
