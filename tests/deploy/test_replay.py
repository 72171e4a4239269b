"""The replay speaks Polygon's wire format: what recordings, the API description and its users' reports say."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import date
from urllib.parse import urlsplit

import httpx
import pytest

from deploy.local import spelling
from deploy.local.replay import Plan, Replay

AAPL = "/v2/aggs/ticker/AAPL/range/1/day"
SPY = "/v2/aggs/ticker/SPY/range"


async def pages(http: httpx.AsyncClient, url: str) -> list[dict]:
    found = []
    while url:
        answer = (await http.get(url)).raise_for_status().json()
        found.append(answer)
        target = urlsplit(answer.get("next_url", ""))
        url = target.path and f"{target.path}?{target.query}"
    return found


async def test_a_day_bar_of_a_stock_starts_at_midnight_in_new_york(http):
    answer = (await http.get(f"{AAPL}/2005-04-01/2005-04-04?adjusted=false")).json()
    assert [bar["t"] for bar in answer["results"]] == [1112331600000, 1112587200000]
    assert answer["results"][0] == {"v": 22903000, "o": 42.09, "c": 40.89, "h": 42.18, "l": 40.57, "t": 1112331600000}
    assert list(answer) == [
        "ticker",
        "queryCount",
        "resultsCount",
        "adjusted",
        "results",
        "status",
        "request_id",
        "count",
    ]
    assert tuple(answer[k] for k in ("ticker", "queryCount", "resultsCount", "adjusted", "status")) == (
        "AAPL",
        2,
        2,
        False,
        "OK",
    )


async def test_a_day_bar_of_crypto_starts_at_midnight_utc_and_has_a_fractional_volume(http):
    answer = (await http.get("/v2/aggs/ticker/X:BTCUSD/range/1/day/2018-01-01/2018-01-01")).json()
    assert [(bar["t"], bar["v"]) for bar in answer["results"]] == [(1514764800000, 20078.092111)]


async def test_minutes_are_instants_in_utc(http):
    answer = (await http.get(f"{SPY}/1/minute/2020-12-15/2020-12-15")).json()
    assert answer["resultsCount"] == 391
    assert answer["results"][0]["t"] == 1608042600000  # 09:30 in New York is 14:30 UTC in winter


async def test_bars_are_adjusted_for_splits_unless_told_otherwise(http):
    raw = (await http.get(f"{AAPL}/2005-02-25/2005-02-28?adjusted=false")).json()["results"]
    adjusted = (await http.get(f"{AAPL}/2005-02-25/2005-02-28")).json()
    assert adjusted["adjusted"] is True
    assert [round(raw[0]["c"] / 56, 4), round(raw[1]["c"] / 28, 4)] == [bar["c"] for bar in adjusted["results"]]
    assert raw[0]["v"] * 56 == adjusted["results"][0]["v"]


async def test_a_split_of_the_future_is_not_known_yet():
    replay = Replay(today=lambda: date(2010, 1, 1))
    client = httpx.AsyncClient(base_url=await replay.start(), headers={"Authorization": "Bearer replay"})
    async with client:
        answer = (await client.get("/v3/reference/splits?ticker=AAPL")).json()
        assert [row["execution_date"] for row in answer["results"]] == ["2005-02-28", "2000-06-21"]
    await replay.stop()


@pytest.mark.parametrize("ticker", ["NOPE", "aapl", "BTC-USD", "BTCUSD", "AMZN"])
async def test_no_bars_means_no_results_at_all(http, ticker):
    response = await http.get(f"/v2/aggs/ticker/{ticker}/range/1/day/2005-01-01/2005-12-31")
    answer = response.json()
    del answer["request_id"]
    assert response.status_code == 200
    assert {"ticker": ticker, "queryCount": 0, "resultsCount": 0, "adjusted": True, "status": "OK"} == answer


async def test_a_ticker_has_bars_only_on_its_own_dates(http):
    span = "range/1/day/2012-01-01/2013-12-31"
    assert (await http.get(f"/v2/aggs/ticker/FB/{span}")).json()["resultsCount"] == 196
    assert (await http.get(f"/v2/aggs/ticker/META/{span}")).json()["resultsCount"] == 0


async def test_next_url_names_the_official_host_and_the_next_bar_and_brings_no_key(http):
    first = (await http.get(f"{AAPL}/2005-04-01/2005-04-06?limit=2&adjusted=false&apiKey=secret")).json()
    url, _, cursor = first["next_url"].partition("?cursor=")
    assert url == "https://api.polygon.io/v2/aggs/ticker/AAPL/range/1/day/1112673600000/2005-04-06"
    assert urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)) == b"adjusted=false&limit=2&sort=asc"


@pytest.mark.parametrize("query", ["limit=100&adjusted=false", "limit=97&sort=desc"])
async def test_pages_join_to_the_whole_span(http, query):
    found = await pages(http, f"{AAPL}/2001-01-01/2003-12-31?{query}")
    whole = (await http.get(f"{AAPL}/2001-01-01/2003-12-31?{query.replace('limit=', 'limit=50')}")).json()
    assert whole["results"] == [bar for page in found for bar in page["results"]]
    assert {whole["adjusted"]} == {page["adjusted"] for page in found}
    assert len(found) == -(-whole["resultsCount"] // int(query[6:9].strip("&")))


@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("limit", [100, 7, 1])
async def test_the_limit_counts_base_bars_and_a_window_cut_by_it_waits_for_the_next_page(http, limit, sort):
    url = f"{SPY}/1/week/2017-01-01/2017-12-31?sort={sort}"
    whole = (await http.get(url)).json()
    found = await pages(http, f"{url}&limit={limit}")
    assert (whole["queryCount"], whole["resultsCount"]) == (255, 53)  # the last Sunday opens a week of 2018
    assert whole["results"] == [bar for page in found for bar in page["results"]]
    assert whole["queryCount"] == sum(page["queryCount"] for page in found)
    assert max(page["queryCount"] for page in found) <= max(limit, 5)


async def test_long_windows_are_made_of_their_bars(http):
    minutes = (await http.get(f"{SPY}/1/minute/2020-12-15/2020-12-15")).json()["results"]
    [before_noon, *_] = (await http.get(f"{SPY}/330/minute/2020-12-15/2020-12-15")).json()["results"]
    part = minutes[:330]
    expected = (
        part[0]["o"],
        max(b["h"] for b in part),
        min(b["l"] for b in part),
        part[-1]["c"],
        sum(b["v"] for b in part),
    )
    assert expected == tuple(before_noon[name] for name in "ohlcv")


async def test_a_span_snaps_to_whole_windows(http):
    noon_to_noon = f"{AAPL}/1112371200000/1112630400000"  # 2005-04-01 12:00 EST to 2005-04-04 12:00 EDT
    assert (await http.get(noon_to_noon)).json()["resultsCount"] == 2
    assert (await http.get(f"{SPY}/1/minute/1608042601000/1608042601000")).json()["resultsCount"] == 1


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("x/2005-02-28", "Could not parse the time parameter: 'from'. Use YYYY-MM-DD or Unix MS Timestamps"),
        ("2005-02-28/2005-02-30", "Could not parse the time parameter: 'to'. Use YYYY-MM-DD or Unix MS Timestamps"),
        ("2005-02-28/2005-02-27", "The parameter 'to' cannot be a time that occurs before 'from'"),
        ("2005-02-27/2005-02-28?limit=none", "Could not parse the query: 'limit', 'sort' or 'adjusted'"),
        ("2005-02-27/2005-02-28?cursor=%21", "Could not parse the cursor"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(http, path, error):
    response = await http.get(f"{AAPL}/{path}")
    assert (400, "ERROR", error) == (response.status_code, response.json()["status"], response.json()["error"])


async def test_an_unknown_timespan_is_refused(http):
    assert (await http.get("/v2/aggs/ticker/AAPL/range/1/fortnight/2005-02-27/2005-02-28")).status_code == 400


async def test_seconds_have_no_bars(http):
    answer = (await http.get("/v2/aggs/ticker/SPY/range/1/second/2020-12-15/2020-12-15")).json()
    assert "results" not in answer


@pytest.mark.parametrize(
    ("headers", "query", "status", "error"),
    [
        ({}, "", 401, "API Key was not provided"),
        ({"Authorization": "Bearer wrong"}, "", 401, "Unknown API Key"),
        ({}, "?apiKey=wrong", 401, "Unknown API Key"),
        ({}, "?apiKey=secret", 200, None),
        ({"Authorization": "Bearer secret"}, "", 200, None),
    ],
)
async def test_the_key_comes_in_the_header_or_in_the_query(replay, headers, query, status, error):
    async with httpx.AsyncClient(base_url=replay.url, headers=headers) as client:
        response = await client.get(f"{AAPL}/2005-04-01/2005-04-04{query}")
    assert (status, error) == (response.status_code, response.json().get("error"))


async def test_answers_are_compressed_and_carry_their_request_id(http):
    for _ in range(2):
        response = await http.get(f"{AAPL}/2000-01-01/2013-12-31?limit=50000")
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["x-request-id"] == response.json()["request_id"]
        assert response.json()["resultsCount"] == 3270
    plain = await http.get(f"{AAPL}/2000-01-01/2013-12-31?limit=50000", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert response.json()["results"] == plain.json()["results"]


async def test_above_the_limit_of_the_plan_requests_are_refused_until_a_minute_has_passed():
    now = [1000.0]
    replay = Replay(plan=Plan(requests_per_minute=2), clock=lambda: now[0])
    url = f"{await replay.start()}{AAPL}/2005-04-01/2005-04-04?apiKey=replay"
    async with httpx.AsyncClient() as client:
        statuses = [(await client.get(url)).status_code for _ in range(3)]
        refused = await client.get(url)
        now[0] += 60
        statuses.append((await client.get(url)).status_code)
    await replay.stop()
    assert statuses == [200, 200, 429, 200]
    assert refused.json()["error"].startswith("You've exceeded the maximum requests per minute, please wait or upgrade")
    assert [served.status for served in replay.served] == [200, 200, 429, 429, 200]


async def test_a_plan_reaches_back_only_so_far_and_never_into_the_future(replay, http):
    replay.plan.years = 2
    for start in ("2022-06-30", "2024-07-02"):
        response = await http.get(f"{AAPL}/{start}/2024-07-31")
        assert (response.status_code, response.json()["status"]) == (403, "NOT_AUTHORIZED")
        assert response.json()["message"].startswith("Your plan doesn't include this data timeframe.")
    assert (await http.get(f"{AAPL}/2022-07-01/2024-07-31")).status_code == 200


async def test_grouped_bars_hold_every_ticker_of_the_day_at_its_close(http):
    answer = (await http.get("/v2/aggs/grouped/locale/us/market/stocks/2012-05-18?adjusted=false")).json()
    assert [row["T"] for row in answer["results"]] == ["AAPL", "MSFT", "GOOGL", "FB", "IBM"]
    assert {1337371200000} == {row["t"] for row in answer["results"]}  # 16:00 in New York
    assert answer["results"][0]["c"] == 530.38
    assert "results" not in (await http.get("/v2/aggs/grouped/locale/us/market/stocks/2012-05-19")).json()
    crypto = (await http.get("/v2/aggs/grouped/locale/global/market/crypto/2020-01-01")).json()
    assert [(row["T"], row["t"]) for row in crypto["results"]] == [("X:BTCUSD", 1577923199999)]
    assert (await http.get("/v2/aggs/grouped/locale/us/market/stocks/today")).status_code == 400


async def test_tickers_are_listed_in_pages_with_filters(http):
    found = await pages(http, "/v3/reference/tickers?market=stocks&limit=4")
    names = [row["ticker"] for page in found for row in page["results"]]
    assert sorted(names) == names
    assert {"AAPL", "META", "SPY"} < set(names)
    assert "FB" not in names
    funds = (await http.get("/v3/reference/tickers?type=ETF&ticker.gt=IWM&search=trust")).json()["results"]
    assert [row["ticker"] for row in funds] == ["QQQ", "SPY"]
    assert funds[0]["market"] == "stocks"
    assert (await http.get("/v3/reference/tickers?limit=x")).status_code == 400
    assert (await http.get("/v3/reference/tickers?cursor=%21")).status_code == 400


async def test_tickers_can_be_listed_as_of_a_date(http):
    then = (await http.get("/v3/reference/tickers?date=2013-01-02&ticker=FB")).json()["results"]
    assert [row["name"] for row in then] == ["Meta Platforms, Inc. Class A Common Stock"]
    gone = (await http.get("/v3/reference/tickers?active=false&ticker=FB")).json()["results"]
    assert [row["delisted_utc"] for row in gone] == ["2022-06-08T00:00:00Z"]


async def test_one_ticker_is_described(http):
    row = (await http.get("/v3/reference/tickers/AAPL")).json()["results"]
    assert tuple(row[k] for k in ("name", "primary_exchange", "type", "list_date")) == (
        "Apple Inc.",
        "XNAS",
        "CS",
        "1980-12-12",
    )
    coin = (await http.get("/v3/reference/tickers/X:BTCUSD")).json()["results"]
    assert (coin["base_currency_symbol"], coin["currency_symbol"]) == ("BTC", "USD")
    assert (await http.get("/v3/reference/tickers/FB?date=2013-01-02")).json()["results"]["ticker"] == "FB"
    missing = await http.get("/v3/reference/tickers/FB")
    assert (
        missing.status_code,
        missing.json()["status"],
        missing.json()["message"],
    ) == (404, "NOT_FOUND", "Ticker not found.")


@pytest.mark.parametrize("name", ["META", "FB", "BBG000MM2P62"])
async def test_a_change_of_ticker_is_an_event(http, name):
    events = (await http.get(f"/vX/reference/tickers/{name}/events?types=ticker_change")).json()["results"]["events"]
    assert [(e["ticker_change"]["ticker"], e["date"]) for e in events] == [("META", "2022-06-09"), ("FB", "2012-05-18")]


async def test_an_unknown_path_or_company_is_not_found(http):
    for path in ("/v9/nothing", "/v2/aggs/ticker", "/vX/reference/tickers/NOPE/events"):
        assert (await http.get(path)).status_code == 404


async def test_a_page_token_of_another_base_is_read_by_its_text_alone(http):
    cursor = urlsafe_b64encode(b"limit=1&sort=desc").decode().rstrip("=")
    answer = (await http.get(f"{AAPL}/2005-04-01/2005-04-04?cursor={cursor}")).json()
    assert [bar["t"] for bar in answer["results"]] == [1112587200000]


async def test_big_pages_are_kept_in_bounded_memory(http, monkeypatch):
    monkeypatch.setattr(spelling, "KEPT_BYTES", 300_000)
    for ticker in ("AAPL", "MSFT", "AAPL"):
        answer = (await http.get(f"/v2/aggs/ticker/{ticker}/range/1/day/2000-01-01/2013-12-31?limit=50000")).json()
        assert (answer["ticker"], answer["resultsCount"]) == (ticker, 3270)
