"""No call that starts after RevokeKey has returned succeeds, on any service, whatever any cache holds."""

# ruff: noqa: ASYNC110, PT017, SIM117 - callers go on after a refusal, which is checked where it happens

from __future__ import annotations

import asyncio
import random
import time

import grpc

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from tests.auth.test_keys import Keys
from tests.kit.conftest import Bars, make_server
from tests.support import auth_process, make_key, serving, with_key

ROUNDS = 12
CALLERS = 6


class Load:
    """Callers of one key on several channels; notes when each answered call had started."""

    def __init__(self, channels, secret: str, call) -> None:
        self._channels, self._secret, self._call = channels, secret, call
        self.stop = False
        self.accepted: list[float] = []
        self.refused = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._caller(channel) for channel in self._channels for _ in range(CALLERS)))

    async def _caller(self, channel) -> None:
        while not self.stop:
            started = time.monotonic()
            try:
                await self._call(channel, self._secret)
                self.accepted.append(started)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
                self.refused += 1
                await asyncio.sleep(0.005)


async def list_keys(channel, secret: str) -> None:
    await auth_pb2_grpc.KeyServiceStub(channel).ListKeys(
        auth_pb2.ListKeysRequest(page_size=1), metadata=with_key(secret)
    )


async def late_calls(root: Keys, load: Load, key_id: str, way) -> list[float]:
    """Ends a key under load; returns the calls that started after that had returned and were answered."""
    running = asyncio.create_task(load.run())
    while len(load.accepted) < 20:
        await asyncio.sleep(0.005)
    await asyncio.sleep(random.uniform(0, 0.05))
    await way(root, key_id)
    returned = time.monotonic()
    while not load.refused:
        await asyncio.sleep(0.005)
    load.stop = True
    await running
    return [started for started in load.accepted if started > returned]


async def revoke(root: Keys, key_id: str) -> None:
    await root.RevokeKey(key_id=key_id)


async def delete(root: Keys, key_id: str) -> None:
    await root.DeleteKey(key_id=key_id)


async def test_a_key_that_has_ended_is_refused_by_processes_that_were_never_told(database):
    """Two processes of their own that hold the key in their caches, and nothing tells them that it has changed."""
    admin = await make_key(database, "admin")
    async with auth_process(database) as one, auth_process(database) as two:
        async with grpc.aio.insecure_channel(one.target) as a, grpc.aio.insecure_channel(two.target) as b:
            root = Keys(a, admin)
            for number in range(ROUNDS):
                made = await root.make("keys.read", "audit.read")
                way = (revoke, delete)[number % 2]
                load = Load([a, b], made.secret, list_keys)
                assert await late_calls(root, load, made.key.key_id, way) == []
            made = await root.make("keys.read")
            await list_keys(b, made.secret)
            await root.RevokeKey(key_id=made.key.key_id)
            rows = (await root.ListAuditEntries(key_id=made.key.key_id)).entries
            assert {row.code for row in rows} == {"OK"}


async def test_no_row_of_success_commits_after_the_end_of_its_key(database, target):
    """The log agrees: under the audit lock nothing is recorded as answered after the revocation."""
    async with grpc.aio.insecure_channel(target) as channel:
        root = Keys(channel, await make_key(database, "admin"))
        for _ in range(4):
            made = await root.make("keys.read")
            await late_calls(root, Load([channel], made.secret, list_keys), made.key.key_id, revoke)
            ended = (await root.GetKey(key_id=made.key.key_id)).key.revoke_time.ToNanoseconds()
            page = await root.ListAuditEntries(key_id=made.key.key_id, page_size=1000, codes=["OK"])
            assert [row for row in page.entries if row.time.ToNanoseconds() > ended] == []


async def test_a_revoked_key_is_refused_by_another_service_while_auth_is_away(database):
    """The cache of the other service still holds the key, and the auth service is gone: its row decides."""
    admin = await make_key(database, "admin")
    async with auth_process(database) as auth, serving(await make_server(database, Bars())) as other:
        async with grpc.aio.insecure_channel(auth.target) as a, grpc.aio.insecure_channel(other) as b:
            root = Keys(a, admin)
            made = await root.make("bars.read")
            bars = bars_pb2_grpc.BarServiceStub(b)
            await bars.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(made.secret))
            await root.RevokeKey(key_id=made.key.key_id)
            auth.kill()
            await auth.end()
            for _ in range(3):
                try:
                    await bars.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(made.secret))
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
                else:
                    raise AssertionError("a revoked key was answered")
