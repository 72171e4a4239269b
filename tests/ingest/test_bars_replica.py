"""Bars read from a physical replica: what it lacks, and all while it is away, comes from the primary."""

from __future__ import annotations

import asyncpg
import pytest

from mdw.ingest.v1 import bars_pb2
from services.ingest.store import sources
from services.ingest.store.snapshots import Snapshots
from services.ingest.store.sources import Sources
from services.kit.db import Database
from tests.ingest.bars_support import direct_bars
from tests.ingest.history import MINUTE, History, days
from tests.standby import Standby, own_server
from tests.waiting import until

MINUTES = 100_000


@pytest.fixture(scope="module")
async def servers(tmp_path_factory):
    """A primary, its database, and a standby that follows it."""
    folder = tmp_path_factory.mktemp("replica")
    async with own_server(folder / "one") as (primary, database):
        standby = Standby(folder / "two", primary)
        standby.start()
        yield primary, database, standby
        standby.stop()


@pytest.fixture
def primary_database(servers):
    return servers[1]


@pytest.fixture
def replica_url(servers):
    primary, database, standby = servers
    return database.ingest_url.replace(f":{primary.port}/", f":{standby.port}/")


@pytest.fixture
async def history(primary_database):
    made = History(primary_database.ingest_url, primary_database.admin_url)
    yield made
    await made.close()


async def hold_back(standby, delay):
    """Lets the standby show each commit so much later."""
    conn = await asyncpg.connect(standby.url())
    await conn.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()


async def served_by_replica(database, replica_url):
    """Waits until a snapshot of now is read from the replica."""
    primary, replica = [await Database.open(url, size=1) for url in (database.ingest_url, replica_url)]
    picking = Sources(primary, [replica])

    async def picked():
        async with picking.reading(await Snapshots(primary).newest()) as lent:
            return lent.db is replica

    await until(picked)
    await replica.close()
    await primary.close()


async def test_a_read_right_after_a_write_never_misses_its_bars(servers, primary_database, replica_url, history):
    """The replica is ten seconds behind, and then is not any more."""
    standby, key = servers[2], await history.symbol("AAPL")
    async with direct_bars(primary_database, [replica_url]) as bars:
        await hold_back(standby, "10s")
        for count in range(1, 11):
            await history.write(key, days(f"2024-01-{count:02}", [count]))
            assert len((await bars.list(symbol_id=key, timeframe=7)).bars) == count
            streamed = await bars.streamed(symbol_ids=[key], timeframe=7)
            assert streamed.column("close") == [*range(1, count + 1)]
            assert (await bars.latest(symbol_ids=[key], timeframe=7)).bars[0].bar.close == count
        before = await bars.list(symbol_id=key, timeframe=7, page_size=3)
        await hold_back(standby, "0")
        await served_by_replica(primary_database, replica_url)
        after = await bars.pages(symbol_id=key, timeframe=7, page_size=3)
        assert after[0] == before
        assert [bar.close for page in after for bar in page.bars] == [*range(1, 11)]


async def test_what_a_replica_began_to_answer_is_finished_elsewhere_when_it_goes_away(
    servers, primary_database, replica_url, history, monkeypatch
):
    """And it is asked again when it is back."""
    monkeypatch.setattr(sources, "AWAY_SECONDS", 0.2)
    standby, key = servers[2], await history.symbol("MSFT")
    async with history.begin(key, MINUTE) as write:
        await write.fill(MINUTES)
        await write.finish()
    await served_by_replica(primary_database, replica_url)
    async with direct_bars(primary_database, [replica_url]) as bars:
        request = bars_pb2.StreamBarsRequest(symbol_ids=[key], timeframe=MINUTE)
        answer = bars.servicer.StreamBars(request, None)
        await anext(answer)
        volumes = list(bars_pb2.StreamBarsResponse.FromString(await anext(answer)).volume)
        standby.kill()
        async for message in answer:
            chunk = bars_pb2.StreamBarsResponse.FromString(message) if isinstance(message, bytes) else message
            volumes += chunk.volume
        assert volumes == [*range(MINUTES)]
        page = {"symbol_id": key, "timeframe": MINUTE, "page_size": 5}
        assert len((await bars.list(**page)).bars) == 5
        standby.start()
        await served_by_replica(primary_database, replica_url)
        assert len((await bars.list(**page)).bars) == 5
