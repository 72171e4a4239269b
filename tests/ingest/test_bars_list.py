"""ListBars: pages of one series, and what it was at any instant."""

from __future__ import annotations

import pytest

from mdw.ingest.v1 import bars_pb2
from tests.ingest.bars_support import bars_serving
from tests.ingest.history import DAY, History, day, days

D1 = 7


@pytest.fixture
async def history(database):
    return History(database.ingest_url, database.admin_url)


@pytest.fixture
async def bars(database):
    async with bars_serving(database) as bars:
        yield bars


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
