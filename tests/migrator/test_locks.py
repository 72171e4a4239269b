"""A file that waits for a table's lock gives way to readers, and tries again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from migrator.errors import TryAgain
from migrator.options import Options
from migrator.runner import up
from tests.migrator.conftest import REUSED
from tests.migrator.support import applied, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.conftest import PostgresServer
    from tests.migrator.conftest import Folder

WAITS_FOR_U = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'u'::regclass)"
ALTER = "ALTER TABLE t ADD COLUMN m int"


@pytest.fixture
async def table(empty_database: str, folder: Folder) -> Folder:
    """A database with a table, and a file that wants its strongest lock."""
    await up(empty_database, folder.add("0001_t.sql", "CREATE TABLE t AS SELECT 1 AS n").path)
    return folder.add("0002_alter.sql", ALTER)


async def test_readers_pass_while_a_file_waits_for_a_long_one(
    empty_database: str, table: Folder, connect: Callable[..., Awaitable[asyncpg.Connection]]
) -> None:
    """Behind a lock that is asked for without end, this reader would wait as long as the long one reads."""
    long_reader, reader = await connect(empty_database), await connect(empty_database)
    await long_reader.execute("BEGIN; SELECT * FROM t")
    options = Options(lock_timeout_ms=100)
    said: list[str] = []
    waiting = asyncio.create_task(up(empty_database, table.path, options=options, say=said.append))
    async with asyncio.timeout(60):
        for _ in range(100):
            await reader.fetch("SELECT * FROM t")
            await asyncio.sleep(0.005)
        await until(lambda: asyncio.sleep(0, said))
    assert not waiting.done()
    await long_reader.execute("COMMIT")
    assert [done.name for done in (await waiting).applied] == ["0002_alter"]
    assert "trying again" in said[0]


async def test_when_patience_ends_nothing_is_changed_and_the_blockers_are_named(
    empty_database: str,
    table: Folder,
    conn: asyncpg.Connection,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
) -> None:
    reader = await connect(empty_database, server_settings={"application_name": "long report"})
    await reader.execute("BEGIN; SELECT * FROM t")
    options = Options(lock_timeout_ms=100, retry_for=0.6)
    with pytest.raises(TryAgain) as caught:
        await up(empty_database, table.path, options=options)
    assert "nothing was changed" in str(caught.value)
    assert f"pid {reader.get_server_pid()} (long report, idle in transaction" in str(caught.value)
    assert await applied(conn) == [1]


async def test_a_deadlock_with_an_application_is_tried_again(
    empty_database: str,
    table: Folder,
    postgres: PostgresServer,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
) -> None:
    """The application takes u then t, the file t then u; the file looks for a deadlock sooner, so it gives way."""
    admin = await connect(postgres.admin_url)
    await admin.execute(f"ALTER DATABASE {REUSED} SET deadlock_timeout = '60s'")
    application = await connect(empty_database)
    await admin.execute(f"ALTER DATABASE {REUSED} SET deadlock_timeout = '2s'")
    await application.execute("CREATE TABLE u ()")
    await application.execute("BEGIN; LOCK TABLE u")
    table.add("0002_alter.sql", f"SET LOCAL lock_timeout = 0; {ALTER}; LOCK TABLE u")
    said: list[str] = []

    async def cross() -> None:
        await until(lambda: application.fetchval(WAITS_FOR_U))
        await application.execute("SELECT * FROM t; COMMIT")

    _, outcome = await asyncio.gather(cross(), up(empty_database, table.path, say=said.append))
    assert [done.version for done in outcome.applied] == [2]
    assert any("deadlock detected" in text for text in said)
