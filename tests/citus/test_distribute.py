"""The bars move to the nodes with all they hold and back again, and every command knows where they are."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest

from migrator.files import SQL_FOLDER
from tests.citus.moving import BOTH, LEFT_HERE, distributed, fill, rows
from tests.migrator.support import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.citus.conftest import Joined
    from tests.migrator.conftest import Command

    Start = Callable[..., Awaitable[asyncio.subprocess.Process]]

RECOVERY = "SELECT setting = '2000' FROM pg_settings WHERE name = 'citus.recover_2pc_interval'"
SHARD_COLUMNS = """
SELECT bool_and(success), count(*), count(*) FILTER (WHERE result = '1')
FROM run_command_on_shards('ingest.bars', $$
  SELECT count(*) FROM pg_attribute WHERE attrelid = '%s'::regclass AND attname = 'note' $$)
"""
SHARD_INDEXES = """
SELECT count(*), count(*) FILTER (WHERE result = '2')
FROM run_command_on_shards('ingest.bars', $$
  SELECT count(*) FROM pg_index WHERE indrelid = '%s'::regclass AND indisvalid $$)
"""


async def test_all_rows_move_and_the_local_copy_goes(
    joined: Joined, owner: asyncpg.Connection, command: Command
) -> None:
    before = await fill(owner)
    ended = await command(joined.url(), "distribute", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["layout"] == "distributed"
    assert "move ingest.bars" in "\n".join(ended.json["steps"])
    assert sorted(await distributed(owner)) == BOTH
    assert await rows(owner) == before
    assert await owner.fetchval(LEFT_HERE) == 0
    await until(lambda: owner.fetchval(RECOVERY), within=60)
    assert (await command(joined.url(), "verify")).code == 0


async def test_again_there_is_nothing_to_do(joined: Joined, command: Command) -> None:
    assert (await command(joined.url(), "distribute")).code == 0
    again = await command(joined.url(), "distribute", "--json")
    assert (again.code, again.json["steps"]) == (0, [])
    assert (await command(joined.url(), "distribute")).out == "nothing to do: the layout is distributed\n"


async def test_undo_brings_all_back_as_it_was(joined: Joined, owner: asyncpg.Connection, command: Command) -> None:
    before = await fill(owner)
    assert (await command(joined.url(), "distribute")).code == 0
    ended = await command(joined.url(), "distribute", "--undo")
    assert ended.code == 0, ended.err
    assert "done: the layout is plain" in ended.out
    assert await distributed(owner) == []
    assert await rows(owner) == before
    assert (await command(joined.url(), "verify")).code == 0
    assert (await command(joined.url(), "distribute", "--undo")).out == "nothing to do: the layout is plain\n"


@pytest.mark.parametrize("undo", [False, True])
async def test_a_dry_run_says_it_and_changes_nothing(
    joined: Joined, owner: asyncpg.Connection, command: Command, *, undo: bool
) -> None:
    if undo:
        assert (await command(joined.url(), "distribute")).code == 0
    before = await distributed(owner)
    ended = await command(joined.url(), "distribute", "--dry-run", *(["--undo"] if undo else []))
    assert ended.code == 0
    assert ("would bring ingest.bars and ingest.bar_revisions back" if undo else "would move ingest.bars") in ended.out
    assert "nothing was changed" in ended.out
    assert await distributed(owner) == before


async def test_status_shows_shards_and_bytes_of_each_node(
    joined: Joined, owner: asyncpg.Connection, command: Command
) -> None:
    assert (await command(joined.url(), "status", "--json")).json["layout"]["kind"] == "plain"
    await fill(owner)
    assert (await command(joined.url(), "distribute")).code == 0
    layout = (await command(joined.url(), "status", "--json")).json["layout"]
    assert layout["kind"] == "distributed"
    assert len(layout["nodes"]) == len(joined.nodes) - 1
    assert sum(node["shards"] for node in layout["nodes"]) == 2 * 32
    assert all(node["bytes"] > 0 for node in layout["nodes"])
    text = (await command(joined.url(), "status")).out
    assert "distributed by symbol_id" in text
    assert f"{layout['nodes'][0]['host']}:{layout['nodes'][0]['port']}" in text


async def test_the_services_roles_work_on_it_at_once(
    joined: Joined, owner: asyncpg.Connection, command: Command
) -> None:
    await fill(owner)
    assert (await command(joined.url(), "distribute")).code == 0
    for node in range(len(joined.nodes)):
        conn = await asyncpg.connect(joined.url("mdw_ingest_login", node))
        assert await conn.fetchval("SELECT count(*) FROM ingest.bars") == 2000
        await conn.close()
    conn = await asyncpg.connect(joined.url("mdw_ingest_login"))
    assert await conn.execute("UPDATE ingest.bars SET flags = 1 WHERE symbol_id = 3") == "UPDATE 286"
    await conn.close()
    conn = await asyncpg.connect(joined.url("mdw_symbols_login"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.fetchval("SELECT count(*) FROM ingest.bars")
    assert await conn.fetchval("SELECT ingest.forget_symbol(3)") is False
    await conn.close()


@pytest.fixture
def longer(tmp_path: Path) -> Path:
    """The files of this release, and two after them."""
    into = tmp_path / "sql"
    shutil.copytree(SQL_FOLDER, into)
    newest = max(int(path.name[:4]) for path in into.glob("*.sql"))
    column = "ALTER TABLE ingest.bars ADD COLUMN note text;"
    function = "CREATE FUNCTION ingest.one() RETURNS int LANGUAGE sql AS 'SELECT 1';"
    (into / f"{newest + 1:04}_note.sql").write_text(f"{column}\n{function}")
    index = "-- migrator: no-transaction\nCREATE INDEX CONCURRENTLY bars_by_write ON ingest.bars (write_id);"
    (into / f"{newest + 2:04}_by_write.sql").write_text(index)
    return into


async def test_up_works_after_it_an_index_outside_a_transaction_included(
    joined: Joined, owner: asyncpg.Connection, command: Command, longer: Path
) -> None:
    before = await fill(owner)
    assert (await command(joined.url(), "distribute")).code == 0
    assert "note" in (await command(joined.url(), "plan", "--folder", str(longer))).out
    ended = await command(joined.url(), "up", "--folder", str(longer))
    assert ended.code == 0, ended.err
    assert tuple(await owner.fetchrow(SHARD_COLUMNS)) == (True, 32, 32)
    assert tuple(await owner.fetchrow(SHARD_INDEXES)) == (32, 32)
    assert (await rows(owner))[1] == before[1]
    (longer.parent / "schema.sql").write_text((await command(joined.url(), "schema", "--folder", str(longer))).out)
    assert (await command(joined.url(), "verify", "--folder", str(longer))).code == 0
    assert (await command(joined.url(), "distribute", "--undo", "--folder", str(longer))).code == 0
    assert (await command(joined.url(), "verify", "--folder", str(longer))).code == 0


async def test_who_reads_from_a_node_is_not_waited_for_while_others_queue(
    joined: Joined, owner: asyncpg.Connection, start: Start, longer: Path
) -> None:
    process = await start(joined.url(), "distribute")
    assert (await process.communicate(), process.returncode)[1] == 0
    reader = await asyncpg.connect(joined.url("mdw_ingest_login", node=1))
    await reader.execute("BEGIN")
    await reader.fetchval("SELECT count(*) FROM ingest.bars")
    process = await start(joined.url(), "up", "--folder", str(longer), "--lock-timeout", "50")
    assert process.stdout is not None
    while b"lock timeout; trying again" not in await asyncio.wait_for(process.stdout.readline(), 60):
        pass
    assert await asyncio.wait_for(owner.fetchval("SELECT count(*) FROM ingest.bars WHERE symbol_id = 3"), 60) == 0
    await reader.execute("ROLLBACK")
    await process.communicate()
    assert process.returncode == 0
    await reader.close()


async def test_bootstrap_and_baseline_work_on_a_cluster(
    joined: Joined, owner: asyncpg.Connection, command: Command, tmp_path: Path
) -> None:
    assert (await command(joined.url(), "distribute")).code == 0
    ended = await command(joined.url(), "bootstrap", "--key-file", str(tmp_path / "admin.key"))
    assert ended.code == 0, ended.err
    await owner.execute("DELETE FROM migrator.history WHERE version > 5")
    ended = await command(joined.url(), "baseline")
    assert ended.code == 0, ended.err
    assert (await command(joined.url(), "verify")).code == 0


async def test_keys_of_a_restored_backup_are_put_right_on_a_cluster(
    joined: Joined, owner: asyncpg.Connection, command: Command, tmp_path: Path
) -> None:
    assert (await command(joined.url(), "distribute")).code == 0
    assert (await command(joined.url(), "bootstrap", "--key-file", str(tmp_path / "admin.key"))).code == 0
    admin_key = str(await owner.fetchval("SELECT key_id FROM auth.keys"))
    lost = {"event": "key_changed", "key_id": str(UUID(int=7)), "version": 1, "state": "ACTIVE"}
    log = tmp_path / "auth.log"
    log.write_text(json.dumps(lost))
    ended = await command(joined.url(), "after-restore", "--log", str(log), "--keep", admin_key, "--json")
    assert ended.code == 0, ended.out
    assert ended.json["made_after_the_backup"] == [str(UUID(int=7))]
