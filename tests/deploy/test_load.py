"""The made-up market for load tests: named as such, the same every time, and possible."""

from __future__ import annotations

from datetime import UTC, date, datetime

import httpx
import pytest

from deploy.local.load import LoadMarket
from deploy.local.replay import Replay, read_market


@pytest.fixture(scope="module")
def market():
    return LoadMarket(3, date(2024, 1, 2), date(2024, 1, 31))


def test_its_bars_are_possible_and_lie_in_the_sessions(market):
    days = market.find("LOAD00000", "day").bars
    minutes = market.find("LOAD00002", "minute").bars
    assert (len(days), len(minutes)) == (21, 21 * 390)
    assert all(bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high for bar in (*days, *minutes))
    assert datetime.fromtimestamp(minutes[0].start / 1000, UTC).isoformat() == "2024-01-02T14:30:00+00:00"
    assert market.find("AAPL", "day") is None
    assert market.find("LOAD00000", "second") is None


async def test_it_is_served_like_any_other(market):
    replay = Replay(market=market, public_url=None)
    async with httpx.AsyncClient(base_url=await replay.start(), headers={"Authorization": "Bearer replay"}) as http:
        url = "/v2/aggs/ticker/LOAD00001/range/1/minute/2024-01-02/2024-01-31?limit=5000"
        first = (await http.get(url)).json()
        second = (await http.get(first["next_url"])).json()
        grouped = (await http.get("/v2/aggs/grouped/locale/us/market/stocks/2024-01-03")).json()
    await replay.stop()
    assert (first["resultsCount"], second["resultsCount"]) == (5000, 21 * 390 - 5000)
    assert {"vw", "n"} < set(first["results"][0])
    assert [row["T"] for row in grouped["results"]] == ["LOAD00000", "LOAD00001", "LOAD00002"]


def test_it_is_asked_for_by_a_line():
    assert len(read_market("2:2024-01-02:2024-01-03").listings) == 2
