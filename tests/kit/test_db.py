"""The pool: every wait has a bound, and errors say what a caller can do."""

# ruff: noqa: PT012 - a transaction fails at its end, so its whole body stands in the check

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from services.kit.db import Database, is_lost, translate
from services.kit.errors import Aborted, InvalidArgument, NotFound, Unavailable
from services.kit.requests import Requests
from tests.proxy import proxied
from tests.waiting import LONG, until


@pytest.fixture
async def db(database):
    db = await Database.open(database.symbols_url, size=2)
    yield db
    await db.close()


async def test_a_query_is_answered_and_a_transaction_commits_or_not(db):
    assert await db.fetchval("SELECT 1") == 1
    assert (await db.fetchrow("SELECT 2 AS two"))["two"] == 2
    assert [row[0] for row in await db.fetch("SELECT generate_series(1, 3)")] == [1, 2, 3]
    insert = "INSERT INTO symbols.requests (key_id, method, request_id, request_hash) VALUES ($1, 'x', $1, '')"
    async with db.transaction() as conn:
        await conn.execute(insert, uuid4())
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as conn:
            await conn.execute(insert, uuid4())
            raise ZeroDivisionError
    assert await db.fetchval("SELECT count(*) FROM symbols.requests") == 1
    assert await db.execute("DELETE FROM symbols.requests") == "DELETE 1"


async def test_an_error_of_ours_passes_through(db):
    with pytest.raises(NotFound):
        async with db.connection():
            raise NotFound("X", "y")


async def test_a_database_that_is_not_there_is_unavailable():
    db = await Database.open("postgresql://mdw@127.0.0.1:1/mdw")
    with pytest.raises(Unavailable) as caught:
        await db.fetchval("SELECT 1")
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert "mdw@" not in repr(db)
    await db.close()


async def test_an_exhausted_pool_is_unavailable(database):
    db = await Database.open(database.symbols_url, size=1, acquire_timeout=LONG)
    async with db.connection():
        with pytest.raises(Unavailable):
            async with db.connection(timeout=0.1):
                pass
    assert await db.fetchval("SELECT 1") == 1
    await db.close()


async def test_a_black_hole_ends_within_its_bound_and_the_pool_recovers(database):
    async with proxied(database.symbols_url) as (proxy, url):
        db = await Database.open(url, size=2, command_timeout=0.3, acquire_timeout=0.3)
        await until(lambda: _try(db))  # a slow machine may need longer than that to connect
        proxy.hole = True
        for _ in range(3):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(db.fetchval("SELECT 1"), LONG)
        proxy.heal()
        assert await until(lambda: _try(db)) == 1
        await db.close()


async def test_a_killed_backend_is_unavailable_once(database, db):
    owner = await asyncpg.connect(database.admin_url)
    async with db.connection() as conn:
        pid = await conn.fetchval("SELECT pg_backend_pid()")
    await owner.execute("SELECT pg_terminate_backend($1, 2000)", pid)
    outcomes = [await _try(db) for _ in range(2)]
    assert outcomes[-1] == 1
    await owner.close()


async def _try(db):
    try:
        return await db.fetchval("SELECT 1")
    except Unavailable:
        return None


async def test_a_read_only_primary_costs_the_pool_its_connections(database, db):
    async with db.connection() as conn:
        await conn.execute("SET default_transaction_read_only = on")
        before = await conn.fetchval("SELECT pg_backend_pid()")
    with pytest.raises(Unavailable):
        async with db.connection() as conn:
            await conn.execute("SET default_transaction_read_only = on")
            await conn.execute("DELETE FROM symbols.requests")
    async with db.connection() as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") != before
    await db.execute("DELETE FROM symbols.requests")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncpg.DeadlockDetectedError("x"), Aborted),
        (asyncpg.SerializationError("x"), Aborted),
        (asyncpg.LockNotAvailableError("x"), Aborted),
        (asyncpg.CharacterNotInRepertoireError("x"), InvalidArgument),
        (asyncpg.NumericValueOutOfRangeError("x"), InvalidArgument),
        (asyncpg.DiskFullError("x"), Unavailable),
        (asyncpg.AdminShutdownError("x"), Unavailable),
        (asyncpg.ReadOnlySQLTransactionError("x"), Unavailable),
        (asyncpg.TooManyConnectionsError("x"), Unavailable),
        (asyncpg.InternalClientError("x"), Unavailable),
        (asyncpg.InternalServerError("failure on connection marked as essential: node-1:5432"), Unavailable),
        (asyncpg.InternalServerError("SSL SYSCALL error: EOF detected"), Unavailable),
        (asyncpg.PostgresIOError("failed to COPY to shard 102008 on node-1:5432"), Unavailable),
        (asyncpg.InternalServerError("cache lookup failed for type 1"), asyncpg.InternalServerError),
        (asyncpg.InterfaceError("connection is closed"), Unavailable),
        (ConnectionResetError(), Unavailable),
        (TimeoutError(), Unavailable),
        (asyncpg.UniqueViolationError("x"), asyncpg.UniqueViolationError),
        (asyncpg.InterfaceError("another operation is in progress"), asyncpg.InterfaceError),
        (NotFound("X", "y"), NotFound),
    ],
)
def test_errors_become_what_a_caller_can_act_on(error, kind):
    assert isinstance(translate(error), kind)


def test_a_refused_statement_leaves_its_connection_good():
    assert not is_lost(asyncpg.UniqueViolationError("x"))
    assert not is_lost(asyncpg.ConnectionFailureError("connection to the remote node mdw@node-1:5432 failed"))
    assert is_lost(asyncpg.AdminShutdownError("x"))


async def test_a_pooler_gets_no_prepared_statements(database):
    db = await Database.open(database.symbols_url, pooler=True)
    async with db.connection() as conn:
        await conn.fetchval("SELECT $1::int", 1)
        assert await conn.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
    await db.close()


def test_requests_know_their_schemas():
    with pytest.raises(ValueError, match="public"):
        Requests("public")


async def test_old_request_ids_are_swept(database, db):
    insert = (
        "INSERT INTO symbols.requests (key_id, method, request_id, request_hash, create_time)"
        " VALUES ($1, 'x', $1, '', now() - $2 * interval '1 hour')"
    )
    await db.execute(insert, uuid4(), 49)
    await db.execute(insert, uuid4(), 47)
    await Requests("symbols").sweep(db)
    assert await db.fetchval("SELECT count(*) FROM symbols.requests") == 1
