"""Long faults between services and Postgres: half a minute of a black hole, a slow line at twice what fits, crashes.

Not collected by `make test`: `python -m pytest tests/faults/database.py`.
"""

# ruff: noqa: ASYNC110 - what is waited for happens in a service, which tells nobody

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.rpc.error_details_pb2 import RetryInfo

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw_client.channel import aio_channel
from tests.chaos import NOT_SERVING, SERVING, behind_a_proxy, call_everything, until_quiet, until_readiness
from tests.e2e.test_chaos import AWAY, BROKEN
from tests.proxy import Proxy, through
from tests.standby import own_server
from tests.support import auth_process, detail, make_key, with_key
from tests.whole import fill

HOLE_SECONDS = 30
CRASHES = 4
CALLERS = 20
AT_ONCE = 6
"""Calls under way: half as many again as the pool, so that some wait for a connection."""


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
        await until_readiness(services, NOT_SERVING, 5)
        proxy.heal()
        await until_readiness(services, SERVING, 5)
        assert not {ended.code for ended in await call_everything(services, 5)} & (AWAY | BROKEN)
        await until_quiet(tasks, 5)


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
        await until_quiet(tasks, 5)


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


async def test_a_slow_database_at_twice_its_capacity_serves_what_fits_and_refuses_the_rest_at_once(database):
    """Half a second more for each round trip; twice as many callers as may have a call under way."""
    secret = await make_key(database)
    address = urlsplit(database.auth_url)
    proxy = Proxy(address.hostname or "", address.port or 0)
    port = await proxy.start()
    slow = replace(database, auth_url=through(database.auth_url, port))
    async with auth_process(slow, max_open_calls=str(AT_ONCE)) as process:
        load = Excess(process.target, secret)
        proxy.latency = 0.02
        await load.run(callers=AT_ONCE, seconds=5)  # caches are warm, and the pool has all its connections
        proxy.latency = 0.25
        await load.run(callers=1, seconds=15)
        alone = load.taken()
        before = _resident(process.pid)
        await load.run(callers=2 * AT_ONCE, seconds=30)
        grown = _resident(process.pid) - before
        admitted, refused = load.taken(), load.refused
    await proxy.stop()
    print(  # noqa: T201
        f"\nalone {alone[-1]:.2f} s; admitted {len(admitted)}, p99 {_p99(admitted):.2f} s; refused {len(refused)}, "
        f"median {statistics.median(refused) * 1e3:.1f} ms, p99 {_p99(refused) * 1e3:.1f} ms; {grown / 2**20:+.1f} MB"
    )
    assert len(admitted) > 20
    assert load.most_at_once() <= AT_ONCE
    assert _p99(admitted) <= 2 * alone[-1]
    assert statistics.median(refused) < 0.05
    assert grown < 50 * 2**20


class Excess:
    """Callers who try again soon when they are refused; notes when each answered call began and ended."""

    def __init__(self, target: str, secret: str) -> None:
        self._target, self._secret = target, secret
        self._spans: list[tuple[float, float]] = []
        self.refused: list[float] = []

    async def run(self, *, callers: int, seconds: float) -> None:
        self._spans, self.refused = [], []
        end = time.monotonic() + seconds
        async with grpc.aio.insecure_channel(self._target) as channel:
            stub = auth_pb2_grpc.KeyServiceStub(channel)
            await asyncio.gather(*(self._caller(stub, end) for _ in range(callers)))

    async def _caller(self, stub: Any, end: float) -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(self._secret), timeout=30)
                self._spans.append((began, time.monotonic()))
            except grpc.aio.AioRpcError as error:
                self.refused.append(time.monotonic() - began)
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error  # noqa: PT017 - callers go on
                assert detail(error, RetryInfo()) is not None, error  # noqa: PT017
                await asyncio.sleep(0.1)

    def taken(self) -> list[float]:
        """Returns how long the answered calls took, the shortest first."""
        return sorted(end - began for began, end in self._spans)

    def most_at_once(self) -> int:
        """Returns how many were under way at once; a little off each end is the way to the service and back."""
        edges = [(began + 0.1, 1) for began, _ in self._spans] + [(end - 0.1, -1) for _, end in self._spans]
        return max(itertools.accumulate(step for _, step in sorted(edges)))


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_services_stop_within_their_grace_and_five_seconds_in_a_black_hole(database):
    async with behind_a_proxy(database) as (proxy, services):
        await call_everything(services, 5)
        proxy.hole = True
        calls = asyncio.create_task(call_everything(services, 4))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.gather(*(server.stop(grace=1) for server in services.servers.values()))
        # Grace, then at most two seconds for the rows that wait, one for a recorder and one for each pool.
        assert time.monotonic() - began <= 1 + 5
        await calls
