"""`migrator/schema.sql` is what the migrations produce."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import migrator
from migrator.catalog import read_catalog
from migrator.command_schema import schema_text
from migrator.files import SQL_FOLDER, load
from migrator.runner import up
from migrator.schema_file import parse
from migrator.verify import differences, verify

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import MigratedDatabase

SCHEMA_FILE = Path(migrator.__file__).with_name("schema.sql")
WRITE = "MDW_WRITE_SCHEMA"  # set it to write the file anew


async def test_all_files_replayed_give_the_committed_schema(empty_database: str, conn: asyncpg.Connection) -> None:
    await up(empty_database)
    made = await schema_text(conn, load(SQL_FOLDER))
    if os.environ.get(WRITE):
        SCHEMA_FILE.write_text(made)
    committed = SCHEMA_FILE.read_text()
    if parse(committed).server_major == conn.get_server_version().major:
        assert made == committed, f"write it anew: {WRITE}=1 pytest {__file__}"
    assert await verify(empty_database, SQL_FOLDER, wait=1, allow_ahead=False) == len(parse(committed).objects)


async def test_the_schema_file_makes_an_empty_database_the_same(empty_database: str, conn: asyncpg.Connection) -> None:
    text = SCHEMA_FILE.read_text()
    await conn.execute(f"SET check_function_bodies = off; {text}")
    expected = parse(text)
    same_server = expected.server_major == conn.get_server_version().major
    assert list(differences(expected.objects, await read_catalog(conn), same_server=same_server)) == []


async def test_the_migrated_database_of_all_tests_is_verified(database: MigratedDatabase) -> None:
    assert await verify(database.owner_url, SQL_FOLDER, wait=1, allow_ahead=False) > 100


async def test_a_plain_owner_migrates_where_the_groups_are_there(empty_database: str, conn: asyncpg.Connection) -> None:
    assert not await conn.fetchval("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user")
    assert (await up(empty_database)).version == load(SQL_FOLDER)[-1].version
