"""WatchSession: waits until a session is complete, or says at the deadline what is missing and why."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from mdw.ingest.v1 import ingest_pb2
from services.ingest import session_watch
from tests.ingest.backfilling import CRYPTO, ETF, at
from tests.ingest.working import replaying
from tests.support import with_key

State = ingest_pb2.WatchSessionResponse.State
Reason = ingest_pb2.Hole.Reason
DAY_OF_2018 = "2018-02-01"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(session_watch, "POLL_SECONDS", 0.05)


def watch(ingest, *, timeout=120, seconds=None, **fields):
    if seconds is not None:
        fields["wait"] = Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    request = ingest_pb2.WatchSessionRequest(**{"session_date": DAY_OF_2018, **fields})
    return ingest.stub.WatchSession(request, metadata=with_key(ingest.key), timeout=timeout)


async def told(call):
    return [message async for message in call]


async def test_it_ends_when_the_last_symbol_has_the_session(ingest, running):
    await ingest.symbol("SPY", ETF)
    await ingest.symbol("BTC-USD", CRYPTO)
    messages = aiter(watch(ingest, all_active=True))
    first = await anext(messages)
    watching = asyncio.create_task(told(messages))
    async with replaying() as replay:
        for ticker in ("SPY", "BTC-USD"):
            await ingest.start(tickers=[ticker], start_time=at("2018-01-30"), end_time=at("2018-02-02"))
            await running.drain(await running.worker(replay.url))
        *_, last = await watching
    assert (first.state, first.symbols_expected, first.symbols_complete) == (State.WAITING, 2, 0)
    assert [(one.ticker, one.hole.reason) for one in first.missing] == [
        ("SPY", Reason.NEVER_ASKED),
        ("BTC-USD", Reason.NEVER_ASKED),
    ]
    assert (last.state, last.symbols_complete, len(last.missing)) == (State.COMPLETE, 2, 0)
    assert last.close_time == at("2018-02-02T00:00:00Z")


async def test_what_is_complete_already_is_one_message(ingest, running):
    await ingest.symbol("SPY", ETF)
    await ingest.start(tickers=["SPY"], start_time=at("2018-02-01"), end_time=at("2018-02-02"))
    async with replaying() as replay:
        await running.drain(await running.worker(replay.url))
    assert [message.state for message in await told(watch(ingest, tickers=["SPY"]))] == [State.COMPLETE]


async def last_of(ingest, limit):
    """Returns the last message; on a slow machine the time that is left for it before a short deadline may not do."""
    while True:
        try:
            return (await told(watch(ingest, tickers=["SPY"], **limit)))[-1]
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 - it is tried with a longer one
            limit = {"timeout": 4 * limit["timeout"]}


@pytest.mark.parametrize("limit", [{"timeout": 1.5}, {"seconds": 0.3}])
async def test_before_the_deadline_it_says_what_is_missing_and_why(ingest, limit):
    await ingest.symbol("SPY", ETF)
    last = await last_of(ingest, limit)
    assert last.state == State.INCOMPLETE
    assert [(one.ticker, one.hole.reason) for one in last.missing] == [("SPY", Reason.NEVER_ASKED)]


async def test_every_change_of_a_reason_is_told(ingest):
    await ingest.symbol("SPY", ETF)
    reasons = []
    async for message in watch(ingest, tickers=["SPY"], seconds=60):
        reasons += [Reason.Name(one.hole.reason) for one in message.missing]
        if len(reasons) == 1:
            await ingest.start(tickers=["SPY"], start_time=at("2018-02-01"), end_time=at("2018-02-02"))
        if len(reasons) == 2:
            await ingest.end((await ingest.claim())["slice_id"])
            await ingest.sql.execute("UPDATE ingest.series SET failed = '{[2018-02-01,2018-02-02)}'")
        if len(reasons) == 3:
            break
    assert reasons == ["NEVER_ASKED", "IN_PROGRESS", "FAILED"]


async def test_a_session_to_come_is_waited_for(ingest):
    await ingest.symbol("BTC-USD", CRYPTO)
    tomorrow = str((datetime.now(UTC) + timedelta(days=1)).date())
    *_, last = await told(watch(ingest, tickers=["BTC"], session_date=tomorrow, seconds=0.1))
    assert [one.hole.reason for one in last.missing] == [Reason.NOT_CLOSED]


async def test_only_symbols_whose_market_was_open_and_that_were_listed_are_waited_for(ingest):
    spy = await ingest.symbol("SPY", ETF)
    await ingest.symbol("BTC-USD", CRYPTO)
    *_, last = await told(watch(ingest, all_active=True, session_date="2018-02-03", seconds=0.1))
    assert [one.ticker for one in last.missing] == ["BTC-USD"]
    await ingest.sql.execute("UPDATE symbols.symbols SET list_date = '2019-01-01' WHERE symbol_id = $1", spy)
    *_, last = await told(watch(ingest, tickers=["SPY"], seconds=5))
    assert (last.state, last.symbols_expected) == (State.COMPLETE, 0)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"session_date": "2018-02-03"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"session_date": "soon"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"session_date": "2040-01-02"}, grpc.StatusCode.OUT_OF_RANGE),
        ({"tickers": ["NONE"]}, grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_what_cannot_be_waited_for_is_refused(ingest, fields, status):
    await ingest.symbol("SPY", ETF)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await told(watch(ingest, **{"tickers": ["SPY"], **fields}))
    assert refused.value.code() == status
