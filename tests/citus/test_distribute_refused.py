"""Where the bars cannot move, one clear line says why and what to do, and nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from migrator import runner
from tests.citus.databases import SET_COORDINATOR, connected
from tests.citus.moving import BOTH, distributed, fill, rows

if TYPE_CHECKING:
    import asyncpg

    from tests.citus.conftest import Joined
    from tests.migrator.conftest import Command

BY_TIME = "SELECT create_distributed_table('ingest.{}', 'ts', colocate_with => 'none')"
BY_SYMBOL = "SELECT create_distributed_table('ingest.{}', 'symbol_id', colocate_with => 'none')"
OLD = "11.3-1"


async def test_a_worker_is_no_coordinator(joined: Joined, command: Command) -> None:
    for words in (["distribute"], ["distribute", "--undo"], ["up"]):
        ended = await command(joined.url(node=1), *words)
        assert ended.code == 2
        assert "this node is a worker of the cluster" in ended.err
        assert "use the URL of its coordinator" in ended.err


async def test_a_cluster_without_a_worker(apart: Joined, command: Command) -> None:
    await runner.up(apart.url())
    ended = await command(apart.url(), "distribute")
    assert ended.code == 2
    assert "no node that holds shards" in ended.err
    assert "citus_add_node" in ended.err
    assert (await command(apart.url(), "verify")).code == 0


async def test_an_older_citus(apart: Joined, command: Command) -> None:
    await runner.up(apart.url())
    async with connected(apart.url(None)) as conn:
        await conn.execute("DROP EXTENSION citus; SET citus.enable_version_checks = off")
        await conn.execute(f"CREATE EXTENSION citus VERSION '{OLD}'")
    ended = await command(apart.url(), "distribute", "--json")
    assert ended.code == 2
    assert ended.json["problems"][0]["message"] == f"Citus {OLD} is too old: 12.0 or newer is needed"
    assert (await command(apart.url(), "status")).code == 0
    assert (await command(apart.url(), "verify")).code == 0


@pytest.mark.parametrize("there", ["12.1-1", None])
async def test_nodes_of_different_versions(
    joined: Joined, owner: asyncpg.Connection, command: Command, there: str | None
) -> None:
    async with connected(joined.url(None, node=1)) as conn:
        await conn.execute("DROP EXTENSION citus CASCADE; SET citus.enable_version_checks = off")
        if there:
            await conn.execute(f"CREATE EXTENSION citus VERSION '{there}'")
    ended = await command(joined.url(), "distribute")
    assert ended.code == 2
    assert f"the node has Citus {there or 'none'}, the coordinator " in ended.err
    assert await distributed(owner) == []


async def test_a_role_that_does_not_own_the_tables(joined: Joined, command: Command) -> None:
    ended = await command(joined.url("mdw_ingest_login"), "distribute")
    assert ended.code == 2
    assert "role mdw_ingest_login does not own ingest.bars, mdw_owner does" in ended.err


async def test_a_role_that_may_not_set_how_lost_commits_are_found(apart: Joined, command: Command) -> None:
    """Unless somebody else has set it."""
    await runner.up(apart.url())
    async with connected(apart.url(None)) as conn:
        host, _, port = apart.nodes[0].rpartition("@")[2].partition("/")[0].partition(":")
        await conn.fetch(SET_COORDINATOR, host, int(port))
        await conn.execute("SELECT citus_set_node_property($1, $2, 'shouldhaveshards', true)", host, int(port))
        await conn.execute("ALTER SYSTEM SET citus.recover_2pc_interval = '1min'")
        await conn.execute("REVOKE EXECUTE ON FUNCTION pg_reload_conf() FROM mdw_owner")
        await conn.execute("SELECT pg_reload_conf()")
    ended = await command(apart.url(), "distribute")
    assert ended.code == 2
    assert "ALTER SYSTEM SET citus.recover_2pc_interval = '2s'" in ended.err
    async with connected(apart.url(None)) as conn:
        assert await distributed(conn) == []
        await conn.execute("ALTER SYSTEM SET citus.recover_2pc_interval = '2s'")
        await conn.execute("SELECT pg_reload_conf()")
    assert (await command(apart.url(), "distribute")).code == 0


async def test_files_that_are_pending(apart: Joined, command: Command) -> None:
    ended = await command(apart.url(), "distribute")
    assert ended.code == 3
    assert "python -m migrator up" in ended.err


WRONG = [
    (BY_TIME.format("bars"), "is distributed by ts, and should be by symbol_id"),
    (BY_SYMBOL.format("bars") + ";" + BY_SYMBOL.format("bar_revisions"), "is not colocated with ingest.bars"),
    ("SELECT create_reference_table('ingest.bars')", "is distributed as a reference"),
    (BY_SYMBOL.format("minute_sessions"), "is managed by Citus, and should be a plain table of the coordinator"),
]


@pytest.mark.parametrize(("statement", "message"), WRONG)
async def test_tables_that_were_distributed_otherwise_are_drift(
    joined: Joined, owner: asyncpg.Connection, command: Command, statement: str, message: str
) -> None:
    await owner.execute(statement)
    ended = await command(joined.url(), "verify")
    assert ended.code == 4
    assert message in ended.err
    ended = await command(joined.url(), "distribute")
    assert ended.code == 2
    assert message in ended.err


async def test_one_table_without_the_other_is_drift_and_the_next_run_moves_the_rest(
    joined: Joined, owner: asyncpg.Connection, command: Command
) -> None:
    before = await fill(owner)
    await owner.execute(BY_SYMBOL.format("bar_revisions"))
    ended = await command(joined.url(), "verify")
    assert ended.code == 4
    assert "table ingest.bars: is plain, and ingest.bar_revisions is distributed" in ended.err
    assert (await command(joined.url(), "distribute")).code == 0
    assert sorted(await distributed(owner)) == BOTH
    assert await rows(owner) == before
    assert (await command(joined.url(), "verify")).code == 0


async def test_undo_brings_back_what_was_distributed_otherwise(
    joined: Joined, owner: asyncpg.Connection, command: Command
) -> None:
    before = await fill(owner)
    await owner.execute(BY_TIME.format("bars"))
    assert (await command(joined.url(), "distribute", "--undo")).code == 0
    assert await rows(owner) == before
    assert (await command(joined.url(), "distribute")).code == 0
    assert await rows(owner) == before
