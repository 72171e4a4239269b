"""A server that is away is waited for; one that a migration must not meet is refused with what helps."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.local.postgres import FAST_SETTINGS, EmbeddedPostgres
from migrator.connect import Server, require_writable
from migrator.errors import BadFiles, SqlFailed, TryAgain
from migrator.options import Options
from migrator.runner import up
from tests.migrator.proxy import Proxy
from tests.migrator.support import applied, exists, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

    from tests.conftest import PostgresServer
    from tests.migrator.conftest import Ended, Folder

QUICK = Options(wait=0.3)
NOBODY = "postgresql://nobody:x@127.0.0.1:1/none"


@pytest.fixture
def one(folder: Folder) -> Folder:
    """One file."""
    return folder.add("0001_a.sql", "CREATE TABLE a ()")


async def test_a_database_that_is_away_is_waited_for_and_then_it_may_be_tried_again(one: Folder) -> None:
    said: list[str] = []
    with pytest.raises(TryAgain, match="cannot be reached"):
        await up(NOBODY, one.path, options=QUICK, say=said.append)
    assert "waiting up to 0 s for the database" in said[0]


async def test_bad_files_are_refused_before_any_wait(folder: Folder) -> None:
    with pytest.raises(BadFiles):
        await up(NOBODY, folder.add("0001_a.sql", "COMMIT").path, options=Options(wait=600))


async def test_a_database_that_comes_while_we_wait_is_migrated(
    empty_database: str, one: Folder, conn: asyncpg.Connection
) -> None:
    proxy = Proxy(empty_database)
    url = await proxy.start()
    port = int(url.rpartition(":")[2].split("/")[0])
    await proxy.stop()
    said: list[str] = []
    waiting = asyncio.create_task(up(url, one.path, say=said.append))
    await until(lambda: asyncio.sleep(0, said))
    late = Proxy(empty_database, port=port)
    await late.start()
    assert (await waiting).version == 1
    await late.stop()
    assert await applied(conn) == [1]


async def answering(message: bytes) -> asyncio.Server:
    """A server that answers every connection with one message."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(8)
        if first.endswith(struct.pack("!i", 80877103)):  # a request for TLS
            writer.write(b"N")
            await reader.read(1024)
        writer.write(message)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def refusing(code: str, text: str) -> bytes:
    body = b"".join(kind + value.encode() + b"\0" for kind, value in ((b"S", "FATAL"), (b"C", code), (b"M", text)))
    return b"E" + struct.pack("!i", len(body) + 5) + body + b"\0"


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("57P03", TryAgain, "cannot be reached: the server says so"),
        ("53300", TryAgain, "cannot be reached: the server says so"),
        ("08P01", TryAgain, "cannot be reached: the server says so"),
        ("3D000", BadFiles, "refuses the connection: the server says so"),
        ("28P01", BadFiles, "refuses the connection: the server says so"),
        ("28000", BadFiles, "refuses the connection: the server says so"),
    ],
)
async def test_only_what_passes_is_waited_for(one: Folder, code: str, error: type[Exception], said: str) -> None:
    server = await answering(refusing(code, "the server says so"))
    url = f"postgresql://me:x@127.0.0.1:{server.sockets[0].getsockname()[1]}/db"
    with pytest.raises(error, match=said):
        await up(url, one.path, options=QUICK)
    server.close()


async def test_a_pooler_that_refuses_our_settings_is_recognised(one: Folder) -> None:
    server = await answering(refusing("08P01", "unsupported startup parameter: lock_timeout"))
    url = f"postgresql://me:x@127.0.0.1:{server.sockets[0].getsockname()[1]}/db"
    with pytest.raises(BadFiles, match="a connection pooler answered") as caught:
        await up(url, one.path, options=QUICK)
    assert "MIGRATION_DATABASE_URL" in str(caught.value)
    server.close()


async def test_a_pooler_that_shares_sessions_is_recognised_by_its_pid(
    empty_database: str, one: Folder, conn: asyncpg.Connection
) -> None:
    proxy = Proxy(empty_database, shared_sessions=True)
    with pytest.raises(BadFiles, match="a connection pooler stands between"):
        await up(await proxy.start(), one.path)
    await proxy.stop()
    assert not await exists(conn, "a")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:secret@127.0.0.1/db",
        "postgresql://me:se@127.0.0.1:cret/db",
        "postgresql://me:cret@127.0.0.1:99999/db",
    ],
)
async def test_a_url_that_is_none_is_refused_and_not_repeated(one: Folder, url: str) -> None:
    with pytest.raises(BadFiles, match="URL is not understood") as caught:
        await up(url, one.path, options=QUICK)
    assert "cret" not in str(caught.value)


async def test_a_standby_is_refused(tmp_path: Path, one: Folder) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS)
    server.start()
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    try:
        with pytest.raises(BadFiles, match="the server is a standby") as caught:
            await up(server.url(), one.path)
    finally:
        server.kill()
    assert "point MIGRATION_DATABASE_URL at the primary" in str(caught.value)


async def test_a_read_only_database_is_refused(
    postgres: PostgresServer, empty_database: str, one: Folder, connect: Callable[..., Awaitable[asyncpg.Connection]]
) -> None:
    admin = await connect(postgres.admin_url)
    name = empty_database.rpartition("/")[2]
    await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(BadFiles, match="the server is read-only"):
        await up(empty_database, one.path)


async def test_a_role_that_may_not_create_is_told_the_grant_it_lacks(
    postgres: PostgresServer, empty_database: str, one: Folder
) -> None:
    name = empty_database.rpartition("/")[2]
    with pytest.raises(BadFiles, match="role mdw_auth_login may not create schemas") as caught:
        await up(postgres.url(name, "mdw_auth_login"), one.path)
    assert f"GRANT CREATE ON DATABASE {name} TO mdw_auth_login" in str(caught.value)


async def test_a_role_that_may_not_record_is_refused_before_anything_runs(
    postgres: PostgresServer, empty_database: str, one: Folder
) -> None:
    await up(empty_database, one.path)
    one.add("0002_b.sql", "CREATE TABLE b ()")
    with pytest.raises(BadFiles, match=r"role mdw_auth_login may not write migrator\.history"):
        await up(postgres.url(empty_database.rpartition("/")[2], "mdw_auth_login"), one.path)


async def test_a_privilege_that_a_file_lacks_comes_with_what_to_do(empty_database: str, folder: Folder) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ();\nCREATE ROLE mdw_nobody;")
    with pytest.raises(SqlFailed) as caught:
        await up(empty_database, folder.path)
    assert "0001_a.sql:2:1: permission denied to create role (42501)" in str(caught.value)
    assert "let an administrator do this" in str(caught.value)


async def test_settings_of_a_database_do_not_change_what_a_file_means(
    postgres: PostgresServer,
    empty_database: str,
    folder: Folder,
    conn: asyncpg.Connection,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
) -> None:
    admin = await connect(postgres.admin_url)
    name = empty_database.rpartition("/")[2]
    for setting in ("timezone = 'Asia/Tokyo'", "datestyle = 'SQL, DMY'", "standard_conforming_strings = off"):
        await admin.execute(f'ALTER DATABASE "{name}" SET {setting}')
    folder.add("0001_a.sql", r"CREATE TABLE a AS SELECT timestamptz '02/03/2026 00:00' AS at, 'a\b' AS text")
    await up(empty_database, folder.path)
    found = await conn.fetchrow("SELECT at = '2026-02-03T00:00Z' AS at, length(text) AS length FROM a")
    assert found is not None
    assert tuple(found) == (True, 3)


def test_a_server_that_is_too_old_is_refused() -> None:
    server = Server(
        1,
        standby=False,
        read_only=False,
        may_create=True,
        database="d",
        role="r",
        server_version=140011,
        has_history=False,
    )
    with pytest.raises(BadFiles, match="PostgreSQL 14 is too old"):
        require_writable(server, first_run=True)


async def test_any_role_may_ask_for_the_status(
    postgres: PostgresServer, empty_database: str, one: Folder, command: Callable[..., Awaitable[Ended]]
) -> None:
    await up(empty_database, one.path)
    reader = postgres.url(empty_database.rpartition("/")[2], "mdw_symbols_login")
    ended = await command(reader, "status", "--check", "--folder", str(one.path))
    assert (ended.code, "1 applied, 0 pending" in ended.out) == (0, True)


def test_the_fast_path_imports_nothing_heavy() -> None:
    code = "import sys, migrator.cli, migrator.command_up; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"grpc", "structlog", "rich", "click", "google.protobuf", "importlib.metadata"}.isdisjoint(found)
