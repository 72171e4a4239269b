"""Killed anywhere, by any signal, nothing is half-done: the lock is free at once, and the next run finishes."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from migrator import lock
from migrator.errors import SqlFailed, TryAgain
from migrator.files import Migration
from migrator.history import STARTED, record
from migrator.runner import up
from tests.migrator.conftest import REPOSITORY
from tests.migrator.proxy import Proxy
from tests.migrator.support import applied, exists, lock_is_free, running, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from tests.migrator.conftest import Ended, Folder

    Start = Callable[..., Awaitable[asyncio.subprocess.Process]]

FREE_WITHIN = 60.0  # seconds; without the connection check it is as long as the statement runs
SLOW = "CREATE TABLE b (); SELECT pg_sleep(300);"


@pytest.fixture
def slow(folder: Folder) -> Folder:
    """Two files, of which the second takes long."""
    return folder.add("0001_a.sql", "CREATE TABLE a ()").add("0002_b.sql", SLOW)


async def started(start: Start, url: str, folder: Folder, conn: asyncpg.Connection) -> asyncio.subprocess.Process:
    """Starts a migrator and returns once its second file runs."""
    process = await start(url, "up", "--folder", str(folder.path))
    await until(lambda: running(conn, "pg_sleep(300)"))
    return process


async def test_kill_9_in_a_file_keeps_those_before_and_frees_the_lock(
    empty_database: str, slow: Folder, conn: asyncpg.Connection, start: Start
) -> None:
    process = await started(start, empty_database, slow, conn)
    process.kill()
    await process.wait()
    await until(lambda: lock_is_free(conn), within=FREE_WITHIN)
    assert await applied(conn) == [1]
    assert not await exists(conn, "b")
    slow.add("0002_b.sql", "CREATE TABLE b ()")
    assert [done.version for done in (await up(empty_database, slow.path)).applied] == [2]


async def test_kill_9_between_a_files_sql_and_its_record_undoes_both(
    empty_database: str,
    folder: Folder,
    conn: asyncpg.Connection,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
    start: Start,
) -> None:
    """A lock on the history holds the run exactly there."""
    await up(empty_database, folder.add("0001_a.sql", "CREATE TABLE a ()").path)
    blocker = await connect(empty_database)
    await blocker.execute("BEGIN; LOCK TABLE migrator.history IN SHARE MODE")
    folder.add("0002_b.sql", "CREATE TABLE b (); SET LOCAL lock_timeout = 0")
    process = await start(empty_database, "up", "--folder", str(folder.path), "--lock-timeout", "60000")
    await until(lambda: running(conn, "INSERT INTO migrator.history"))
    process.kill()
    await process.wait()
    await until(lambda: lock_is_free(conn), within=FREE_WITHIN)
    await blocker.execute("ROLLBACK")
    assert await applied(conn) == [1]
    assert not await exists(conn, "b")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_a_file_undoes_it_at_once(
    empty_database: str, slow: Folder, conn: asyncpg.Connection, start: Start, number: int
) -> None:
    process = await started(start, empty_database, slow, conn)
    asked = time.monotonic()
    process.send_signal(number)
    _, err = await process.communicate()
    assert time.monotonic() - asked < FREE_WITHIN
    assert process.returncode == 75
    assert b"interrupted\n  hint: run it again" in err
    assert await until(lambda: lock_is_free(conn), within=FREE_WITHIN)
    assert await applied(conn) == [1]
    assert not await exists(conn, "b")


async def test_a_signal_while_waiting_for_the_lock_ends_the_wait(
    empty_database: str, slow: Folder, conn: asyncpg.Connection, start: Start
) -> None:
    await conn.fetchval(lock.TRY, lock.KEY)
    process = await start(empty_database, "up", "--folder", str(slow.path))
    await until(lambda: conn.fetchval("SELECT count(*) > 0 FROM pg_stat_activity WHERE query = $1", lock.TRY))
    process.terminate()
    await asyncio.wait_for(process.communicate(), FREE_WITHIN)
    assert process.returncode == 75


async def test_a_session_ended_by_the_server_names_the_file_and_the_reason(
    empty_database: str, slow: Folder, conn: asyncpg.Connection
) -> None:
    waiting = asyncio.create_task(up(empty_database, slow.path))
    pid = await until(lambda: running(conn, "pg_sleep(300)"))
    await conn.execute("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises(TryAgain, match=r"0002_b\.sql: the connection was lost") as caught:
        await waiting
    assert "due to administrator command" in str(caught.value)
    assert await applied(conn) == [1]


@pytest.fixture
async def proxy(empty_database: str) -> AsyncIterator[Proxy]:
    """A proxy before the empty database."""
    proxy = Proxy(empty_database)
    yield proxy
    await proxy.stop()


@pytest.mark.parametrize("let_through", [True, False])
async def test_a_connection_that_breaks_in_commit_is_settled_by_the_history(
    proxy: Proxy, folder: Folder, conn: asyncpg.Connection, *, let_through: bool
) -> None:
    """Whether COMMIT arrived or not, the file is applied exactly once and the run goes on."""
    url = await proxy.start()
    proxy.cut_at, proxy.let_through = b"COMMIT\0", let_through
    folder.add("0001_a.sql", "CREATE TABLE a (n int); INSERT INTO a VALUES (1)").add("0002_b.sql", "CREATE TABLE b ()")
    said: list[str] = []
    outcome = await up(url, folder.path, say=said.append)
    assert proxy.cuts == 1
    assert outcome.version == 2
    assert await applied(conn) == [1, 2]
    assert await conn.fetchval("SELECT count(*) FROM a") == 1
    assert "broke in COMMIT" in said[0]
    assert [done.version for done in outcome.applied] == [1, 2]


ROWS = "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n"
INDEX = "-- migrator: no-transaction\nCREATE INDEX CONCURRENTLY t_n ON t (n)"
IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('t_n')"


@pytest.fixture
async def half_built(
    empty_database: str,
    folder: Folder,
    conn: asyncpg.Connection,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
    start: Start,
) -> Folder:
    """A database in which a run was killed while it built an index, and left it invalid."""
    await up(empty_database, folder.add("0001_t.sql", ROWS).path)
    reader = await connect(empty_database)
    await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM t")  # the index waits for this snapshot
    folder.add("0002_i.sql", INDEX)
    process = await start(empty_database, "up", "--folder", str(folder.path))
    await until(lambda: conn.fetchval("SELECT to_regclass('t_n') IS NOT NULL"))
    process.kill()
    await process.wait()
    await until(lambda: lock_is_free(conn), within=FREE_WITHIN)
    await reader.execute("ROLLBACK")
    assert await conn.fetchval(IS_VALID) is False
    return folder


async def test_an_index_left_invalid_is_dropped_and_built_anew(
    empty_database: str, half_built: Folder, conn: asyncpg.Connection
) -> None:
    said: list[str] = []
    outcome = await up(empty_database, half_built.path, say=said.append)
    assert "dropping t_n, which an interrupted run left invalid" in said
    assert [done.version for done in outcome.applied] == [2]
    assert await conn.fetchval(IS_VALID) is True


async def test_an_interrupted_file_is_shown_and_counts_as_pending(
    empty_database: str, half_built: Folder, command: Callable[..., Awaitable[Ended]]
) -> None:
    ended = await command(empty_database, "status", "--check", "--folder", str(half_built.path))
    assert ended.code == 3
    assert "interrupted: up takes it up again" in ended.out


async def test_if_not_exists_does_not_pass_over_an_invalid_index(
    empty_database: str, half_built: Folder, conn: asyncpg.Connection
) -> None:
    half_built.add("0002_i.sql", INDEX.replace("t_n ON", "IF NOT EXISTS t_n ON"))
    await up(empty_database, half_built.path)
    assert await conn.fetchval(IS_VALID) is True


async def interrupted_after(conn: asyncpg.Connection, sql: str) -> None:
    """Leaves the history as a run does that was killed after its statement and before its record."""
    await conn.execute(sql)
    await record(conn, Migration(2, "0002_i", sql, "0" * 64), STARTED, 0)


@pytest.mark.parametrize(
    ("done", "file"),
    [
        ("CREATE INDEX CONCURRENTLY t_n ON t (n)", INDEX),
        (
            'CREATE INDEX "T_n" ON t (n)',
            '-- migrator: no-transaction\nCREATE INDEX CONCURRENTLY "T_n" ON ONLY public.t (n)',
        ),
        ("SELECT 1", "-- migrator: no-transaction\nDROP INDEX CONCURRENTLY public.gone"),
        ("SELECT 1", "-- migrator: no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS gone"),
        ("VACUUM t", "-- migrator: no-transaction\nVACUUM t"),
        ("REINDEX TABLE t", "-- migrator: no-transaction\nREINDEX TABLE CONCURRENTLY t"),
    ],
)
async def test_a_statement_that_was_finished_but_not_recorded_is_not_an_error(
    empty_database: str, folder: Folder, conn: asyncpg.Connection, done: str, file: str
) -> None:
    await up(empty_database, folder.add("0001_t.sql", ROWS).path)
    await interrupted_after(conn, done)
    await up(empty_database, folder.add("0002_i.sql", file).path)
    assert await applied(conn) == [1, 2]


async def test_what_an_interrupted_reindex_left_is_dropped(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    await up(empty_database, folder.add("0001_t.sql", ROWS + "; CREATE INDEX t_n ON t (n)").path)
    await conn.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(Exception, match="duplicate"):
        await conn.execute("CREATE UNIQUE INDEX CONCURRENTLY t_n_ccnew ON t (n)")
    await interrupted_after(conn, "SELECT 1")
    folder.add("0002_i.sql", "-- migrator: no-transaction\nREINDEX INDEX CONCURRENTLY t_n")
    await up(empty_database, folder.path)
    assert not await exists(conn, "t_n_ccnew")


async def test_an_index_that_cannot_be_built_is_an_error_with_its_line(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    await up(
        empty_database, folder.add("0001_t.sql", "CREATE TABLE t AS SELECT 1 AS n FROM generate_series(1, 2)").path
    )
    folder.add("0002_i.sql", INDEX.replace("INDEX", "UNIQUE INDEX"))
    with pytest.raises(Exception, match=r"0002_i\.sql:2:1: could not create unique index"):
        await up(empty_database, folder.path)
    await conn.execute("DELETE FROM t")
    await up(empty_database, folder.path)
    assert await conn.fetchval(IS_VALID) is True


async def test_an_index_of_that_name_that_was_there_before_is_an_error(empty_database: str, folder: Folder) -> None:
    await up(empty_database, folder.add("0001_t.sql", ROWS + "; CREATE INDEX t_n ON t (n)").path)
    with pytest.raises(Exception, match="already exists"):
        await up(empty_database, folder.add("0002_i.sql", INDEX).path)


SIGNALLED_WHILE_IMPORTING = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "migrator.cli":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Finder())
runpy.run_module("migrator", run_name="__main__")
"""


async def test_a_signal_before_anything_began_is_one_to_try_again() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SIGNALLED_WHILE_IMPORTING, cwd=REPOSITORY)
    assert await process.wait() == 75


async def test_an_index_that_somebody_made_is_never_taken_for_a_run_of_ours(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    """The refused run left a STARTED row, and the next one took the other index for its own work."""
    folder.add("0001_t.sql", "CREATE TABLE t (n integer, m integer)")
    await up(empty_database, folder.path)
    await conn.execute("CREATE INDEX t_n ON t (m)")
    folder.add("0002_i.sql", INDEX)
    for _ in range(2):
        with pytest.raises(SqlFailed):
            await up(empty_database, folder.path)
        assert await applied(conn) == [1]
