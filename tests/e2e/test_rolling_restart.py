"""Three replicas are replaced one after the other while our client calls them: no call fails."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from deploy.local.stack import free_port
from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw_client.channel import aio_channel
from tests.support import Process, environment, make_key
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
"""Three addresses of this machine stand for three pods."""
CALLERS = 6


class Replicas:
    """The auth service on three addresses."""

    def __init__(self, database: Any, stack: AsyncExitStack) -> None:
        self._database = database
        self._stack = stack
        self._port = free_port()
        self.running: dict[str, Process] = {}

    @property
    def target(self) -> str:
        return "ipv4:" + ",".join(f"{host}:{self._port}" for host in HOSTS)

    async def start(self, *hosts: str) -> None:
        """Starts replicas, and waits until they serve."""
        variables = {"listen_address": "", "drain_seconds": "0.3", "pool_size": "2"}
        started = await asyncio.gather(
            *(
                Process.start(
                    "services.auth",
                    environment(self._database.auth_url, **{**variables, "listen_address": f"{host}:{self._port}"}),
                )
                for host in hosts
            )
        )
        for host, process in zip(hosts, started, strict=True):
            self._stack.push_async_callback(process.stop)
            self.running[host] = process

    async def answered(self, host: str) -> None:
        """Waits until a replica has answered a call."""
        await self.running[host].event("call")


@asynccontextmanager
async def load(target: str, key: str) -> AsyncIterator[list[BaseException | None]]:
    """Calls all the time; yields the outcomes, None for an answer."""
    outcomes: list[BaseException | None] = []

    async def call_on(stub: Any) -> None:
        while True:
            try:
                await stub.ListKeys(auth_pb2.ListKeysRequest())
                outcomes.append(None)
            except Exception as error:  # noqa: BLE001 - whatever it is, the call has failed
                outcomes.append(error)
            await asyncio.sleep(0.01)

    async with aio_channel(target, key=key) as channel:
        stub = auth_pb2_grpc.KeyServiceStub(channel)
        tasks = [asyncio.create_task(call_on(stub)) for _ in range(CALLERS)]
        try:
            yield outcomes
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def replicas(database):
    async with AsyncExitStack() as stack:
        made = Replicas(database, stack)
        await made.start(*HOSTS)
        yield made


async def test_replicas_are_replaced_one_by_one_and_no_call_fails(database, replicas):
    key = await make_key(database, "keys.read")
    async with load(replicas.target, key) as outcomes:
        for host in HOSTS:
            await replicas.answered(host)
            old = replicas.running[host]
            old.kill(signal.SIGTERM)
            assert await old.end() == 0
            assert "stopped" in {event["event"] for event in old.events}
            await replicas.start(host)
            await replicas.answered(host)
        await until(lambda: len(outcomes) > 100)
    assert [error for error in outcomes if error] == []


async def test_a_replica_that_is_killed_costs_no_call(database, replicas):
    key = await make_key(database, "keys.read")
    async with load(replicas.target, key) as outcomes:
        for host in HOSTS:
            await replicas.answered(host)
        replicas.running[HOSTS[0]].kill()
        assert await replicas.running[HOSTS[0]].end() == -signal.SIGKILL
        before = len(outcomes)
        async with asyncio.timeout(60):
            while len(outcomes) < before + 100:  # noqa: ASYNC110 - the callers have no time to tell
                await asyncio.sleep(0.02)
    assert [error for error in outcomes if error] == []
