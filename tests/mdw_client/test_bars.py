"""Bars: one call gives a table, and a stream that breaks anywhere gives the same one."""

from __future__ import annotations

import datetime as dt
import os
import sys
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdw.ingest.v1.bars_pb2 import (
    ADJUSTMENT_SPLIT,
    HOURS_REGULAR,
    Bar,
    GetLatestBarsResponse,
    LatestBar,
    ListBarsResponse,
    Receipt,
    StreamBarsResponse,
)
from mdw.type.v1.type_pb2 import ASSET_CLASS_STOCK, TIMEFRAME_1D, TIMEFRAME_1M
from mdw_client import AsyncClient, Client, ConfigurationError, NotFound, PermissionDenied, Unavailable, retries
from mdw_client.frames import MissingExtraError
from services.kit.errors import PermissionDenied as Denied
from services.kit.errors import Unavailable as Away
from tests.mdw_client.market import AS_OF, FIRST_MS, Market, chunk

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mdw_client.warehouse import Warehouse

AWAY = Away("NODE_UNAVAILABLE", "a node is away", retry_after=0)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "backoff", lambda _: 0.0)


def test_gives_the_columns_of_a_ticker(market: Market, client: Client) -> None:
    bars = client.bars("AAPL")
    columns = bars.columns()
    assert len(bars) == 10
    assert list(columns["close"]) == [1000.0 + row for row in range(10)]
    assert columns["start_time"][0] == np.datetime64(FIRST_MS, "ms")
    assert (columns["trade_count"][0], columns["trade_count"][1], columns["flags"][1]) == (-1, 1000, 300)
    assert np.isnan(columns["vwap"][0])
    assert {name: column.dtype.name for name, column in columns.items()} == {
        "symbol_id": "int64",
        "start_time": "datetime64[ms]",
        **dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), "float64"),
        "trade_count": "int64",
        "flags": "uint32",
    }


def test_the_receipt_says_what_it_is(market: Market, client: Client) -> None:
    bars = client.bars(["AAPL", "GONE", "MSFT"])
    assert (bars.receipt.bars, list(bars.receipt.symbol_ids)) == (20, [1, 2])
    assert [each.ticker for each in bars.unresolved] == ["GONE"]
    assert bars.tickers == {1: "AAPL", 2: "MSFT"}
    assert repr(bars) == "<Bars: 20 of 2 symbols, as of 2023-11-14T22:13:20.123456+00:00>"
    client.bars("AAPL", as_of=bars.receipt)
    client.bars("AAPL", as_of=bars.as_of)
    assert market.requests[1].as_of == market.requests[2].as_of == AS_OF


def test_asks_for_what_was_said(market: Market, client: Client) -> None:
    client.bars(
        ["AAPL"],
        "1m",
        "2024-05-01",
        "2024-05-01T20:00Z",
        asset_class="stock",
        adjustment="split",
        hours="regular",
        min_quality=0.85,
        last=5,
        strict=True,
        changed_since=AS_OF,
    )
    asked = market.requests[0]
    assert (list(asked.tickers), asked.timeframe, asked.asset_class) == (["AAPL"], TIMEFRAME_1M, ASSET_CLASS_STOCK)
    assert (asked.adjustment, asked.hours, asked.min_quality, asked.last) == (ADJUSTMENT_SPLIT, HOURS_REGULAR, 0.85, 5)
    assert (asked.strict, asked.changed_since) == (True, AS_OF)
    assert asked.end_time.ToJsonString() == "2024-05-01T20:00:00Z"


def test_symbols_may_be_named_by_id_or_all_of_them(market: Market, client: Client) -> None:
    assert not client.bars(1).several
    client.bars([1, 2])
    client.bars(all_active=True)
    assert [list(asked.symbol_ids) for asked in market.requests] == [[1], [1, 2], []]
    assert market.requests[2].all_active


@pytest.mark.parametrize(
    ("tickers", "message"), [([], "say all_active=True"), (["AAPL", 1], "by tickers or all by symbol_ids")]
)
def test_refuses_a_list_that_cannot_be_meant(client: Client, tickers: list, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        client.bars(tickers)


def test_an_unknown_ticker_alone_is_not_found(market: Market, client: Client) -> None:
    with pytest.raises(NotFound) as raised:
        client.bars("GONE")
    assert (raised.value.reason, raised.value.metadata) == ("SYMBOL_NOT_FOUND", {"ticker": "GONE"})


@pytest.mark.parametrize("after", range(9))
def test_a_stream_that_breaks_goes_on_after_the_last_bar(market: Market, client: Client, after: int) -> None:
    market.breaks = [(after, AWAY), (min(after + 1, 8), AWAY)]
    bars = client.bars(["AAPL", "MSFT", "BTC-USD"])
    assert list(bars.columns()["close"]) == [symbol * 1000.0 + row for symbol in (1, 2, 3) for row in range(10)]
    assert (bars.receipt.bars, bars.receipt.sessions_expected) == (30, 30)
    assert list(bars.receipt.symbol_ids) == [1, 2, 3]
    if after:
        assert all(asked.as_of == AS_OF for asked in market.requests[1:])


@pytest.mark.parametrize("after", range(1, 9))
def test_within_a_long_symbol_it_goes_on_from_the_last_message(market: Market, client: Client, after: int) -> None:
    market.tokens, market.a_chunk = True, 1
    market.breaks = [(after + 1, AWAY), (after + 1, AWAY), (after + 1, AWAY)]
    bars = client.bars(["AAPL", "MSFT", "BTC-USD"])
    assert list(bars.columns()["close"]) == [symbol * 1000.0 + row for symbol in (1, 2, 3) for row in range(10)]
    assert (bars.receipt.bars, list(bars.receipt.symbol_ids)) == (30, [1, 2, 3])
    assert market.sent - 30 <= len(market.requests) - 1  # a message that was under way when the stream broke


def test_symbols_that_came_whole_are_not_asked_for_again(market: Market, client: Client) -> None:
    market.breaks = [(5, AWAY), (2, AWAY), (7, AWAY), (3, AWAY)]
    bars = client.bars(["AAPL", "GONE", "MSFT", "BTC-USD"])
    asked = [(list(each.tickers), list(each.symbol_ids)) for each in market.requests]
    assert asked == [
        (["AAPL", "GONE", "MSFT", "BTC-USD"], []),
        ([], [2, 3]),
        ([], [2, 3]),
        ([], [3]),
        ([], [3]),
    ]
    assert [each.ticker for each in bars.unresolved] == ["GONE"]
    whole = client.bars(["AAPL", "GONE", "MSFT", "BTC-USD"])
    assert bars.receipt == whole.receipt
    assert all((bars.columns()[name] == column).all() for name, column in whole.columns().items() if name != "vwap")


async def test_it_does_on_asyncio_too(market: Market, aclient: AsyncClient) -> None:
    market.breaks = [(4, AWAY), (6, AWAY)]
    bars = await aclient.bars(["AAPL", "MSFT"])
    assert list(bars.columns()["close"]) == [symbol * 1000.0 + row for symbol in (1, 2) for row in range(10)]


def test_a_stream_that_never_comes_back_ends_with_its_error(market: Market, client: Client) -> None:
    client._connection.patience = 0.01
    market.breaks = [(3, AWAY)] * 1000
    with pytest.raises(Unavailable):
        client.bars("AAPL")


def test_a_stream_that_is_refused_is_not_taken_up_again(market: Market, client: Client) -> None:
    market.breaks = [(3, Denied("SCOPE_MISSING", "the key lacks bars.read", scopes="bars.read"))]
    with pytest.raises(PermissionDenied):
        client.bars("AAPL")
    assert len(market.requests) == 1


def test_chunks_come_one_by_one(market: Market, client: Client) -> None:
    chunks = client.bars.chunks(["AAPL", "GONE"])
    assert [(each.symbol_id, each.ticker, len(each)) for each in chunks] == [
        (1, "AAPL", 4),
        (1, "AAPL", 4),
        (1, "AAPL", 2),
    ]
    assert (chunks.receipt.bars, chunks.unresolved[0].ticker) == (10, "GONE")


async def test_chunks_come_one_by_one_on_asyncio(market: Market, aclient: AsyncClient) -> None:
    chunks = aclient.bars.chunks(["AAPL", "GONE"])
    assert [len(each) async for each in chunks] == [4, 4, 2]
    assert (chunks.receipt.bars, chunks.unresolved[0].ticker) == (10, "GONE")


def test_changes_name_what_went_and_what_is_sent_anew(warehouse: Warehouse, client: Client) -> None:
    warehouse.answers["StreamBars"] = [
        StreamBarsResponse(as_of=AS_OF),
        StreamBarsResponse(symbol_id=1, ticker="AAPL", deleted_time_ms=[FIRST_MS]),
        StreamBarsResponse(symbol_id=1, ticker="AAPL", deleted_time_ms=[FIRST_MS + 1]),
        StreamBarsResponse(symbol_id=2, ticker="MSFT", replaces_all=True, start_time_ms=[], deleted_time_ms=[]),
        StreamBarsResponse(receipt=Receipt(as_of=AS_OF)),
    ]
    bars = client.bars(["AAPL", "MSFT"], changed_since=AS_OF)
    assert {key: list(times.astype(int)) for key, times in bars.deleted.items()} == {1: [FIRST_MS, FIRST_MS + 1]}
    assert bars.replaced == {2}


def test_pandas_has_dates_for_days(market: Market, client: Client) -> None:
    frame = client.bars("AAPL").to_pandas()
    assert frame.index.name == "date"
    assert frame.loc["2020-01-03", "close"] == 1001.0
    assert frame.index.tz is None
    assert frame["trade_count"].isna().sum() == 4
    assert list(frame.columns) == ["open", "high", "low", "close", "volume", "vwap", "trade_count", "flags"]


def test_pandas_has_utc_times_for_minutes(market: Market, client: Client) -> None:
    market.step_ms = 60_000
    frame = client.bars("AAPL", "1m").to_pandas()
    assert frame.index.name == "time"
    assert frame.index[1] == pd.Timestamp("2020-01-02T00:01Z")


def test_pandas_has_the_ticker_in_the_index_of_a_list(market: Market, client: Client) -> None:
    frame = client.bars(["MSFT", "AAPL"]).to_pandas()
    assert frame.index.names == ["ticker", "date"]
    assert frame.loc["AAPL", "close"].iloc[-1] == 1009.0
    assert frame.loc[("MSFT", "2020-01-03"), "symbol_id"] == 2


@pytest.mark.parametrize("tickers", ["AAPL", ["AAPL", "MSFT"]])
def test_an_empty_answer_is_an_empty_table(market: Market, client: Client, tickers) -> None:
    market.bars = 0
    bars = client.bars(tickers)
    assert (len(bars), len(bars.to_pandas()), len(bars.to_polars()), len(bars.to_arrow())) == (0, 0, 0, 0)
    assert repr(bars).startswith("<Bars: 0 of 0 symbols")


def test_polars_has_nulls_for_what_is_absent(market: Market, client: Client) -> None:
    frame = client.bars(["AAPL", "MSFT"]).to_polars()
    assert frame.columns[:3] == ["ticker", "symbol_id", "date"]
    assert frame.schema["date"] == pl.Date
    assert frame["vwap"].null_count() == frame["trade_count"].null_count() == 8
    assert frame.filter(pl.col("ticker") == "MSFT")["close"][0] == 2000.0
    market.step_ms = 60_000
    assert client.bars("AAPL", "1m").to_polars().schema["time"] == pl.Datetime("ms", "UTC")


def test_arrow_has_nulls_for_what_is_absent(market: Market, client: Client) -> None:
    table = client.bars(["AAPL", "MSFT"]).to_arrow()
    assert table.schema.names[:3] == ["ticker", "symbol_id", "date"]
    assert table["date"][0].as_py() == dt.date(2020, 1, 2)
    assert table["vwap"].null_count == table["trade_count"].null_count == 8
    assert table.schema.field("date").type == pa.date32()


def test_parquet_is_written_as_it_comes(market: Market, client: Client, tmp_path: Path) -> None:
    market.breaks = [(4, AWAY)]
    saved = client.bars.save(tmp_path / "bars.parquet", ["AAPL", "MSFT", "GONE"])
    assert (saved.bars, saved.receipt.bars, saved.unresolved[0].ticker) == (20, 20, "GONE")
    table = pq.read_table(saved.path)
    assert table["close"].to_pylist() == [symbol * 1000.0 + row for symbol in (1, 2) for row in range(10)]
    assert table["ticker"].to_pylist() == ["AAPL"] * 10 + ["MSFT"] * 10
    receipt = Receipt.FromString(bytes.fromhex(pq.read_metadata(saved.path).metadata[b"mdw.receipt"].decode()))
    assert receipt.as_of == AS_OF
    assert [path.name for path in tmp_path.iterdir()] == ["bars.parquet"]


async def test_parquet_is_written_on_asyncio_too(market: Market, aclient: AsyncClient, tmp_path: Path) -> None:
    saved = await aclient.bars.save(tmp_path / "bars.parquet", "AAPL")
    assert len(pq.read_table(saved.path)) == 10


def test_parquet_has_row_groups_of_bounded_size(
    market: Market, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdw_client.parquet._ROWS_A_GROUP", 8)
    client.bars(["AAPL", "MSFT"]).to_parquet(tmp_path / "bars.parquet")
    groups = pq.read_metadata(tmp_path / "bars.parquet")
    assert [groups.row_group(each).num_rows for each in range(groups.num_row_groups)] == [8, 10, 2]


async def test_a_failed_answer_leaves_no_file(
    market: Market, client: Client, aclient: AsyncClient, tmp_path: Path
) -> None:
    market.breaks = [(4, Denied("SCOPE_MISSING", "no", scopes="bars.read"))] * 2
    with pytest.raises(PermissionDenied):
        client.bars.save(tmp_path / "bars.parquet", "AAPL")
    with pytest.raises(PermissionDenied):
        await aclient.bars.save(tmp_path / "bars.parquet", "AAPL")
    bars = client.bars("AAPL")
    bars._chunks[1].columns["close"] = bars._chunks[1].columns["close"][:1]
    with pytest.raises(ValueError, match="same length"):
        bars.to_parquet(tmp_path / "bars.parquet")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 # pathlib's is refused in a coroutine


def test_quality_follows_from_the_flags(warehouse: Warehouse, client: Client) -> None:
    message = chunk(1, "AAPL", range(6))
    del message.flags[:]
    message.flags.extend([0, 1, 2, 4 | 8, 1 | 2 | 4 | 8, 16])
    warehouse.answers["StreamBars"] = [message]
    assert list(client.bars("AAPL").quality()) == [1.0, 0.7, 0.8, 0.75, 0.25, 1.0]


def test_a_library_that_is_not_there_is_named(market: Market, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mdw-client\[polars\]'"):
        client.bars("AAPL").to_polars()


def test_lists_bars_as_messages(warehouse: Warehouse, client: Client) -> None:
    pages = {"": ListBarsResponse(bars=[Bar(close=1)], next_page_token="2"), "2": ListBarsResponse(bars=[Bar(close=2)])}
    warehouse.answers["ListBars"] = lambda request: pages[request.page_token]
    assert [bar.close for bar in client.bars.list("AAPL", order="time_desc", as_of=AS_OF)] == [1, 2]
    assert warehouse.requests("ListBars")[1].as_of == AS_OF


def test_gives_the_latest_bars(warehouse: Warehouse, client: Client) -> None:
    warehouse.answers["GetLatestBars"] = GetLatestBarsResponse(bars=[LatestBar(symbol_id=1, ticker="AAPL")])
    assert client.bars.latest(["AAPL"]).bars[0].ticker == "AAPL"
    assert warehouse.requests("GetLatestBars")[0].timeframe == TIMEFRAME_1D
