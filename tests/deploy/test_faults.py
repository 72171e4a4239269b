"""Every trouble that the replay can make looks as at Polygon, and strikes when its switch says."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from deploy.local.faults import KINDS, Fault, parse_faults

WEEK = "/v2/aggs/ticker/AAPL/range/1/day/2005-04-04/2005-04-08?adjusted=false"
CLOSES = [41.09, 41.89, 42.33, 43.56, 43.74]


async def closes(http: httpx.AsyncClient, url: str = WEEK) -> list[float]:
    return [bar["c"] for bar in (await http.get(url)).json()["results"]]


def test_switches_are_read_from_a_line():
    first, second = parse_faults("429:times=3,retry_after=2 late:ticker=AAPL,after=1,every=2")
    assert Fault("429", times=3, options={"retry_after": "2"}) == first
    assert Fault("late", ticker="AAPL", after=1, every=2) == second
    with pytest.raises(ValueError, match="unknown fault rain: one of 429"):
        parse_faults("rain")


def test_a_fault_strikes_its_ticker_as_often_as_it_says():
    fault = Fault("429", ticker="AAPL", times=2, every=2, after=1)
    assert [fault.due("AAPL") for _ in range(7)] == [False, False, True, False, True, False, False]
    assert not fault.due("MSFT")


@pytest.mark.parametrize(
    ("switch", "status", "text"),
    [
        ("429", 429, '"error":"You\'ve exceeded the maximum requests per minute'),
        ("429:body=empty", 429, ""),
        ("500", 500, '"error":"Internal Server Error"'),
        ("500:status=502,body=html", 502, "<title>502 Bad Gateway</title>"),
        ("500:status=503,body=empty", 503, ""),
        ("401", 401, '"error":"Unknown API Key"'),
        ("403", 403, '"message":"Your plan doesn\'t include this data timeframe.'),
        ("early", 403, '"message":"Attempted to request today\'s data before end of day.'),
        ("200", 200, '"status":"NOT_AUTHORIZED"'),
        ("error", 200, '"status":"ERROR"'),
    ],
)
async def test_an_answer_is_refused_once_and_then_given(replay, http, switch, status, text):
    replay.faults = parse_faults(switch + (",times=1" if ":" in switch else ":times=1"))
    response = await http.get(WEEK)
    assert status == response.status_code
    assert text in response.text
    assert bool(text) == bool(response.text)
    assert await closes(http) == CLOSES


async def test_a_refusal_may_say_when_to_come_again(replay, http):
    replay.faults = parse_faults("429:times=1,retry_after=7")
    assert (await http.get(WEEK)).headers["Retry-After"] == "7"


async def test_an_answer_may_never_come(replay, http):
    replay.faults = parse_faults("timeout:times=1")
    with pytest.raises(httpx.ReadTimeout):
        await http.get(WEEK, timeout=httpx.Timeout(120, read=0.1))
    assert await closes(http) == CLOSES


async def test_an_answer_may_come_late(replay, http):
    replay.faults = parse_faults("timeout:seconds=0.3")
    begun = time.monotonic()
    assert await closes(http) == CLOSES
    assert time.monotonic() - begun >= 0.25


@pytest.mark.parametrize("switch", ["reset:times=1", "cut:times=1,hard=1"])
async def test_a_connection_may_break(replay, http, switch):
    replay.faults = parse_faults(switch)
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get(WEEK)
    assert await closes(http) == CLOSES


async def test_json_may_be_cut(replay, http):
    replay.faults = parse_faults("cut:times=1")
    response = await http.get(WEEK)
    assert response.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        response.json()


async def test_next_url_may_lead_in_a_circle(replay, http):
    replay.faults = parse_faults("loop")
    first = (await http.get(f"{WEEK}&limit=2")).json()
    path = first["next_url"].removeprefix("https://api.polygon.io")
    second = (await http.get(path)).json()
    assert first["results"] == second["results"]
    assert first["next_url"] == second["next_url"]


async def test_a_cursor_may_forget_what_was_asked(replay, http):
    replay.faults = parse_faults("forget")
    first = (await http.get(f"{WEEK}&limit=2")).json()
    second = (await http.get(first["next_url"].removeprefix("https://api.polygon.io"))).json()
    assert [first["adjusted"], second["adjusted"]] == [False, True]
    assert "next_url" not in (await http.get(WEEK)).json()


async def test_descending_pages_may_end_in_a_refusal(replay, http):
    replay.faults = parse_faults("desc_400")
    first = (await http.get(f"{WEEK}&limit=2&sort=desc")).json()
    response = await http.get(first["next_url"].removeprefix("https://api.polygon.io"))
    assert (
        response.status_code,
        response.json()["error"],
    ) == (400, "The parameter 'to' cannot be a time that occurs before 'from'")


async def test_results_may_be_null_or_come_only_later(replay, http):
    replay.faults = parse_faults("null:times=1")
    assert (await http.get(WEEK)).json()["results"] is None
    replay.faults = parse_faults("empty:times=1")
    assert "results" not in (await http.get(WEEK)).json()
    assert await closes(http) == CLOSES


async def test_bars_may_be_corrected_later(replay, http):
    replay.faults = parse_faults("late:times=1")
    early = await closes(http)
    assert CLOSES[:2] == early[:2]
    assert all(one != other for one, other in zip(CLOSES[2:], early[2:], strict=True))
    assert await closes(http) == CLOSES


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("duplicate", [CLOSES[0], *CLOSES]),
        ("conflict", [CLOSES[0], 41.0941, *CLOSES[1:]]),
        ("unsorted", [*CLOSES[1::2], *CLOSES[::2]]),
        ("outside", [CLOSES[0], *CLOSES]),
    ],
)
async def test_bars_may_be_too_many_or_out_of_order(replay, http, kind, expected):
    replay.faults = parse_faults(kind)
    assert expected == await closes(http)


async def test_a_bar_may_lie_outside_the_span(replay, http):
    replay.faults = parse_faults("outside")
    assert (await http.get(WEEK)).json()["results"][0]["t"] == 1112504400000  # 2005-04-03 in New York


async def test_a_bar_may_be_impossible_or_spelled_otherwise(replay, http):
    replay.faults = parse_faults("broken")
    first = (await http.get(WEEK)).json()["results"][0]
    assert first["h"] < first["l"]
    plain = (await http.get(WEEK.replace("2005", "2006"))).json()
    replay.faults = parse_faults("exponent bare")
    response = await http.get(WEEK.replace("2005", "2006"))
    assert "e+0" in response.text
    assert [bar["v"] for bar in plain["results"][1:]] == [bar["v"] for bar in response.json()["results"][1:]]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("delayed", "status", "DELAYED"), ("stranger", "ticker", "AAPLX"), ("other_basis", "adjusted", True)],
)
async def test_the_head_of_an_answer_may_say_something_else(replay, http, kind, field, value):
    replay.faults = parse_faults(kind)
    assert value == (await http.get(WEEK)).json()[field]


async def test_faults_leave_an_empty_answer_as_it_is(replay, http):
    replay.faults = [Fault(kind) for kind in ("late", "duplicate", "outside")]
    answer = (await http.get(WEEK.replace("AAPL", "AMZN"))).json()
    assert "results" not in answer


def test_every_fault_says_what_it_does():
    assert all(KINDS.values())


DAY = "/v2/aggs/grouped/locale/us/market/stocks/2005-02-25?adjusted=false"


@pytest.mark.parametrize(
    ("kind", "rows", "adjusted"),
    [("empty", 0, False), ("null", 0, False), ("duplicate", 5, False), ("outside", 5, False), ("unsorted", 4, False),
     ("broken", 4, False), ("late", 4, False), ("other_basis", 4, True), ("loop", 4, False)],
)  # fmt: skip
async def test_a_day_of_the_market_is_spoiled_once_and_then_given(replay, http, kind, rows, adjusted):
    whole = (await http.get(DAY)).json()
    replay.faults = parse_faults(f"{kind}:times=1")
    spoiled = (await http.get(DAY)).json()
    assert (len(spoiled.get("results", [])), spoiled["adjusted"]) == (rows, adjusted)
    assert (spoiled.get("results"), spoiled["adjusted"]) != (whole["results"], False) or kind == "loop"
    assert (await http.get(DAY)).json()["results"] == whole["results"]
