"""Where bars are read: replicas that hold what an answer must show, in turn, else the primary."""

from __future__ import annotations

import asyncpg
import pytest

from migrator import runner
from services.ingest.store.snapshots import Snapshots
from services.ingest.store.sources import Sources
from services.kit.db import Database
from tests.ingest.history import History, days


@pytest.fixture
async def history(database):
    return History(database.ingest_url, database.admin_url)


@pytest.fixture
async def pools():
    opened = []

    async def open_pool(url, **options):
        opened.append(await Database.open(url, size=1, acquire_timeout=30, **options))
        return opened[-1]

    yield open_pool
    for pool in opened:
        await pool.close()


async def picked(sources, snapshot, times=4, symbol_id=None):
    found = []
    for _ in range(times):
        async with sources.reading(snapshot, symbol_id) as lent:
            assert await lent.connection.fetchval("SELECT 1") == 1
            found.append(lent.db)
    return found


async def test_replicas_that_are_up_to_date_take_turns(database, history, pools):
    await history.write(await history.symbol("AAPL"), days("2024-01-01", [1]))
    primary, first, second = [await pools(database.ingest_url) for _ in range(3)]
    snapshot = await Snapshots(primary).newest()
    assert set(await picked(Sources(primary, [first, second]), snapshot)) == {first, second}


async def test_without_replicas_the_primary_is_read(database, pools):
    primary = await pools(database.ingest_url)
    assert await picked(Sources(primary), await Snapshots(primary).newest()) == [primary] * 4


async def test_a_replica_that_is_behind_is_passed_over_until_it_has_caught_up(database, empty_database, history, pools):
    await runner.up(empty_database)
    await history.write(await history.symbol("AAPL"), days("2024-01-01", [1]))
    primary, replica = await pools(database.ingest_url), await pools(empty_database)
    sources, snapshot = Sources(primary, [replica]), await Snapshots(primary).newest()
    assert await picked(sources, snapshot) == [primary] * 4
    conn = await asyncpg.connect(empty_database)
    await conn.execute(
        "INSERT INTO ingest.writes (write_id, commit_time, high, open) VALUES (1, $1, 2, '{}')", snapshot.commit_time
    )
    await conn.close()
    assert await picked(sources, snapshot) == [replica] * 4
    first = await Snapshots(primary).at(snapshot.as_of.replace(year=2000))
    assert await picked(sources, first) == [replica] * 4


async def test_a_replica_that_is_away_is_passed_over_and_not_asked_for_a_while(database, history, pools):
    await history.write(await history.symbol("AAPL"), days("2024-01-01", [1]))
    primary, up, away = [
        await pools(url) for url in (database.ingest_url, database.ingest_url, "postgresql://x:y@127.0.0.1:1/none")
    ]
    sources, snapshot = Sources(primary, [up, away]), await Snapshots(primary).newest()
    assert await picked(sources, snapshot) == [up] * 4
    assert await picked(Sources(primary, [away]), snapshot) == [primary] * 4
