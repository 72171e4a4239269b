"""No answered call without its row, whichever side is killed."""

# ruff: noqa: ASYNC110, PT017 - callers go on after a failure, which is checked where it happens

from __future__ import annotations

import asyncio
import random
import signal
from uuid import uuid4

import asyncpg
import grpc

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from tests.auth.test_keys import Keys
from tests.support import auth_process, make_key, with_key

ROUNDS = 3


class Acknowledged:
    """Callers who note the request id of every answered call."""

    def __init__(self, target: str, secret: str) -> None:
        self._target, self._secret = target, secret
        self.reads: set[str] = set()
        self.changes: set[str] = set()
        self.stop = False

    async def run(self) -> None:
        async with grpc.aio.insecure_channel(self._target) as channel:
            stub = auth_pb2_grpc.KeyServiceStub(channel)
            await asyncio.gather(*(self._reader(stub) for _ in range(8)), *(self._changer(stub) for _ in range(2)))

    async def _reader(self, stub) -> None:
        while not self.stop:
            name = uuid4().hex
            metadata = (*with_key(self._secret), ("x-request-id", name))
            if await _answered(stub.ListKeys(auth_pb2.ListKeysRequest(page_size=1), metadata=metadata)):
                self.reads.add(name)

    async def _changer(self, stub) -> None:
        while not self.stop:
            request = auth_pb2.CreateKeyRequest(display_name="made", scopes=["bars.read"], request_id=str(uuid4()))
            if await _answered(stub.CreateKey(request, metadata=with_key(self._secret))):
                self.changes.add(request.request_id)


async def _answered(call) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
        await asyncio.sleep(0.02)
        return False
    return True


async def recorded(database) -> tuple[set[str], int, int]:
    """Returns the request ids in the log, how many rows it has, and how many calls are counted."""
    conn = await asyncpg.connect(database.admin_url)
    ids = {row["request_id"] for row in await conn.fetch("SELECT request_id FROM auth.audit_entries")}
    rows = await conn.fetchval("SELECT sum(call_count) FROM auth.audit_entries WHERE code <> 16 AND key_id IS NOT NULL")
    used = await conn.fetchval("SELECT sum(call_count) FROM auth.key_usage")
    await conn.close()
    return ids, rows, used


async def enough(load: Acknowledged, number: int) -> None:
    reads, changes = len(load.reads), len(load.changes)
    while len(load.reads) < reads + number or len(load.changes) < changes + 3:
        await asyncio.sleep(0.01)


async def test_a_killed_service_has_a_row_of_everything_it_answered(database):
    secret = await make_key(database, "admin")
    for _ in range(ROUNDS):
        async with auth_process(database) as process:
            load = Acknowledged(process.target, secret)
            running = asyncio.create_task(load.run())
            await enough(load, 50)
            await asyncio.sleep(random.uniform(0, 0.1))
            process.kill()
            await process.end()
            load.stop = True
            await running
        ids, rows, used = await recorded(database)
        assert load.reads - ids == set()
        assert load.changes - ids == set()
        assert rows == used


async def test_a_service_told_to_stop_drops_no_call(database):
    secret = await make_key(database, "admin")
    async with auth_process(database, drain_seconds="0.3") as process:
        load = Acknowledged(process.target, secret)
        running = asyncio.create_task(load.run())
        await enough(load, 50)
        process.kill(signal.SIGTERM)
        assert await process.end() == 0
        load.stop = True
        await running
        assert not [event for event in process.events if event.get("code") in ("INTERNAL", "UNKNOWN")]
    ids, rows, used = await recorded(database)
    assert (load.reads | load.changes) - ids == set()
    assert rows == used


async def test_connections_killed_under_load_lose_and_double_nothing(database, target, admin):
    owner = await asyncpg.connect(database.admin_url)
    load = Acknowledged(target, admin)
    running = asyncio.create_task(load.run())
    for _ in range(8):
        await enough(load, 20)
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'mdw auth%' AND datname = current_database()"
        )
    await enough(load, 20)
    load.stop = True
    await running
    ids, rows, used = await recorded(database)
    assert (load.reads | load.changes) - ids == set()
    assert rows == used
    assert (
        await owner.fetchval("SELECT max(n) FROM (SELECT count(*) n FROM auth.audit_entries GROUP BY call_id) s") == 1
    )
    made = await owner.fetchval("SELECT count(*) FROM auth.keys WHERE display_name = 'made'")
    assert made == await owner.fetchval(
        "SELECT count(*) FROM auth.audit_entries WHERE method = 'CreateKey' AND code = 0"
    )
    await owner.close()
    async with grpc.aio.insecure_channel(target) as channel:
        assert list((await Keys(channel, admin).VerifyAuditLog()).findings) == []
