"""A worker node's disk is full: the move says so in one line and changes nothing, and a job rests until there is room.

CITUS_SMALL_FOLDER names an empty folder of the first worker node, its Postgres's own, on a file system of 24 MB.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import pytest

from services.ingest.store import slices
from tests.citus.conftest import CITUS_URL
from tests.citus.databases import connected, drop_database
from tests.citus.moving import BOTH, LEFT_HERE, PORT_OF, distributed, fill, rows
from tests.ingest.working import PAUSED, PENDING, Ask, desk, replaying

SMALL = os.environ.get("CITUS_SMALL_FOLDER", "")
BARS = 400_000
# What it took of the disk stays taken, though its rows are undone.
FILLER = """
CREATE TABLE filler (line text) WITH (autovacuum_enabled = off) TABLESPACE {};
DO $$
BEGIN
  LOOP
    INSERT INTO filler SELECT repeat('x', 1900) FROM generate_series(1, 100);
  END LOOP;
EXCEPTION WHEN disk_full THEN
  NULL;
END $$
"""


@pytest.fixture
async def small(joined):
    """Tables that are made on the first worker node from now on are on its small disk."""
    space = f"small_{joined.name}"
    async with connected(joined.url(None, node=1)) as conn:
        await conn.execute("SET citus.enable_ddl_propagation = off")
        await conn.execute(f"CREATE TABLESPACE {space} LOCATION '{SMALL}'")
        await conn.execute(f"GRANT CREATE ON TABLESPACE {space} TO PUBLIC")
        await conn.execute(f"ALTER DATABASE {joined.name} SET default_tablespace = {space}")
    yield space
    await drop_database(CITUS_URL, joined.name)
    async with connected(joined.nodes[1]) as conn:
        await conn.execute(f"DROP TABLESPACE {space}")


async def test_nothing_moves_to_a_node_without_room_and_all_once_there_is(joined, owner, small, command):
    before = await fill(owner, BARS)
    ended = await command(joined.url(), "distribute")
    assert ended.code == 1
    line, hint = ended.err.strip().splitlines()
    assert "a node has no room: " in line
    assert "No space left on device" in line
    assert line.endswith("nothing was changed")
    assert hint == "  hint: make room there, then run it again"
    assert await distributed(owner) == []
    assert await rows(owner) == before
    assert (await command(joined.url(), "verify")).code == 0
    async with connected(joined.url(None, node=1)) as conn:
        await conn.execute("SET citus.enable_ddl_propagation = off")
        await conn.execute(f"ALTER DATABASE {joined.name} RESET default_tablespace")
    assert (await command(joined.url(), "distribute")).code == 0
    assert sorted(await distributed(owner)) == BOTH
    assert await rows(owner) == before
    assert await owner.fetchval(LEFT_HERE) == 0


async def test_a_job_rests_while_a_node_has_no_room_and_goes_on_where_it_stopped(joined, small, warehouse):
    async with connected(joined.url(None, node=1)) as node, desk(warehouse) as work, replaying() as replay:
        port, symbol_id = urlsplit(joined.nodes[1]).port, 0
        for number in range(20):
            symbol_id = await work.symbol(f"AAPL{number}")
            if await work.sql.fetchval(PORT_OF, symbol_id) == port:
                break
        await work.start(Ask(symbol_id, "AAPL", "2005-01-03", "2005-12-30"))
        await node.execute(FILLER.format(small))
        worker = await work.worker(replay.url)
        await worker.step()
        (row,) = await work.slices()
        assert (row["state"], row["held"], row["attempts"]) == (PENDING, True, 0)
        state, reason = await work.sql.fetchrow("SELECT state, pause_reason FROM ingest.backfills")
        assert (state, "No space left" in reason) == (PAUSED, True)
        assert await work.sql.fetchval("SELECT count(*) FROM ingest.bars") == 0
        await node.execute("DROP TABLE filler; CHECKPOINT")
        await work.sql.execute("UPDATE ingest.backfills SET state = 2, pause_reason = ''")
        await work.sql.execute("UPDATE ingest.slices SET held = false")
        await work.drain(worker, 120)
        (row,) = await work.slices()
        assert (row["state"], row["inserted"]) == (slices.SUCCEEDED, 252)
