"""GetLatestBars: the newest bar of each symbol, now and as of any instant."""

from __future__ import annotations

import grpc

from mdw.ingest.v1 import bars_pb2
from tests.ingest.bars_support import refused, to_time
from tests.ingest.history import day, days
from tests.support import violations

H1, D1 = 5, 7


async def test_the_latest_bars_are_found_by_their_keys_at_any_instant(history, bars):
    aapl, msft, bare = [await history.symbol(ticker) for ticker in ("AAPL", "MSFT", "NVDA")]
    first = await history.write(aapl, days("2024-01-01", [1, 2, 3]))
    second = await history.write(msft, days("2024-01-01", [5]))
    third = await history.write(aapl, days("2024-01-03", [30, 40]))
    await history.write(aapl, delete=[day("2024-01-04").ts])

    async def closes(**fields):
        answer = await bars.latest(symbol_ids=[msft, aapl, bare], timeframe=D1, **fields)
        assert [one.symbol_id for one in answer.bars] == [msft, aapl, bare]
        return [one.bar.close if one.HasField("bar") else None for one in answer.bars]

    assert await closes() == [5, 30, None]
    assert await closes(as_of=to_time(third)) == [5, 40, None]
    assert await closes(as_of=to_time(second)) == [5, 3, None]
    assert await closes(as_of=to_time(first)) == [None, 3, None]


async def test_the_latest_bars_of_unknown_tickers_are_told(history, bars):
    await history.symbol("AAPL")
    answer = await bars.latest(tickers=["AAPL", "NOPE"], timeframe=D1)
    assert [one.ticker for one in answer.unresolved] == ["NOPE"]
    assert answer.receipt.empty_series[0].reason == bars_pb2.Receipt.NEVER_INGESTED
    for fields, named in (
        ({"tickers": ["AAPL"], "timeframe": H1}, "timeframe"),
        ({"timeframe": D1}, "tickers"),
        ({"tickers": ["AAPL"] * 1001, "timeframe": D1}, "tickers"),
    ):
        error = await refused(bars.latest(**fields))
        assert (error.code(), violations(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [named])
