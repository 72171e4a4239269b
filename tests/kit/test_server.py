"""The server: health, reflection, start and stop, what it refuses to start with."""

# ruff: noqa: ARG002, N802 - methods are named by the contract and handed what they do not need

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.kit.floods import ROWS_A_SECOND
from services.kit.limits import PeerThrottle
from services.kit.methods import UndeclaredError
from services.kit.scopes import scopes
from tests.kit.conftest import Bars, make_server
from tests.support import make_key, reason, running, serving, with_key
from tests.waiting import LONG, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(channel, service: str):
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


@pytest.mark.parametrize("service", ["", "readiness", "liveness", "mdw.ingest.v1.BarService"])
async def test_health_needs_no_key_and_leaves_no_row(rig, rows, service):
    assert await health(rig.channel, service) == SERVING
    assert await rows.all() == []


async def test_an_unknown_service_is_not_found_by_health(rig):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(rig.channel, "nothing")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_watch_ends_with_the_server(database):
    server = await make_server(database, Bars())
    async with running(server) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="readiness"))
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(server.stop(grace=10 * LONG))
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        await asyncio.wait_for(stopping, LONG)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_services_without_a_key(rig, version):
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    call = rig.channel.stream_stream(
        method,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await call.read()).list_services_response.service}
    assert {"mdw.ingest.v1.BarService", f"grpc.reflection.{version}.ServerReflection"} <= names
    for symbol in (f"grpc.reflection.{version}.ServerReflection", "mdw.ingest.v1.BarService.ListBars"):
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="mdw.ingest.v1.BarService.NoSuch"))
    assert (await call.read()).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    await call.done_writing()


async def test_reflection_can_be_switched_off(database):
    server = await make_server(database, Bars(), reflection="off")
    async with running(server) as channel:
        call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_without_scopes_keeps_the_server_from_starting(database):
    class Careless(Bars):
        async def ListBars(self, request, context):
            return bars_pb2.ListBarsResponse()

    with pytest.raises(UndeclaredError, match=r"ListBars declares no scopes"):
        await make_server(database, Careless())


def test_an_unknown_scope_is_refused_where_it_is_declared():
    with pytest.raises(ValueError, match=r"bars.reed"):
        scopes("bars.reed")


async def test_a_second_server_cannot_take_the_port(database):
    first = await make_server(database, Bars())
    async with serving(first) as target:
        second = await make_server(database, Bars(), listen_address=target)
        assert await second.run() == 1


async def test_a_stopping_server_lets_its_calls_end(database, rows):
    servicer = Bars()
    server = await make_server(database, servicer)
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(request, context):
        entered.set()
        await release.wait()
        return bars_pb2.ListBarsResponse()

    servicer.list = slow
    key = await make_key(database, "bars.read")
    async with running(server) as channel:
        call = bars_pb2_grpc.BarServiceStub(channel).ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(key))
        await entered.wait()
        stopping = asyncio.create_task(server.stop(grace=10))
        await asyncio.sleep(0.05)
        release.set()
        await call
        await stopping
    assert await rows.codes() == [("ListBars", 0, "")]


async def test_calls_are_counted_under_the_names_of_go_grpc(rig):
    await rig.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(rig.key))
    labels = {"grpc_type": "unary", "grpc_service": "mdw.ingest.v1.BarService", "grpc_method": "ListBars"}
    registry = rig.server.metrics.registry
    assert registry.get_sample_value("grpc_server_handled_total", {**labels, "grpc_code": "OK"}) == 1
    assert registry.get_sample_value("grpc_server_handling_seconds_count", labels) == 1


async def test_a_key_above_its_rate_is_told_when_to_come_back(database, rig, rows):
    key = await make_key(database, "bars.read", max_calls_per_second=1)
    began = time.monotonic()
    outcomes = await asyncio.gather(
        *(rig.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(key)) for _ in range(40)),
        return_exceptions=True,
    )
    refused = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert 1 <= len(outcomes) - len(refused) <= 1 + (time.monotonic() - began)
    assert {(one.code(), reason(one)) for one in refused} == {(grpc.StatusCode.RESOURCE_EXHAUSTED, "KEY_LIMIT")}
    counted = [row for row in await rows.all() if row["code"] == 8]
    assert sum(row["call_count"] for row in counted) == len(refused)
    assert len(counted) <= _rows_at_most(counted)
    assert await rows.usage() == 40


def _rows_at_most(counted) -> int:
    """Returns how many rows equal refusals may have: ten in a second, and the merged ones of its five flushes."""
    seconds = {int(row["time"].timestamp()) for row in counted}
    return (ROWS_A_SECOND + 6) * (max(seconds) - min(seconds) + 2)


async def test_a_full_server_says_when_to_come_back_and_serves_again(rig, rows):
    rig.server.answering.max_open_calls = 1
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request, context):
        begun.set()
        await go_on.wait()
        return bars_pb2.ListBarsResponse()

    rig.servicer.list = slow
    first = rig.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(rig.key))
    await begun.wait()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(rig.key))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(caught.value) == "TOO_MANY_CALLS"
    go_on.set()
    await first
    await rig.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(rig.key))
    await until(lambda: _codes(rows, [0, 0, 8]))


async def _codes(rows, wanted) -> bool:
    return sorted(row["code"] for row in await rows.all()) == wanted


async def test_a_peer_that_fails_often_is_slowed_and_counted_exactly(database, rig, rows):
    rig.server.answering._throttle = PeerThrottle(rate=10.0)
    await rig.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(rig.key))
    began = time.monotonic()
    outcomes = await asyncio.gather(
        *(rig.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key("wrong")) for _ in range(150)),
        return_exceptions=True,
    )
    heard = [one.code() for one in outcomes].count(grpc.StatusCode.UNAUTHENTICATED)
    assert 50 <= heard <= 51 + 10 * (time.monotonic() - began)
    denied = [row for row in await rows.all() if row["code"] != 0]
    assert sum(row["call_count"] for row in denied) == 150
    assert len(denied) <= 2 * _rows_at_most(denied)
    await rig.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(rig.key))
