"""The promises of keys and audit, in long runs: many revocations, many kills, crashes of Postgres, stops.

Not collected by `make test`: `python -m pytest tests/faults/auth_faults.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import grpc

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.auth.store.audit import AuditStore
from services.auth.store.chains import ChainStore
from services.auth.verifying import Verifier
from services.kit.calls import Call
from services.kit.db import Database
from services.kit.errors import Aborted, Unavailable
from services.kit.principals import Principal
from services.kit.recorder import Recorder
from tests.auth.test_keys import Keys
from tests.auth.test_killed import Acknowledged, enough, recorded
from tests.auth.test_revoked import Load, delete, late_calls, list_keys, revoke
from tests.kit.conftest import Bars, make_server
from tests.standby import own_server
from tests.support import auth_process, make_key, serving, with_key
from tests.waiting import LONG, until

REVOCATIONS = 100
KILLS = 25
CRASHES = 8


async def list_bars(channel, secret: str) -> None:
    await bars_pb2_grpc.BarServiceStub(channel).ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(secret))


async def test_hundreds_of_revocations_over_three_services_let_no_late_call_through(database):
    """Two auth services and another one; what ends a key is a revocation, a deletion or an expiry past the service."""
    admin = await make_key(database, "admin")
    owner = await asyncpg.connect(database.admin_url)

    async def expire(_root, key_id) -> None:
        conn = await asyncpg.connect(database.auth_url)
        async with conn.transaction():
            await conn.execute("SELECT auth.lock_keys()")
            await conn.execute("UPDATE auth.keys SET expire_time = now() WHERE key_id::text = $1", key_id)
        await conn.close()

    async with AsyncExitStack() as stack:
        auths = [await stack.enter_async_context(auth_process(database)) for _ in range(2)]
        other = await stack.enter_async_context(serving(await make_server(database, Bars())))
        a, b, c = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target))
            for target in (auths[0].target, auths[1].target, other)
        ]
        root = Keys(a, admin)
        for number in range(REVOCATIONS):
            made = await root.make("keys.read", "bars.read")
            load, others = Load([a, b], made.secret, list_keys), Load([c], made.secret, list_bars)
            running = asyncio.create_task(others.run())
            late = await late_calls(root, load, made.key.key_id, (revoke, delete, expire)[number % 3])
            await until(lambda: others.refused)  # noqa: B023 - it is over before the next one
            others.stop = True
            await running
            assert late == []
    late_rows = await owner.fetchval(
        "SELECT count(*) FROM auth.audit_entries e JOIN auth.keys k USING (key_id)"
        " WHERE e.code = 0 AND e.time > coalesce(k.revoke_time, k.delete_time)"
    )
    await owner.close()
    assert late_rows == 0


async def test_a_service_killed_many_times_has_a_row_of_everything_it_answered(database):
    secret = await make_key(database, "admin")
    for _ in range(KILLS):
        async with auth_process(database) as process:
            load = Acknowledged(process.target, secret)
            running = asyncio.create_task(load.run())
            await enough(load, 20)
            await asyncio.sleep(random.uniform(0, 0.2))
            process.kill()
            await process.end()
            load.stop = True
            await running
        ids, rows, used = await recorded(database)
        assert (load.reads | load.changes) - ids == set()
        assert rows == used
    await verified(database)


async def test_a_postgres_that_crashes_under_load_loses_and_doubles_nothing(tmp_path):
    """A backend is killed, so Postgres ends all others and recovers from its log; fsync is on."""
    async with own_server(tmp_path / "server") as (_, database):
        secret = await make_key(database, "admin")
        async with auth_process(database) as process:
            load = Acknowledged(process.target, secret)
            running = asyncio.create_task(load.run())
            for _ in range(CRASHES):
                await enough(load, 30)
                await asyncio.sleep(random.uniform(0, 0.2))
                conn = await asyncpg.connect(database.admin_url)
                victims = await conn.fetch("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mdw%'")
                os.kill(random.choice(victims)["pid"], signal.SIGKILL)
                conn.terminate()
            await enough(load, 30)
            load.stop = True
            await running
            ids, rows, used = await recorded(database)
            assert (load.reads | load.changes) - ids == set()
            assert rows == used
            conn = await asyncpg.connect(database.admin_url)
            made = await conn.fetchval("SELECT count(*) FROM auth.keys WHERE display_name = 'made'")
            told = await conn.fetchval(
                "SELECT count(*) FROM auth.audit_entries WHERE method = 'CreateKey' AND code = 0"
            )
            await conn.close()
            assert made == told
        await verified(database)


async def test_stopped_services_hold_nobody_up_for_longer_than_a_second(database):
    """SIGSTOP at any moment, also between a change's row and its commit: others go on within the idle timeout.

    Stopped between a statement's Parse and its Bind a service was not idle to Postgres, and held the audit lock for
    ever; now for five seconds.
    """
    secret = await make_key(database, "admin")
    async with auth_process(database) as one, auth_process(database) as two:
        stopped, free = Acknowledged(one.target, secret), Acknowledged(two.target, secret)
        tasks = [asyncio.create_task(load.run()) for load in (stopped, free)]
        for _ in range(15):
            await enough(stopped, 5)
            one.kill(signal.SIGSTOP)
            await asyncio.wait_for(enough(free, 5), LONG)
            one.kill(signal.SIGCONT)
        stopped.stop = free.stop = True
        await asyncio.gather(*tasks)
    ids, rows, used = await recorded(database)
    assert (stopped.reads | stopped.changes | free.reads | free.changes) - ids == set()
    assert rows == used
    await verified(database)


CHANGE = "INSERT INTO auth.requests (key_id, method, request_id, request_hash) VALUES ($1, 'x', $2, '')"
TERMINATE = """
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE application_name LIKE 'mdw%'
  AND datname = current_database()
  AND random() < 0.4
"""


async def _end_backends(owner: asyncpg.Connection) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.02, 0.15))
        await owner.execute(TERMINATE)


async def test_changes_and_changes_of_keys_under_terminated_backends_stay_whole(database):
    """Hundreds of changes of two kinds while their backends are ended at random: each is in with its row or out."""
    key = uuid4()
    await make_key(database, "admin", key_id=key)
    owner = await asyncpg.connect(database.admin_url)
    db = await Database.open(database.auth_url, size=8)
    done = []

    async def work(recorder: Recorder) -> None:
        for _ in range(250):
            call = Call(method="Change", scopes=("keys.write",), peer="127.0.0.1")
            call.key = Principal(key_id=key, preview="mdw_00000000", scopes=frozenset({"admin"}))
            way = random.choice((recorder.change, recorder.key_change))
            try:
                async with way(call) as conn:
                    await conn.execute(CHANGE, key, call.call_id)
            except (Unavailable, Aborted):
                continue
            done.append(call.call_id)

    async with Recorder(db, service="auth") as recorder:
        disturbing = asyncio.create_task(_end_backends(owner))
        await asyncio.gather(*(work(recorder) for _ in range(8)))
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
    await db.close()
    changed = {row[0] for row in await owner.fetch("SELECT request_id FROM auth.requests")}
    told = {row[0] for row in await owner.fetch("SELECT call_id FROM auth.audit_entries WHERE code = 0")}
    await owner.close()
    assert set(done) <= changed
    assert changed == told
    await verified(database)


async def verified(database) -> None:
    db = await Database.open(database.auth_url)
    report = await Verifier(audit=AuditStore(db), chains=ChainStore(db)).verify(start=None, end=None)
    await db.close()
    assert report.findings == []
