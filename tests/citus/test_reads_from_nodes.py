"""Bars read from the cluster's worker nodes: what was written a moment ago, and the same for ever."""

from __future__ import annotations

from random import Random
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.roles import LOGINS, with_login
from services.ingest.store import sources as sources_module
from services.ingest.store.snapshots import Snapshots
from services.ingest.store.sources import Sources
from services.kit.db import Database
from tests.citus.databases import database_at, node_urls
from tests.conftest import CITUS_URL
from tests.ingest.bars_support import direct_bars
from tests.ingest.history import History, days
from tests.ingest.test_bars_sources import picked
from tests.ingest.versions import History as RandomHistory
from tests.ingest.versions import providing
from tests.ingest.working import desk

PORT = """
SELECT nodeport
FROM citus_shards
WHERE table_name = 'ingest.bars'::regclass
  AND shardid = get_shard_id_for_distribution_column('ingest.bars', $1::integer)
"""
LOGIN = list(LOGINS)[-1]


@pytest.fixture
async def workers(database, postgres):
    """The ingest role's URLs of the cluster's worker nodes."""
    _, *nodes = await node_urls(CITUS_URL)
    return [with_login(database_at(node, database.name), LOGIN, postgres.passwords[LOGIN]) for node in nodes]


@pytest.fixture
async def pools(workers):
    made = [await Database.open(url, size=2) for url in workers]
    yield made
    for pool in made:
        await pool.close()


async def test_worker_nodes_serve_in_turn_what_the_coordinator_has_seen(database, pools):
    primary = await Database.open(database.ingest_url, size=2)
    sources, snapshot = Sources(primary, pools), await Snapshots(primary).newest()
    assert set(await picked(sources, snapshot)) == set(pools)
    await primary.close()


async def test_a_symbol_is_read_from_the_node_that_has_it_once_each_was_asked(database, pools, monkeypatch):
    monkeypatch.setattr(sources_module, "AWAY_SECONDS", 600.0)
    primary = await Database.open(database.ingest_url, size=2)
    sources, snapshot = Sources(primary, pools), await Snapshots(primary).newest()
    served = {}
    for symbol_id in range(1, 21):
        await picked(sources, snapshot, symbol_id=symbol_id)
        served[symbol_id] = await picked(sources, snapshot, symbol_id=symbol_id)
    conn = await asyncpg.connect(database.admin_url)
    for symbol_id, found in served.items():
        port = await conn.fetchval(PORT, symbol_id)
        holder = next(pool for pool in pools if urlsplit(pool.dsn).port == port)
        assert found == [holder] * 4
        other = next(pool for pool in pools if pool is not holder)
        assert sources.held_elsewhere(symbol_id, other)
        assert not sources.held_elsewhere(symbol_id, holder)
    assert sources.passes_over(holder, asyncpg.ConnectionFailureError("gone"))
    assert set(await picked(sources, snapshot, symbol_id=symbol_id)) == {other}
    await conn.close()
    await primary.close()


async def test_a_node_of_another_database_serves_nothing(database, empty_database):
    """It has neither the bars nor the writes."""
    primary, other = [await Database.open(url, size=1) for url in (database.ingest_url, empty_database)]
    sources, snapshot = Sources(primary, [other]), await Snapshots(primary).newest()
    assert set(await picked(sources, snapshot)) == {primary}
    await primary.close()
    await other.close()


async def test_a_read_right_after_a_write_never_misses_its_bars(database, workers):
    history = History(database.ingest_url, database.admin_url)
    keys = [await history.symbol(f"S{number}") for number in range(6)]
    async with direct_bars(database, workers) as bars:
        for count in range(1, 11):
            for key in keys:
                await history.write(key, days(f"2024-01-{count:02}", [count]))
                assert len((await bars.list(symbol_id=key, timeframe=7)).bars) == count
            streamed = await bars.streamed(symbol_ids=keys, timeframe=7)
            assert streamed.column("close") == [*range(1, count + 1)] * len(keys)
            latest = await bars.latest(symbol_ids=keys, timeframe=7)
            assert [one.bar.close for one in latest.bars] == [count] * len(keys)
    await history.close()


async def test_corrections_are_seen_from_their_commit_time_on_whichever_node_answers(database, pools):
    chance = Random(5)
    async with desk(database) as work, providing(chance) as provider:
        history = RandomHistory(work, provider, chance, series=6, replicas=pools)
        await history.prepare()
        worker = await work.worker(provider.url)
        for _ in range(30):
            await history.start_jobs(1)
            await work.drain(worker, 120)
            for _ in range(4):
                await history.read()
        assert await history.check()


async def test_local_tables_are_not_on_the_nodes(workers):
    """What a node is recognised by."""
    conn = await asyncpg.connect(workers[0])
    with pytest.raises(asyncpg.UndefinedTableError):
        await conn.fetchval("SELECT count(*) FROM ingest.writes")
    await conn.close()
