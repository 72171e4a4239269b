"""Statistics: what is held of a symbol, of all symbols, and of the registry."""

from __future__ import annotations

import pytest

from mdw.symbols.v1 import symbols_pb2 as pb
from tests.support import info, violations
from tests.symbols.making import CRYPTO, DAY, ETF, MINUTE, STOCK, create, facebook, refusal

SERIES = """
INSERT INTO ingest.series (symbol_id, timeframe, bars, validated, rejected, sessions_present, first_ts, last_ts, asked)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::timestamptz, $8::text::timestamptz, '{[2024-01-01,2024-02-01)}')
"""


async def held(admin_db, symbol, timeframe, counts=(0, 0, 0, 0), span=(None, None)) -> None:
    """Puts figures there as the parts keep them: bars, good ones, rejected ones and sessions, first and last bar."""
    await admin_db.execute(SERIES, symbol.symbol_id, timeframe, *counts, *span)


async def statistics(symbols, ticker: str = "", **fields) -> pb.SymbolStatistics:
    return (await symbols.GetSymbolStatistics(pb.GetSymbolStatisticsRequest(ticker=ticker, **fields))).statistics


JANUARY = ("2024-01-02 00:00Z", "2024-01-31 00:00Z")


async def test_a_series_says_what_it_holds(symbols, admin_db):
    """Bars, first, last; sessions of the calendar between them, present and missing; the share of good bars."""
    await held(admin_db, await create(symbols, "AAPL"), DAY, (18, 9, 2, 18), JANUARY)
    (series,) = (await statistics(symbols, "AAPL")).series
    assert (series.timeframe, series.bars, series.validated_share, series.rejected) == (DAY, 18, 0.5, 2)
    assert (series.first_time.ToJsonString(), series.last_time.ToJsonString()) == (
        "2024-01-02T00:00:00Z",
        "2024-01-31T00:00:00Z",
    )
    assert (series.sessions_expected, series.sessions_present, series.sessions_missing) == (21, 18, 3)
    assert series.state.state == pb.BACKFILL_STATE_SUCCEEDED


async def test_sessions_of_minutes_are_new_yorks_and_of_coins_every_day(symbols, admin_db):
    """A minute after midnight UTC belongs to New York's evening; a coin has 31 sessions in January."""
    evening = ("2024-01-02 14:30Z", "2024-02-01 00:59Z")
    await held(admin_db, await create(symbols, "SPY", ETF), MINUTE, (5, 5, 0, 21), evening)
    await held(admin_db, await create(symbols, "BTC", CRYPTO), DAY, (31, 31, 0, 31), ("2024-01-01 00:00Z", JANUARY[1]))
    assert (await statistics(symbols, "SPY")).series[0].sessions_expected == 21
    assert (await statistics(symbols, "BTC-USD")).series[0].sessions_expected == 31


async def test_sessions_behind_count_what_has_closed_since(symbols, admin_db):
    """The last closed session is not behind, the one before it is one behind."""
    closed = await admin_db.fetch(
        "SELECT session_date::text AS day FROM ingest.sessions"
        " WHERE calendar = 'XNYS' AND close_time <= now() ORDER BY session_date DESC LIMIT 2"
    )
    for behind, (ticker, row) in enumerate(zip(("AAA", "BBB"), closed, strict=True)):
        day = row["day"]
        await held(admin_db, await create(symbols, ticker), DAY, (1, 1, 0, 1), (f"{day} 00:00Z", f"{day} 00:00Z"))
        assert (await statistics(symbols, ticker)).series[0].sessions_behind == behind


async def test_a_series_without_bars_has_no_shares(symbols, admin_db):
    """Counts are zero and there; what cannot be said is absent."""
    await held(admin_db, await create(symbols, "AAPL"), DAY)
    (series,) = (await statistics(symbols, "AAPL")).series
    assert (series.bars, series.sessions_expected, series.sessions_missing, series.rejected) == (0, 0, 0, 0)
    assert all(series.HasField(name) for name in ("bars", "sessions_expected", "sessions_missing", "rejected"))
    absent = ("validated_share", "sessions_behind", "first_time", "last_time")
    assert not any(series.HasField(name) for name in absent)


async def test_a_symbol_that_nothing_was_asked_for_has_no_series(symbols):
    """It is there, with nothing; by a former ticker, too."""
    meta = await facebook(symbols)
    assert await statistics(symbols, "FB") == pb.SymbolStatistics(
        symbol_id=meta.symbol_id, ticker="META", asset_class=STOCK
    )


async def test_unknown_symbols_are_named(symbols):
    """NOT_FOUND with the ticker; an ambiguous one names the candidates."""
    refused = await refusal(statistics(symbols, "NOPE"), "SYMBOL_NOT_FOUND")
    assert info(refused).metadata["ticker"] == "NOPE"
    await create(symbols, "BTC")
    await create(symbols, "BTC", CRYPTO)
    await refusal(statistics(symbols, "BTC"), "SYMBOL_AMBIGUOUS")


@pytest.fixture
async def five(symbols, admin_db):
    """Five symbols: one inactive, one with two series, one with none."""
    both = await create(symbols, "AAPL", timeframes=[DAY, MINUTE])
    await held(admin_db, both, DAY, (18, 9, 2, 18), JANUARY)
    await held(admin_db, both, MINUTE, (7_000, 6_000, 0, 21), ("2024-01-02 14:30Z", "2024-01-31 20:59Z"))
    await held(admin_db, await create(symbols, "MSFT", inactive=True), DAY, (2, 1, 0, 2), JANUARY)
    await create(symbols, "XYZ")
    spy = await create(symbols, "SPY", ETF)
    await held(admin_db, spy, DAY, (4, 4, 0, 4), ("2024-01-02 00:00Z", "2024-02-05 00:00Z"))
    await held(admin_db, await create(symbols, "BTC", CRYPTO), DAY)
    return symbols


async def test_the_list_holds_every_symbol_in_pages(five):
    """By class and ticker, with the series of each; with filters."""
    found, token = [], ""
    for _ in range(3):
        request = pb.ListSymbolStatisticsRequest(page_size=2, page_token=token)
        page = await five.ListSymbolStatistics(request)
        found += [(one.ticker, [series.bars for series in one.series]) for one in page.statistics]
        token = page.next_page_token
    assert found == [("AAPL", [7_000, 18]), ("MSFT", [2]), ("XYZ", []), ("SPY", [4]), ("BTC-USD", [0])]
    assert token == ""
    narrow = pb.ListSymbolStatisticsRequest(asset_class=STOCK, active_only=True)
    assert [one.ticker for one in (await five.ListSymbolStatistics(narrow)).statistics] == ["AAPL", "XYZ"]


async def test_the_list_says_what_each_symbols_own_statistics_say(five):
    """Row for row."""
    for one in (await five.ListSymbolStatistics(pb.ListSymbolStatisticsRequest())).statistics:
        assert await statistics(five, symbol_id=one.symbol_id) == one


async def test_a_token_belongs_to_its_filters(five):
    """Nor does a list of symbols take it."""
    page = await five.ListSymbolStatistics(pb.ListSymbolStatisticsRequest(page_size=2))
    other = pb.ListSymbolStatisticsRequest(page_token=page.next_page_token, active_only=True)
    await refusal(five.ListSymbolStatistics(other), "PAGE_TOKEN_INVALID")
    await refusal(five.ListSymbols(pb.ListSymbolsRequest(page_token=page.next_page_token)), "PAGE_TOKEN_INVALID")


async def test_the_registry_in_figures(five):
    """Symbols by class, series by state, totals by timeframe, and who lies furthest behind."""
    answer = await five.GetRegistryStatistics(pb.GetRegistryStatisticsRequest())
    assert [(one.asset_class, one.symbols, one.active) for one in answer.asset_classes] == [
        (STOCK, 3, 2),
        (ETF, 1, 1),
        (CRYPTO, 1, 1),
    ]
    assert [(one.timeframe, one.state, one.series) for one in answer.states] == [
        (MINUTE, pb.BACKFILL_STATE_SUCCEEDED, 1),
        (DAY, pb.BACKFILL_STATE_NONE, 1),
        (DAY, pb.BACKFILL_STATE_SUCCEEDED, 3),
    ]
    assert [(one.timeframe, one.series, one.bars) for one in answer.timeframes] == [(MINUTE, 1, 7_000), (DAY, 3, 24)]
    assert answer.timeframes[1].validated_share == pytest.approx(14 / 24)
    assert [(one.ticker, one.timeframe) for one in answer.stalest] == [("AAPL", MINUTE), ("AAPL", DAY), ("SPY", DAY)]
    assert answer.stalest[1].sessions_behind == answer.stalest[2].sessions_behind + 3


async def test_the_number_of_stalest_series_can_be_chosen(five):
    """From none to a hundred."""
    for wanted in (0, 1):
        answer = await five.GetRegistryStatistics(pb.GetRegistryStatisticsRequest(stalest=wanted))
        assert len(answer.stalest) == wanted
    for wanted in (-1, 101):
        call = five.GetRegistryStatistics(pb.GetRegistryStatisticsRequest(stalest=wanted))
        assert violations(await refusal(call, "FIELD_INVALID")) == ["stalest"]


async def test_an_empty_registry_has_empty_figures(symbols):
    """No rows, no error."""
    answer = await symbols.GetRegistryStatistics(pb.GetRegistryStatisticsRequest())
    assert answer == pb.GetRegistryStatisticsResponse()
