"""Long faults between services and Postgres: half a minute of a black hole, a slow line at twice what fits, crashes.

Not collected by `make test`: `python -m pytest tests/faults/database.py`.
"""

# ruff: noqa: ASYNC110 - what is waited for happens in a service, which tells nobody

from __future__ import annotations

import asyncio
import signal
import time

import grpc

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw_client.channel import aio_channel
from tests.chaos import NOT_SERVING, SERVING, behind_a_proxy, call_everything, until_quiet, until_readiness
from tests.e2e.test_chaos import AWAY, BROKEN
from tests.standby import own_server
from tests.support import auth_process, make_key, with_key
from tests.whole import fill

HOLE_SECONDS = 30
CRASHES = 4
CALLERS = 20


async def test_half_a_minute_in_a_black_hole_leaves_nothing_behind(database):
    await fill(database)
    async with behind_a_proxy(database) as (proxy, services):
        await call_everything(services, 5)
        tasks = len(asyncio.all_tasks())
        proxy.hole = True
        end = time.monotonic() + HOLE_SECONDS
        while time.monotonic() < end:
            for ended in await call_everything(services, 1):
                assert ended.code in AWAY, ended
                assert ended.seconds <= 2, ended
        await until_readiness(services, NOT_SERVING)
        proxy.heal()
        await until_readiness(services, SERVING)
        assert not {ended.code for ended in await call_everything(services, 5)} & (AWAY | BROKEN)
        await until_quiet(tasks)


async def test_a_slow_line_at_twice_what_fits_breaks_nothing(database):
    """Half a second more for every round trip, and all RPCs twice at once on pools of four connections."""
    await fill(database)
    async with behind_a_proxy(database) as (proxy, services):
        await call_everything(services, 5)
        tasks = len(asyncio.all_tasks())
        proxy.latency = 0.25
        for _ in range(3):
            for endings in await asyncio.gather(*(call_everything(services, 15) for _ in range(2))):
                for ended in endings:
                    assert ended.code not in BROKEN, ended
                    assert ended.seconds <= 16, ended
                    if ended.code is grpc.StatusCode.UNAVAILABLE:
                        assert ended.retry_info is not None, ended
        proxy.heal()
        await until_readiness(services, SERVING, 10)
        assert not {ended.code for ended in await call_everything(services, 5)} & (AWAY | BROKEN)
        await until_quiet(tasks)


async def test_a_postgres_that_crashes_costs_callers_seconds_and_no_wrong_answer(tmp_path):
    """An immediate shutdown under load: only UNAVAILABLE and DEADLINE_EXCEEDED, success soon after Postgres accepts."""
    async with own_server(tmp_path / "server") as (server, database):
        secret = await make_key(database)
        async with auth_process(database) as process, grpc.aio.insecure_channel(process.target) as channel:
            stub = auth_pb2_grpc.KeyServiceStub(channel)
            answered: list[float] = []
            failed: set[grpc.StatusCode] = set()
            stop = asyncio.Event()

            async def load() -> None:
                while not stop.is_set():
                    try:
                        await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(secret), timeout=5)
                        answered.append(time.monotonic())
                    except grpc.aio.AioRpcError as error:
                        failed.add(error.code())
                    await asyncio.sleep(0.2)

            callers = [asyncio.create_task(load()) for _ in range(CALLERS)]
            for _ in range(CRASHES):
                await asyncio.sleep(1)
                server.child.stop((signal.SIGQUIT, 20))
                await asyncio.sleep(1)
                server.start()  # in this thread: Postgres ends with the one that started it
                accepts = time.monotonic()
                async with asyncio.timeout(5):
                    while not answered or answered[-1] < accepts:
                        await asyncio.sleep(0.05)
            async with aio_channel(process.target, key=secret) as ours:
                await auth_pb2_grpc.KeyServiceStub(ours).ListKeys(auth_pb2.ListKeysRequest())
            stop.set()
            await asyncio.gather(*callers)
            assert failed <= AWAY
            assert process.running
