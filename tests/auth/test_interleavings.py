"""Orders of events that broke an earlier design; each test fails without the rule that its name states."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from services.auth.store.audit import AuditStore
from services.auth.store.chains import ChainStore
from services.auth.verifying import Verifier
from services.kit import committer, entries
from services.kit.calls import Call
from services.kit.db import Database
from services.kit.principals import Principal
from services.kit.recorder import LOCK_KEYS, Recorder
from tests.support import make_key
from tests.waiting import LONG


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A recorder gives up after two seconds, and a slow machine may need more than that for what takes one."""
    monkeypatch.setattr(committer, "GIVE_UP_SECONDS", LONG)
    monkeypatch.setattr(committer, "COMMAND_SECONDS", LONG)


@pytest.fixture
async def key(database):
    key_id = uuid4()
    await make_key(database, "admin", key_id=key_id)
    return key_id


@pytest.fixture
async def recorder(database):
    db = await Database.open(database.auth_url, size=8)
    async with Recorder(db, service="auth") as recorder:
        yield recorder
    await db.close()


@asynccontextmanager
async def connected(database):
    conn = await asyncpg.connect(database.auth_url)
    yield conn
    conn.terminate()


def call(key) -> Call:
    made = Call(method="UpdateKey", scopes=("keys.write",), peer="127.0.0.1")
    made.key = Principal(key_id=key, preview="mdw_abcdefgh", scopes=frozenset({"admin"}))
    return made


async def test_changes_of_one_key_never_deadlock_because_the_lock_comes_first(recorder, key):
    async def change():
        async with recorder.key_change(call(key)) as conn:
            await conn.execute("UPDATE auth.keys SET version = version + 1 WHERE key_id = $1", key)

    async def read():
        for _ in range(20):
            await recorder.submit(entries.entry(call(key), 0))

    await asyncio.gather(read(), *(change() for _ in range(20)))


async def test_a_change_that_stops_before_its_commit_stalls_reads_for_a_second_not_for_ever(database, recorder, key):
    row = entries.columns([entries.entry(call(key), 0)])
    async with connected(database) as stopped:
        await stopped.execute("BEGIN")
        await stopped.fetchval(entries.RECORD, uuid4(), "changes", None, "symbols", *row)
        async with connected(database) as revoker:
            await revoker.execute("SET lock_timeout = '60s'; BEGIN")
            waiting = asyncio.create_task(revoker.fetchval("SELECT pg_advisory_xact_lock(1833042)"))
            await asyncio.sleep(0.05)
            reading = recorder.submit(entries.entry(call(key), 0))
            await asyncio.wait_for(waiting, LONG)
            await revoker.execute("COMMIT")
            assert await asyncio.wait_for(reading, LONG) is False


async def test_a_change_of_a_key_that_stops_holds_the_lock_for_a_second_at_most(database, recorder, key):
    async with connected(database) as stopped:
        await stopped.execute("BEGIN")
        await stopped.execute(LOCK_KEYS)
        assert await asyncio.wait_for(recorder.submit(entries.entry(call(key), 0)), LONG) is False


async def test_a_change_that_is_rolled_back_leaves_no_hole_in_the_chain(database, recorder, key):
    row = entries.columns([entries.entry(call(key), 0)])
    async with connected(database) as first:
        await first.execute("BEGIN")
        await first.fetchval(entries.RECORD, recorder.writer, "changes", None, "auth", *row)
        other = asyncio.create_task(_change(recorder, key))
        await asyncio.sleep(0.05)
        await first.execute("ROLLBACK")
        await other
    await _change(recorder, key)
    db = await Database.open(database.auth_url)
    report = await Verifier(audit=AuditStore(db), chains=ChainStore(db)).verify(start=None, end=None)
    await db.close()
    assert (report.findings, report.batches) == ([], 2)


async def _change(recorder, key) -> None:
    async with recorder.change(call(key)) as conn:
        await conn.execute("SELECT 1")


async def test_partitions_are_made_while_the_log_is_read_and_no_call_waits(database, recorder, key):
    async with connected(database) as reader, connected(database) as maker:
        await reader.execute("BEGIN")
        await reader.fetch("SELECT count(*) FROM auth.audit_entries")
        making = asyncio.create_task(maker.fetchval("SELECT auth.make_partitions(16)"))
        for _ in range(5):
            await asyncio.wait_for(recorder.submit(entries.entry(call(key), 0)), LONG)
        assert await asyncio.wait_for(making, LONG) == 4


async def test_dropping_a_partition_gives_way_to_a_reader_and_no_call_waits(database, recorder, key):
    owner = await asyncpg.connect(database.owner_url)
    await owner.execute(
        "CREATE TABLE auth.audit_entries_20200101 PARTITION OF auth.audit_entries "
        "FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-01-02 00:00:00+00');"
        "CREATE TABLE auth.audit_batches_20200101 PARTITION OF auth.audit_batches "
        "FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-01-02 00:00:00+00')"
    )
    await owner.close()
    async with connected(database) as reader, connected(database) as dropper:
        await reader.execute("BEGIN")
        await reader.fetch("SELECT count(*) FROM auth.audit_entries")
        dropping = asyncio.create_task(dropper.fetchval("SELECT auth.drop_partitions('2020-06-01')"))
        for _ in range(5):
            await asyncio.wait_for(recorder.submit(entries.entry(call(key), 0)), LONG)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await dropping
        await reader.execute("COMMIT")
        assert await dropper.fetchval("SELECT auth.drop_partitions('2020-06-01')") is not None
