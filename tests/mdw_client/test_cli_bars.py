"""The command `mdw`: bars, coverage and sync."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from mdw.ingest.v1 import bars_pb2, ingest_pb2
from mdw.type.v1 import type_pb2
from tests.mdw_client.market import Market
from tests.mdw_client.test_cli import DAY
from tests.mdw_client.versions import Versions

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mdw_client.warehouse import Warehouse


def test_bars_go_to_a_file(market: Market, ran, tmp_path: Path) -> None:
    found = ran("bars", "AAPL", "MSFT", "GONE", "1d", "--out", str(tmp_path / "x.parquet"))
    assert (found.status, found.out) == (0, "")
    assert found.err == "left out: GONE: symbol_not_found\n20 bars, as of 2023-11-14T22:13:20.123456Z\n"
    assert len(pq.read_table(tmp_path / "x.parquet")) == 20
    assert ran("bars", "AAPL", "--out", str(tmp_path / "x.csv")).status == 0
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == "ticker,date,open,high,low,close,volume,vwap,trade_count,flags"
    assert lines[1] == "AAPL,2020-01-02,999.5,1001.0,999.0,1000.0,0.25,,,0"
    assert lines[2] == "AAPL,2020-01-03,1000.5,1002.0,1000.0,1001.0,1.25,1001.0,1000,300"
    assert market.requests[0].last == 0


def test_bars_are_csv_where_the_output_is_piped(market: Market, ran) -> None:
    market.step_ms = 60_000
    found = ran("bars", "1", "1m", "--last", "5")
    assert found.out.splitlines()[1].startswith("AAPL,2020-01-02T00:00:00Z,")
    assert (list(market.requests[0].symbol_ids), market.requests[0].last) == ([1], 5)


def test_bars_are_json_lines(market: Market, ran) -> None:
    found = ran("bars", "AAPL", "--json")
    assert found.objects[0] == {
        "symbol_id": 1,
        "ticker": "AAPL",
        "date": "2020-01-02",
        "open": 999.5,
        "high": 1001.0,
        "low": 999.0,
        "close": 1000.0,
        "volume": 0.25,
        "flags": 0,
    }
    assert found.objects[1]["trade_count"] == 1000


@pytest.mark.usefixtures("terminal")
def test_bars_are_a_table_on_a_terminal(market: Market, ran) -> None:
    found = ran("bars", "AAPL")
    assert "1,001" in found.out
    assert market.requests[0].last == 20


@pytest.fixture
def covered(warehouse: Warehouse) -> ingest_pb2.SeriesCoverage:
    """Ten days of bars from 2020-01-02 on, weekends too, of which one is doubtful, and holes beside them."""
    series = ingest_pb2.SeriesCoverage(
        symbol_id=1, ticker="AAPL", timeframe=DAY, sessions_expected=11, sessions_present=10, sessions_missing=1
    )
    series.doubtful.add(first_date="2020-01-06", last_date="2020-01-06", sessions=1, reason="SUSPECT", asks=2)
    series.holes.add(first_date="2020-01-13", last_date="2020-01-14", sessions=2, reason="FAILED", detail="HTTP 500")
    series.holes.add(first_date="2019-12-30", last_date="2020-01-01", sessions=2, reason="BEFORE_LISTING")
    warehouse.answers |= {
        "GetCoverage": lambda _: ingest_pb2.GetCoverageResponse(series=[series]),
        "StreamBars": Market().stream,
    }
    return series


def test_coverage_is_a_calendar_with_reasons(covered, ran) -> None:
    found = ran("coverage", "AAPL", "--start", "2019-12-01")
    assert found.status == 0
    lines = [line.rstrip() for line in found.out.splitlines()]
    assert lines[0] == "AAPL 1d: 10 of 11 sessions, 1 missing"
    assert lines[1:4] == ["2019-12", "2020-01   ████▓█████ xx", "█ present  ▓ doubtful  x failed"]
    assert "HTTP 500" in found.out
    assert "asked 2 times" in found.out
    assert ran("coverage", "AAPL", "--json").objects[0]["sessions_present"] == "10"


def test_minutes_count_for_the_session_of_new_york(covered, warehouse: Warehouse, ran) -> None:
    """2020-01-02T00:00Z lies in the evening of the first of January there."""
    covered.timeframe = type_pb2.TIMEFRAME_1M
    covered.more_holes = True
    del covered.doubtful[:]
    warehouse.answers["StreamBars"] = Market(step_ms=60_000).stream
    found = ran("coverage", "1", "--timeframe", "1h", "--start", "2020-01-01", "--class", "stock")
    assert found.out.splitlines()[1].rstrip() == "2020-01  █           xx"
    assert "name a shorter span" in found.out


def test_coverage_without_bars_has_its_reasons_alone(covered, warehouse: Warehouse, ran) -> None:
    del covered.holes[1:], covered.doubtful[:]
    warehouse.answers["StreamBars"] = Market(bars=0).stream
    lines = [line.rstrip() for line in ran("coverage", "AAPL", "--start", "2020-01-01").out.splitlines()]
    assert lines[1] == "2020-01              xx"
    covered.holes[0].reason = ingest_pb2.Hole.BEFORE_LISTING
    assert "2020-01 " not in ran("coverage", "AAPL", "--start", "2020-01-01").out.splitlines()[1]


def test_coverage_rests_at_weekends_where_the_market_does(covered, warehouse: Warehouse, ran) -> None:
    """From Friday to Tuesday there are three sessions of stocks, and five of coins."""
    del covered.holes[1:], covered.doubtful[:]
    warehouse.answers["StreamBars"] = Market(bars=0).stream
    hole = covered.holes[0]
    hole.first_date, hole.last_date, hole.sessions = "2020-01-10", "2020-01-14", 3
    assert ran("coverage", "AAPL", "--start", "2020-01-01").out.splitlines()[1].rstrip() == "2020-01           x  xx"
    hole.sessions = 5
    assert ran("coverage", "AAPL", "--start", "2020-01-01").out.splitlines()[1].rstrip() == "2020-01           xxxxx"


def test_coverage_of_bars_that_ended_long_ago_is_of_their_last_year(covered, warehouse: Warehouse, ran) -> None:
    last = bars_pb2.LatestBar(symbol_id=1, bar=bars_pb2.Bar(session_date="2020-01-11"))
    warehouse.answers["GetLatestBars"] = bars_pb2.GetLatestBarsResponse(bars=[last])
    found = ran("coverage", "AAPL")
    asked = warehouse.requests("GetCoverage")[0]
    assert asked.start_time.ToJsonString() == "2019-01-11T00:00:00Z"
    assert asked.end_time.ToJsonString() == "2020-01-12T00:00:00Z"
    assert "nothing is held from 2020-01-12 on: mdw coverage AAPL --start 2020-01-12" in found.out
    last.bar.session_date = datetime.now(UTC).date().isoformat()
    warehouse.answers["GetLatestBars"] = bars_pb2.GetLatestBarsResponse(bars=[last])
    assert "nothing is held" not in ran("coverage", "AAPL").out
    assert not warehouse.requests("GetCoverage")[1].HasField("end_time")


def test_a_folder_is_kept_equal_to_the_bars(warehouse: Warehouse, ran, tmp_path: Path) -> None:
    versions = Versions()
    versions.change(1, {1: 10.0})
    warehouse.answers["StreamBars"] = versions.stream
    found = ran("sync", str(tmp_path), "--all-active")
    assert (found.status, found.err) == (0, "")
    assert found.out == f"{tmp_path}/1d: 1 symbols, 1 files written, as of 1970-01-01T00:00:01Z\n"
    assert ran("sync", str(tmp_path), "1", "--json").objects[0]["files_written"] == 0
    assert list(versions.requests[1].symbol_ids) == [1]
    assert ran("sync", str(tmp_path), "--adjustment", "split").status == 2
