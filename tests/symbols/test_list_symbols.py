"""ListSymbols: filters and pages."""

from __future__ import annotations

import pytest

from mdw.symbols.v1 import symbols_pb2 as pb
from tests.support import violations
from tests.symbols.making import CRYPTO, DAY, ETF, MINUTE, STOCK, create, facebook, refusal


@pytest.fixture
async def registry(symbols):
    """Seven symbols of all classes: one inactive, one delisted, one renamed."""
    await create(symbols, "AAPL", name="Apple Inc.", list_date="1980-12-12", timeframes=[DAY, MINUTE])
    await create(symbols, "MSFT", name="Microsoft 100%", inactive=True)
    await facebook(symbols)
    await create(symbols, "TWTR", name="Twitter", list_date="2013-11-07", delist_date="2022-10-27")
    await create(symbols, "KIMpL", name="Kimco preferred")
    await create(symbols, "SPY", ETF, name="SPDR S&P 500")
    await create(symbols, "BTC", CRYPTO, name="Bitcoin")
    return symbols


async def tickers(symbols, **fields) -> list[str]:
    return [found.ticker for found in (await symbols.ListSymbols(pb.ListSymbolsRequest(**fields))).symbols]


async def test_symbols_come_by_class_and_ticker(registry):
    """Stocks, ETFs, crypto; within a class by ticker, capitals before small letters."""
    assert await tickers(registry) == ["AAPL", "KIMpL", "META", "MSFT", "TWTR", "SPY", "BTC-USD"]


async def test_pages_hold_every_symbol_once(registry):
    """Page by page the list is the same, and the last page has no token."""
    found, token = [], ""
    for _ in range(4):
        page = await registry.ListSymbols(pb.ListSymbolsRequest(page_size=2, page_token=token))
        found += [symbol.ticker for symbol in page.symbols]
        token = page.next_page_token
    assert found == await tickers(registry)
    assert token == ""


async def test_pages_of_one_class_end_with_it(registry):
    """The next page of stocks holds no ETF."""
    first = await registry.ListSymbols(pb.ListSymbolsRequest(asset_class=STOCK, page_size=3))
    second = pb.ListSymbolsRequest(asset_class=STOCK, page_size=3, page_token=first.next_page_token)
    assert await tickers(registry, asset_class=CRYPTO) == ["BTC-USD"]
    answer = await registry.ListSymbols(second)
    assert [found.ticker for found in answer.symbols] == ["MSFT", "TWTR"]
    assert answer.next_page_token == ""


async def test_a_token_belongs_to_its_filters(registry):
    """With other filters, or changed, it is refused."""
    page = await registry.ListSymbols(pb.ListSymbolsRequest(page_size=2))
    for fields in ({"page_token": page.next_page_token, "active_only": True}, {"page_token": "AAAA"}):
        await refusal(registry.ListSymbols(pb.ListSymbolsRequest(**fields)), "PAGE_TOKEN_INVALID")


async def test_inactive_ones_can_be_left_out(registry):
    """active_only."""
    assert "MSFT" not in await tickers(registry, active_only=True)
    assert "MSFT" in await tickers(registry)


SEARCHES = [
    ("aa", ["AAPL"]),
    ("FB", ["META"]),
    ("twitt", ["TWTR"]),
    ("PLATFORMS", ["META"]),
    ("x:btc", ["BTC-USD"]),
    ("btcusd", ["BTC-USD"]),
    ("0%", ["MSFT"]),
    ("_", []),
    ("&P", ["SPY"]),
]


async def test_search_finds_tickers_and_names(registry):
    """What a ticker, a former one too, begins with or a name contains, in any case; no character is a wildcard."""
    for search, expected in SEARCHES:
        assert await tickers(registry, search=search) == expected


DAYS = [("2012-05-17", False), ("2022-10-27", True), ("2022-10-28", False), ("2013-11-06", False)]


async def test_listed_on_is_the_universe_of_a_day(registry):
    """From the first day to the last, both included."""
    for day, present in DAYS:
        assert ("TWTR" in await tickers(registry, listed_on=day)) is present


async def test_listed_on_counts_from_the_first_known_ticker(registry):
    """Meta is there from the day on which it was FB first; a symbol of unknown dates always."""
    assert "META" not in await tickers(registry, listed_on="2012-05-17")
    assert "META" in await tickers(registry, listed_on="2012-05-18")
    assert "KIMpL" in await tickers(registry, listed_on="1950-01-02")


SERIES = """
INSERT INTO ingest.series (symbol_id, timeframe, asked, failed, last_error)
SELECT symbol_id, $2, $3, $4, $5
FROM symbols.tickers
WHERE ticker = $1
"""
SLICE = """
INSERT INTO ingest.slices (kind, state, lease_until, priority, symbol_id, timeframe, first_date, last_date)
SELECT 1, $2::smallint, CASE WHEN $2 = 2 THEN now() END, 2, symbol_id, 7, '2024-01-02', '2024-01-03'
FROM symbols.tickers
WHERE ticker = $1
"""


async def test_backfill_state_follows_the_work_itself(registry, admin_db):
    """Open work, then what failed, then what was asked; NONE where nothing was."""
    from asyncpg import Range  # noqa: PLC0415

    asked = [Range(None, None)]
    await admin_db.execute(SERIES, "AAPL", 7, asked, [], "")
    await admin_db.execute(SERIES, "MSFT", 7, asked, asked, "the provider refused the key")
    await admin_db.execute(SERIES, "SPY", 7, asked, [], "")
    await admin_db.execute(SERIES, "BTC-USD", 7, [], [], "")
    await admin_db.execute(SLICE, "SPY", 2)
    await admin_db.execute(SLICE, "BTC-USD", 1)
    expected = {
        pb.BACKFILL_STATE_NONE: ["AAPL", "KIMpL", "META", "TWTR"],
        pb.BACKFILL_STATE_PENDING: ["BTC-USD"],
        pb.BACKFILL_STATE_RUNNING: ["SPY"],
        pb.BACKFILL_STATE_SUCCEEDED: ["AAPL"],
        pb.BACKFILL_STATE_FAILED: ["MSFT"],
    }
    for state, found in expected.items():
        assert await tickers(registry, backfill_state=state) == found


async def test_a_failed_series_says_why(registry, admin_db):
    """The state of each series comes with its error, its watermark and its last success."""
    await admin_db.execute(SERIES, "AAPL", 1, [], [], "cut body")
    await admin_db.execute("UPDATE ingest.series SET watermark = '2024-01-03', last_success_time = '2024-01-04 01:00Z'")
    found = (await registry.ListSymbols(pb.ListSymbolsRequest(search="AAPL"))).symbols[0]
    assert [(one.timeframe, one.state) for one in found.series] == [(MINUTE, 1), (DAY, 1)]
    assert (found.series[0].last_error, found.series[0].watermark_date) == ("cut body", "2024-01-03")
    assert found.series[0].last_success_time.ToJsonString() == "2024-01-04T01:00:00Z"


WRONG = [
    ({"asset_class": 4}, "asset_class"),
    ({"backfill_state": 6}, "backfill_state"),
    ({"listed_on": "today"}, "listed_on"),
    ({"page_size": -1}, "page_size"),
    ({"search": "x" * 101}, "search"),
]


async def test_what_breaks_a_rule_is_named(symbols):
    """INVALID_ARGUMENT names the field."""
    for fields, field in WRONG:
        refused = await refusal(symbols.ListSymbols(pb.ListSymbolsRequest(**fields)), "FIELD_INVALID")
        assert violations(refused) == [field]
