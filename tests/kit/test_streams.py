"""Streams: a row before the first message, one at the end with the count, and a key that is asked for again."""

# ruff: noqa: PT012 - a stream fails on the way, so the reading stands in the check

from __future__ import annotations

import asyncio

import grpc
import pytest

from mdw.ingest.v1 import bars_pb2
from services.kit.errors import NotFound
from tests.support import make_key, reason, with_key
from tests.waiting import LONG, until

REQUEST = bars_pb2.StreamBarsRequest(tickers=["AAPL"])


async def endless(request, context):
    number = 0
    while True:
        number += 1
        yield bars_pb2.StreamBarsResponse(symbol_id=number)
        await asyncio.sleep(0.01)


async def test_a_stream_is_recorded_at_its_start_and_at_its_end(rig, rows):
    seen = []

    async def watched(request, context):
        seen.append(len(await rows.all()))
        yield bars_pb2.StreamBarsResponse(symbol_id=1)
        seen.append(len(await rows.all()))
        yield bars_pb2.StreamBarsResponse(symbol_id=2)

    rig.servicer.stream = watched
    messages = [message async for message in rig.stub.StreamBars(REQUEST, metadata=with_key(rig.key))]
    assert [message.symbol_id for message in messages] == [1, 2]
    assert seen == [0, 1]
    first, last = await rows.all()
    assert first["call_id"] == last["call_id"]
    assert (first["reason"], first["call_count"]) == ("STREAM_STARTED", 1)
    assert (last["code"], last["messages"], last["call_count"]) == (0, 2, 0)
    assert await rows.usage() == 1


async def test_ready_bytes_are_sent_as_they_are(rig):
    async def ready(request, context):
        yield bars_pb2.StreamBarsResponse(symbol_id=7).SerializeToString()

    rig.servicer.stream = ready
    (message,) = [message async for message in rig.stub.StreamBars(REQUEST, metadata=with_key(rig.key))]
    assert message.symbol_id == 7


async def test_a_stream_that_fails_before_its_first_message_has_one_row(rig, rows):
    async def missing(request, context):
        raise NotFound("SYMBOL_NOT_FOUND", "there is no symbol", ticker="AAPL")
        yield

    rig.servicer.stream = missing
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [message async for message in rig.stub.StreamBars(REQUEST, metadata=with_key(rig.key))]
    assert reason(caught.value) == "SYMBOL_NOT_FOUND"
    ((_, code, _),) = await rows.codes()
    assert code == 5
    assert await rows.usage() == 1


async def test_a_stream_that_breaks_says_how_far_it_came(rig, rows):
    async def breaking(request, context):
        yield bars_pb2.StreamBarsResponse(symbol_id=1)
        raise RuntimeError("secret text")

    rig.servicer.stream = breaking
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [message async for message in rig.stub.StreamBars(REQUEST, metadata=with_key(rig.key))]
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    last = (await rows.all())[-1]
    assert (last["code"], last["messages"], last["call_count"]) == (13, 1, 0)


async def test_a_revoked_key_ends_its_streams(rig, rows):
    rig.server.answering.recheck_seconds = 0.05
    rig.servicer.stream = endless
    got = 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in rig.stub.StreamBars(REQUEST, metadata=with_key(rig.key), timeout=LONG):
            got += 1
            if got == 3:
                await rows.execute("UPDATE auth.keys SET revoke_time = now()")
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert (await rows.all())[-1]["code"] == 16


async def test_a_revoked_key_ends_a_stream_whose_client_does_not_read(rig, rows):
    """The end does not wait for the client to take what was written."""
    rig.server.answering.recheck_seconds = 0.05
    closed = asyncio.Event()

    async def heavy(request, context):
        try:
            while True:
                yield bars_pb2.StreamBarsResponse(close=[1.0] * 100_000)
        finally:
            closed.set()

    rig.servicer.stream = heavy
    call = rig.stub.StreamBars(REQUEST, metadata=with_key(rig.key))
    await call.read()
    await rows.execute("UPDATE auth.keys SET revoke_time = now()")
    await asyncio.wait_for(closed.wait(), LONG)
    call.cancel()


async def test_a_client_that_leaves_closes_the_generator_and_leaves_the_count(rig, rows):
    closed = asyncio.Event()

    async def watched(request, context):
        try:
            async for message in endless(request, context):
                yield message
        finally:
            closed.set()

    rig.servicer.stream = watched
    call = rig.stub.StreamBars(REQUEST, metadata=with_key(rig.key))
    for _ in range(3):
        await call.read()
    call.cancel()
    await asyncio.wait_for(closed.wait(), LONG)

    async def gone():
        last = (await rows.all())[-1]
        return last if last["reason"] == "CALLER_GONE" else None

    last = await until(gone)
    assert (last["code"], last["reason"], last["call_count"]) == (1, "CALLER_GONE", 0)
    assert last["messages"] >= 3


async def test_a_key_holds_only_so_many_streams(database, rig, rows):
    key = await make_key(database, "bars.read", max_streams=2)
    rig.servicer.stream = endless
    calls = [rig.stub.StreamBars(REQUEST, metadata=with_key(key)) for _ in range(2)]
    for call in calls:
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.StreamBars(REQUEST, metadata=with_key(key)).read()
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "KEY_LIMIT")
    for call in calls:
        call.cancel()
