"""Any number of migrators at once: one works, the others wait, all end well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from migrator import lock
from migrator.errors import TryAgain
from migrator.options import Options
from migrator.runner import up
from tests.migrator.support import applied, lock_is_free, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.conftest import MigratedDatabase
    from tests.migrator.conftest import Folder

INDEXES = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


async def together(url: str, folder: Folder, count: int) -> list[int]:
    outcomes = await asyncio.gather(*(up(url, folder.path) for _ in range(count)))
    return sorted(len(outcome.applied) for outcome in outcomes)


@pytest.mark.parametrize("count", [2, 10])
async def test_on_the_first_run_ever_one_applies_and_all_end_well(
    empty_database: str, folder: Folder, conn: asyncpg.Connection, count: int
) -> None:
    for number in range(1, 6):
        folder.add(f"{number:04}_x.sql", f"CREATE TABLE t{number} (); SELECT pg_sleep(0.02);")
    assert await together(empty_database, folder, count) == [0] * (count - 1) + [5]
    assert await applied(conn) == [1, 2, 3, 4, 5]


async def test_an_index_built_concurrently_meets_no_deadlock(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    """Runners that blocked on the lock would hold the snapshots that the index waits for."""
    folder.add("0001_a.sql", "CREATE TABLE t AS SELECT generate_series(1, 100000) AS n")
    folder.add("0002_i.sql", "-- migrator: no-transaction\nCREATE INDEX CONCURRENTLY t_n ON t (n)")
    assert await together(empty_database, folder, 4) == [0, 0, 0, 2]
    assert await conn.fetchval(INDEXES) == 0


@pytest.mark.parametrize("sql", ["INSERT INTO t VALUES (1)", "CALL add()"])
async def test_a_no_transaction_file_is_applied_once(
    empty_database: str, folder: Folder, conn: asyncpg.Connection, sql: str
) -> None:
    body = "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (1); COMMIT; PERFORM pg_sleep(0.2); END $$"
    folder.add("0001_a.sql", f"CREATE TABLE t (n int); CREATE PROCEDURE add() {body}")
    folder.add("0002_b.sql", f"-- migrator: no-transaction\n{sql}")
    assert await together(empty_database, folder, 2) == [0, 2]
    assert await conn.fetchval("SELECT count(*) FROM t") == 1


async def test_who_holds_the_lock_is_said_and_waiting_ends(
    empty_database: str, folder: Folder, connect: Callable[..., Awaitable[asyncpg.Connection]]
) -> None:
    other = await connect(empty_database, server_settings={"application_name": "someone"})
    await other.fetchval(lock.TRY, lock.KEY)
    said: list[str] = []
    folder.add("0001_a.sql", "CREATE TABLE a ()")
    with pytest.raises(TryAgain, match="held the lock") as caught:
        await up(empty_database, folder.path, options=Options(lock_wait=1.2), say=said.append)
    for text in (said[0], str(caught.value)):
        assert f"pid {other.get_server_pid()}, application someone, user mdw_owner, connected for" in text


async def test_the_lock_of_a_holder_that_dies_goes_to_who_waits(
    empty_database: str,
    folder: Folder,
    conn: asyncpg.Connection,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
) -> None:
    other = await connect(empty_database)
    await other.fetchval(lock.TRY, lock.KEY)
    waiting = asyncio.create_task(up(empty_database, folder.add("0001_a.sql", "CREATE TABLE a ()").path))
    await until(lambda: conn.fetchval("SELECT count(*) > 0 FROM pg_stat_activity WHERE query = $1", lock.TRY))
    other.terminate()
    assert (await waiting).version == 1
    assert await until(lambda: lock_is_free(conn))


async def test_locks_of_two_databases_are_two(
    empty_database: str,
    database: MigratedDatabase,
    folder: Folder,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
) -> None:
    elsewhere = await connect(database.owner_url)
    await elsewhere.fetchval(lock.TRY, lock.KEY)
    folder.add("0001_a.sql", "CREATE TABLE a ()")
    assert (await up(empty_database, folder.path, options=Options(lock_wait=0))).version == 1
