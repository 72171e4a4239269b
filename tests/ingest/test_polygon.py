"""The client of Polygon: what it asks, what it believes, and what it makes of refusals."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from datetime import date
from math import inf

import httpx
import pytest

from services.ingest.calendar import day_of
from services.ingest.polygon import Polygon, Question, next_start
from services.ingest.polygon_errors import (
    GrantExpiredError,
    KeyRefusedError,
    MissingError,
    OutsidePlanError,
    PassingError,
    RefusedError,
)
from services.ingest.timeframes import DAY, DAY_MS, MINUTE

FIRST, END = day_of(date(2024, 1, 2)) * DAY_MS, day_of(date(2024, 1, 6)) * DAY_MS
DAYS = Question("AAPL", DAY, FIRST, END)
MINUTES = Question("X:BTCUSD", MINUTE, 1_700_000_000_000, 1_700_000_060_000)
BAR = {"v": 1.5, "vw": 10.1, "o": 10, "c": 10, "h": 11, "l": 9.5, "t": 1_704_171_600_000, "n": 3}


def body(**fields):
    page = {"ticker": "AAPL", "adjusted": False, "results": [BAR], "status": "OK", "request_id": "1"}
    return {name: value for name, value in {**page, **fields}.items() if value is not ...}


class Provider:
    """Answers in turn with what it was given; the last answer is given again and again."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    async def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return unread(answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer))


def unread(response):
    """Returns a response whose body is still on the wire."""
    if not response.is_stream_consumed:
        return response
    stream = httpx.ByteStream(response.content)
    return httpx.Response(response.status_code, headers=response.headers, stream=stream)


async def granted():
    return time.monotonic() + 1


async def not_now():
    return None


async def ask(*answers, question=DAYS, again=granted, sent_by=inf, base_url="https://api.example", **options):
    """Returns the page, and the requests that it took."""
    provider = Provider(*answers)
    client = Polygon(base_url, "secret", wait=0.001, transport=httpx.MockTransport(provider), **options)
    try:
        return await client.page(question, sent_by=sent_by, again=again), provider.requests
    finally:
        await client.close()


async def refusal(*answers, **options):
    """Returns the error, and how many requests it took."""
    provider = Provider(*answers)
    client = Polygon("https://api.example", "secret", wait=0.001, transport=httpx.MockTransport(provider), **options)
    with pytest.raises((PassingError, KeyRefusedError, OutsidePlanError, RefusedError)) as caught:
        await client.page(DAYS, sent_by=inf, again=granted)
    await client.close()
    return caught.value, len(provider.requests)


def zipped(content):
    return httpx.Response(200, stream=httpx.ByteStream(content), headers={"content-encoding": "gzip"})


def answered(code, **fields):
    return httpx.Response(code, json=fields) if fields else httpx.Response(code, text="<html>Bad gateway</html>")


async def test_days_are_asked_by_date_raw_and_ascending_with_the_key_in_a_header():
    _, (request,) = await ask(body())
    assert request.url.path == "/v2/aggs/ticker/AAPL/range/1/day/2024-01-02/2024-01-05"
    assert dict(request.url.params) == {"adjusted": "false", "sort": "asc", "limit": "50000"}
    assert request.headers["authorization"] == "Bearer secret"
    assert "secret" not in str(request.url)


async def test_minutes_are_asked_by_instant_and_a_path_of_the_base_url_is_kept():
    page = body(ticker="X:BTCUSD", results=...)
    _, (request,) = await ask(page, question=MINUTES, base_url="https://proxy.example/polygon/")
    path = "/polygon/v2/aggs/ticker/X:BTCUSD/range/1/minute/1700000000000/1700000059999"
    assert request.url.path == path


@pytest.mark.parametrize("page", [body(results=...), body(results=None), body(results=[], ticker=..., adjusted=...)])
async def test_an_empty_answer_has_no_results_and_is_an_answer(page):
    found, _ = await ask(page)
    assert len(found.bars) == 0


async def test_delayed_is_a_success():
    found, _ = await ask(body(status="DELAYED"))
    assert found.bars.trade_count.tolist() == [3]


async def test_a_zipped_answer_is_unzipped():
    found, _ = await ask(zipped(gzip.compress(json.dumps(body()).encode())))
    assert found.bars.close.tolist() == [10]


@pytest.mark.parametrize(
    "broken",
    [
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("peer closed"),
        answered(500),
        answered(502),
        answered(499, status="ERROR", error="cancelled"),
        answered(408),
        httpx.Response(200, text='{"status":"OK","results":[{"o":1'),
        zipped(gzip.compress(b"{}" * 99)[:-9]),
        zipped(b"no gzip at all"),
        httpx.Response(200, json=body(status="ERROR", error="An internal error occurred")),
        httpx.Response(200, json=body(ticker="AAPLX")),
        httpx.Response(200, json=body(adjusted=True)),
        httpx.Response(200, json=body(adjusted=...)),
        httpx.Response(200, json=[]),
    ],
)
async def test_what_passes_is_tried_again(broken):
    found, requests = await ask(broken, body())
    assert (len(found.bars), len(requests)) == (1, 2)


async def test_another_try_needs_another_grant():
    with pytest.raises(PassingError, match="500"):
        await ask(answered(500), body(), again=not_now)


async def test_it_gives_up_after_its_tries_with_the_last_error():
    error, requests = await refusal(answered(500), answered(502), answered(503, status="ERROR", error="overloaded"))
    assert requests == 3
    assert "overloaded" in str(error)


async def test_too_many_requests_go_back_to_the_queue_with_the_wait_that_polygon_wants():
    words = {"status": "ERROR", "error": "You've exceeded the maximum requests per minute"}
    error, requests = await refusal(httpx.Response(429, json=words, headers={"retry-after": "17"}))
    assert (requests, error.throttled, error.retry_after) == (1, True, 17)
    assert "exceeded" in str(error)
    assert "POLYGON_REQUESTS_PER_MINUTE" in str(error)


async def test_retry_after_may_be_a_date_or_nonsense():
    later = httpx.Response(503, headers={"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"})
    error, requests = await refusal(later)
    assert requests == 1
    assert error.retry_after > 1e9
    error, _ = await refusal(httpx.Response(429, headers={"retry-after": "soon"}))
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (answered(400, status="ERROR", error="Could not parse the time parameter"), RefusedError, "Could not parse"),
        (answered(404, status="NOT_FOUND", message="Ticker not found."), MissingError, "provider ticker"),
        (answered(200, status="NOT_FOUND", message="Data not found."), MissingError, "Data not found"),
        (answered(301), RefusedError, "301"),
        (answered(401, status="ERROR", error="Unknown API Key"), KeyRefusedError, "Unknown API Key"),
        (answered(401), KeyRefusedError, "POLYGON_API_KEY"),
        (answered(200, status="ERROR", error="API Key was not provided"), KeyRefusedError, "not provided"),
        (
            answered(403, status="NOT_AUTHORIZED", message="You are not entitled to this data."),
            OutsidePlanError,
            "entitled",
        ),
        (answered(200, status="NOT_AUTHORIZED", message="Not entitled."), OutsidePlanError, "does not include"),
    ],
)
async def test_what_stays_wrong_is_not_tried_again_and_says_why(answer, kind, words):
    error, requests = await refusal(answer)
    assert (type(error), requests) == (kind, 1)
    assert words in str(error)


async def test_a_refusal_for_age_is_told_from_a_refusal_of_the_market():
    old = "Your plan doesn't include this data timeframe. Please upgrade your plan at https://polygon.io/pricing"
    error, _ = await refusal(answered(403, status="NOT_AUTHORIZED", message=old))
    assert error.too_old
    error, _ = await refusal(answered(403, status="NOT_AUTHORIZED", message="You are not entitled to this data."))
    assert not error.too_old


async def test_a_request_whose_grant_ran_out_is_not_sent():
    provider = Provider(body())
    client = Polygon("https://api.example", "secret", transport=httpx.MockTransport(provider))
    with pytest.raises(GrantExpiredError):
        await client.page(DAYS, sent_by=time.monotonic() - 0.001, again=granted)
    await client.close()
    assert provider.requests == []


async def test_a_grant_that_runs_out_while_connecting_stops_the_request_before_the_wire():
    async def slow_to_connect(request):
        await asyncio.sleep(0.05)
        await request.extensions["trace"]("http11.send_request_headers.started", {})
        return unread(httpx.Response(200, json=body()))

    client = Polygon("https://api.example", "secret", transport=httpx.MockTransport(slow_to_connect))
    with pytest.raises(GrantExpiredError):
        await client.page(DAYS, sent_by=time.monotonic() + 0.01, again=granted)
    await client.close()


async def test_an_answer_that_takes_too_long_is_given_up():
    async def silent(_):
        await asyncio.sleep(5)

    client = Polygon("https://api.example", "secret", timeout=0.02, tries=1, transport=httpx.MockTransport(silent))
    with pytest.raises(PassingError, match="no answer within"):
        await client.page(DAYS, sent_by=inf, again=granted)
    await client.close()


async def test_an_answer_that_unzips_without_end_is_refused():
    bomb = gzip.compress(bytes(70 * 1024 * 1024))
    with pytest.raises(PassingError, match="larger"):
        await ask(zipped(bomb), tries=1)


@pytest.mark.parametrize(
    ("url", "start"),
    [
        (
            "https://api.massive.com/v2/aggs/ticker/AAPL/range/1/minute/1658156340000/2023-02-03?cursor=bGltaXQ9",
            1658156340000,
        ),
        ("https://api.polygon.io/v2/aggs/ticker/AAPL/range/1/day/2023-01-01/2023-02-03?cursor=x", None),
        ("https://api.polygon.io", None),
        (None, None),
    ],
)
async def test_the_next_page_begins_where_its_path_says(url, start):
    found, _ = await ask(body(next_url=url))
    assert next_start(found.head) == start


async def test_tries_end_when_a_lease_would():
    """A try that failed late is the last one: another could take as long again."""

    async def slow_failure(_):
        await asyncio.sleep(1.05)
        return unread(answered(500))

    provider = Provider(body())
    client = Polygon("https://api.example", "secret", timeout=3, transport=httpx.MockTransport(slow_failure))
    with pytest.raises(PassingError, match="500"):
        await client.page(DAYS, sent_by=inf, again=provider)
    await client.close()
    assert provider.requests == []
