"""A line to Postgres that swallows, breaks or drags: calls end, and all is well once it is.

How soon is measured where the machine has time for it: tests/faults/database.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw_client.channel import aio_channel
from tests.chaos import (
    NOT_SERVING,
    SERVING,
    behind_a_proxy,
    call_everything,
    until_quiet,
    until_readiness,
)
from tests.support import detail, with_key
from tests.waiting import LONG
from tests.whole import fill

AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
BROKEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED}
DEADLINE = 1.0


async def test_in_a_black_hole_every_call_ends_in_time_and_afterwards_nothing_is_left(database):
    await fill(database)
    async with behind_a_proxy(database) as (proxy, services):
        assert not {ended.code for ended in await call_everything(services, LONG)} & (AWAY | BROKEN)
        tasks = len(asyncio.all_tasks())
        proxy.hole = True
        for ended in await call_everything(services, DEADLINE):
            assert ended.code in AWAY, ended
            assert ended.seconds <= LONG, ended
        await until_readiness(services, NOT_SERVING)
        for ended in await call_everything(services, DEADLINE):  # refused before anything is tried
            assert ended.code is grpc.StatusCode.UNAVAILABLE, ended
            assert ended.retry_info is not None
        proxy.heal()
        await until_readiness(services, SERVING)
        for ended in await call_everything(services, LONG):
            assert ended.code not in AWAY | BROKEN, ended
        await until_quiet(tasks)


async def test_services_stop_within_their_grace_in_a_black_hole(database):
    async with behind_a_proxy(database) as (proxy, services):
        await call_everything(services, LONG)
        proxy.hole = True
        calls = asyncio.create_task(call_everything(services, 10))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.gather(*(server.stop(grace=1) for server in services.servers.values()))
        assert time.monotonic() - began <= LONG
        for ended in await calls:
            assert ended.code in AWAY | {grpc.StatusCode.CANCELLED}, ended


@pytest.mark.parametrize("fault", ["cut", "reset", "half_close"])
async def test_connections_that_break_cost_callers_of_our_client_no_read(database, fault):
    async with (
        behind_a_proxy(database) as (proxy, services),
        aio_channel(services.targets["auth"], key=services.admin) as channel,
    ):
        stub: Any = auth_pb2_grpc.KeyServiceStub(channel)
        for _ in range(8):
            reads = [stub.ListKeys(auth_pb2.ListKeysRequest(page_size=1), timeout=LONG) for _ in range(4)]
            await asyncio.sleep(0.002)
            getattr(proxy, fault)()
            await asyncio.gather(*reads)


async def test_a_full_service_on_a_slow_line_refuses_the_rest_and_serves_again(database):
    """What was refused and waited for its row held the server full: under steady excess nothing was served any more."""
    async with behind_a_proxy(database, max_open_calls="4") as (proxy, services):
        proxy.latency = 0.05
        stub = auth_pb2_grpc.KeyServiceStub(services.channels["auth"])
        codes: Counter[grpc.StatusCode] = Counter()

        async def caller() -> None:
            while codes[grpc.StatusCode.OK] < 12:
                try:
                    await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(services.admin), timeout=LONG)
                    codes[grpc.StatusCode.OK] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code()] += 1
                    assert detail(error, RetryInfo()) is not None  # noqa: PT017 - callers go on
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(caller() for _ in range(12)))
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_slow_line_delays_calls_and_refuses_what_does_not_fit_with_a_time_to_come_back(database):
    await fill(database)
    async with behind_a_proxy(database) as (proxy, services):
        await call_everything(services, LONG)
        proxy.latency = 0.01
        endings = await call_everything(services, LONG)
        assert not [ended for ended in endings if ended.code in BROKEN | {grpc.StatusCode.DEADLINE_EXCEEDED}]
        for ended in endings:
            if ended.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                assert ended.retry_info is not None, ended
        proxy.latency = 0.0
        assert not {ended.code for ended in await call_everything(services, LONG)} & (AWAY | BROKEN)
