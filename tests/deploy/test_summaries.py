"""The replay's summaries: a ticker's last day, one day's open and close, and whether markets are open."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from deploy.local.summaries import status_now, status_upcoming


async def test_the_previous_day_is_stamped_with_the_close_and_adjusted_unless_told_otherwise(http):
    answer = (await http.get("/v2/aggs/ticker/AAPL/prev")).json()
    [bar] = answer["results"]
    assert (answer["ticker"], answer["resultsCount"], bar["T"], bar["t"]) == ("AAPL", 1, "AAPL", 1362171600000)
    [raw] = (await http.get("/v2/aggs/ticker/AAPL/prev?adjusted=false")).json()["results"]
    assert (raw["c"], bar["c"]) == (430.47, round(430.47 / 28, 4))
    [coin] = (await http.get("/v2/aggs/ticker/X:BTCUSD/prev")).json()["results"]
    assert (coin["t"], coin["c"]) == (1610495999999, 37371.38)
    assert "results" not in (await http.get("/v2/aggs/ticker/NOPE/prev")).json()


async def test_one_day_of_a_stock_or_a_coin(http):
    day = (await http.get("/v1/open-close/AAPL/2005-02-25?adjusted=false")).json()
    assert (day["status"], day["from"], day["symbol"], day["close"]) == ("OK", "2005-02-25", "AAPL", 88.99)
    coin = (await http.get("/v1/open-close/crypto/BTC/USD/2021-01-12")).json()
    assert (coin["symbol"], coin["day"], coin["close"]) == ("BTC-USD", "2021-01-12T00:00:00.000Z", 37371.38)


@pytest.mark.parametrize("path", ["AAPL/2005-02-26", "NOPE/2005-02-25", "crypto/ETH/USD/2021-01-12"])
async def test_a_day_without_data_is_not_found(http, path):
    missing = await http.get(f"/v1/open-close/{path}")
    assert (missing.status_code, missing.json()["message"]) == (404, "Data not found.")


async def test_a_day_that_is_none_is_refused(http):
    assert (await http.get("/v1/open-close/AAPL/yesterday")).status_code == 400


@pytest.mark.parametrize(
    ("instant", "word", "early", "late"),
    [
        ("2024-07-03T16:59", "open", False, False),
        ("2024-07-03T17:00", "extended-hours", False, True),  # closes at 13:00
        ("2024-07-03T12:00", "extended-hours", True, False),
        ("2024-07-04T16:00", "closed", False, False),
        ("2024-07-06T16:00", "closed", False, False),
    ],
)
def test_markets_are_open_by_the_real_calendar(instant, word, early, late):
    found = status_now(datetime.fromisoformat(instant).replace(tzinfo=UTC))
    assert (found["market"], found["earlyHours"], found["afterHours"]) == (word, early, late)
    assert (found["exchanges"]["nyse"], found["currencies"]["crypto"]) == (word, "open")


def test_holidays_and_early_closes_come_a_row_an_exchange():
    rows = [row for row in status_upcoming(date(2024, 7, 1)) if row["exchange"] == "NYSE"]
    assert [(row["date"], row["status"]) for row in rows[:3]] == [
        ("2024-07-03", "early-close"),
        ("2024-07-04", "closed"),
        ("2024-09-02", "closed"),
    ]
    assert rows[0]["close"] == "2024-07-03T17:00:00.000Z"


async def test_the_status_of_markets_is_served(http):
    now = await http.get("/v1/marketstatus/now", timeout=120)  # the calendar's library takes its time to import
    assert now.json()["market"] in ("open", "closed", "extended-hours")
    assert isinstance((await http.get("/v1/marketstatus/upcoming", timeout=120)).json(), list)
