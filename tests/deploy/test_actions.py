"""The replay's splits and dividends: in the present and in the old spelling, filtered, in order, page by page."""

from __future__ import annotations

import pytest

from tests.deploy.test_replay import pages

DIVIDENDS = {"/stocks/v1/dividends": "sort=ex_dividend_date.asc", "/v3/reference/dividends": "order=asc"}


async def test_splits_come_in_the_old_and_in_the_new_spelling(http):
    since = "execution_date.gte=2020-01-01&sort=execution_date.asc"
    new = (await http.get(f"/stocks/v1/splits?ticker.any_of=AAPL,TSLA&{since}")).json()
    assert [(row["ticker"], row["historical_adjustment_factor"]) for row in new["results"]] == [
        ("AAPL", 0.25),
        ("TSLA", 1 / 15),
        ("TSLA", 1 / 3),
    ]
    old = (await http.get("/v3/reference/splits?ticker=AAPL&limit=1")).json()["results"]
    assert [(row["execution_date"], row["split_from"], row["split_to"]) for row in old] == [("2020-08-31", 1, 4)]
    assert "adjustment_type" not in old[0]


async def test_dividends_come_in_the_old_and_in_the_new_spelling(http):
    new = (await http.get("/stocks/v1/dividends?ticker=AAPL&limit=1")).json()["results"]
    assert [(row["ex_dividend_date"], row["cash_amount"], row["currency"]) for row in new] == [
        ("2013-02-07", 2.65, "USD")
    ]
    assert (new[0]["split_adjusted_cash_amount"], new[0]["distribution_type"]) == (round(2.65 / 28, 10), "recurring")
    old = (await http.get("/v3/reference/dividends?ticker=MSFT&ex_dividend_date=2004-11-15&order=asc")).json()[
        "results"
    ]
    assert sorted((row["cash_amount"], row["dividend_type"]) for row in old) == [(0.08, "CD"), (3, "SC")]


@pytest.mark.parametrize("path", DIVIDENDS)
async def test_they_are_paged_by_a_cursor_that_holds_what_was_asked(http, path):
    asked = f"{path}?ticker=MSFT&{DIVIDENDS[path]}"
    whole = (await http.get(f"{asked}&limit=1000")).json()["results"]
    assert len(whole) == 38
    found = await pages(http, f"{asked}&limit=10")
    assert [len(page["results"]) for page in found] == [10, 10, 10, 8]
    assert [row for page in found for row in page["results"]] == whole
    assert found[0]["next_url"].startswith(f"https://api.polygon.io{path}?cursor=")


async def test_they_are_sorted_by_ticker_where_that_is_asked(http):
    rows = (await http.get("/stocks/v1/splits?sort=ticker.asc&ticker.gt=AAPL&limit=9")).json()["results"]
    assert [row["ticker"] for row in rows] == ["MSFT", "TSLA", "TSLA"]
    old = (await http.get("/v3/reference/splits?sort=ticker&order=desc&limit=2")).json()["results"]
    assert [row["ticker"] for row in old] == ["TSLA", "TSLA"]


@pytest.mark.parametrize("query", ["sort=price.asc", "sort=ticker.up", "limit=0", "cursor=cGFnZV9tYXJrZXI9eA"])
async def test_what_cannot_be_read_is_refused(http, query):
    assert (await http.get(f"/stocks/v1/splits?{query}")).status_code == 400


async def test_what_lies_in_the_future_of_the_replay_is_not_known_yet(market):
    known = type(market)(today=market.dividends[0].ex_date)
    assert [one.ex_date for one in known.dividends if one.ticker == "AAPL"] == [market.dividends[0].ex_date]
