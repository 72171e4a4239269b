"""Where there is no cluster the bars stay, and the command says what one needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.migrator.proxy import Proxy

if TYPE_CHECKING:
    from tests.conftest import MigratedDatabase
    from tests.migrator.conftest import Command

STATE = """
SELECT count(*), count(*) FILTER (WHERE c.relkind = 'r'), sum(c.relpages)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'ingest'
"""


@pytest.mark.parametrize("dry_run", [False, True])
async def test_without_the_extension_it_says_what_to_do_and_changes_nothing(
    database: MigratedDatabase, command: Command, *, dry_run: bool
) -> None:
    conn = await asyncpg.connect(database.owner_url)
    before = await conn.fetchrow(STATE)
    ended = await command(database.owner_url, "distribute", *(["--dry-run"] if dry_run else []))
    assert ended.code == 2
    assert f"database {database.name} does not have the extension citus" in ended.err
    for step in ("shared_preload_libraries", "CREATE EXTENSION citus", "citus_set_coordinator_host", "citus_add_node"):
        assert step in ended.err
    assert ended.out == ""
    assert await conn.fetchrow(STATE) == before
    await conn.close()


async def test_the_same_for_programs(database: MigratedDatabase, command: Command) -> None:
    ended = await command(database.owner_url, "distribute", "--json")
    assert (ended.code, ended.json["exit_code"]) == (2, 2)
    assert "citus" in ended.json["problems"][0]["message"]


async def test_there_is_nothing_to_bring_back(database: MigratedDatabase, command: Command) -> None:
    ended = await command(database.owner_url, "distribute", "--undo", "--json")
    assert (ended.code, ended.json) == (0, {"layout": "plain", "steps": [], "dry_run": False})


async def test_status_says_that_all_is_here(database: MigratedDatabase, command: Command) -> None:
    assert "layout: plain, all tables are on this server" in (await command(database.owner_url, "status")).out
    layout = (await command(database.owner_url, "status", "--json")).json["layout"]
    assert layout == {"kind": "plain", "nodes": [], "local_copy_bytes": 0}


async def test_who_does_not_own_the_tables_is_told_who_does(database: MigratedDatabase, command: Command) -> None:
    ended = await command(database.ingest_url, "distribute")
    assert ended.code == 2
    assert "role mdw_ingest_login does not own ingest.bars, mdw_owner does" in ended.err
    assert "run it as mdw_owner" in ended.err


async def test_a_pooler_between_is_refused(database: MigratedDatabase, command: Command) -> None:
    proxy = Proxy(database.owner_url, shared_sessions=True)
    ended = await command(await proxy.start(), "distribute")
    await proxy.stop()
    assert ended.code == 2
    assert "a connection pooler stands between the migrator and PostgreSQL" in ended.err


@pytest.mark.parametrize("words", [["distribute"], ["distribute", "--undo"]])
async def test_files_that_are_pending_come_first(empty_database: str, command: Command, words: list[str]) -> None:
    ended = await command(empty_database, *words)
    assert ended.code == 3
    assert "python -m migrator up" in ended.err


@pytest.mark.parametrize("words", [["--retry-for", "soon"], ["--lock-timeout", "0"], ["--allow-ahead"], ["twice"]])
async def test_what_it_does_not_know_is_refused(
    words: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        await command("", "distribute", *words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err
