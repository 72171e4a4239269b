"""Nodes are killed and started again under the work: the tables of an undisturbed run, and every read repeated."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from random import Random

import asyncpg
import pytest

from services.ingest.store import bars, many, sessions
from services.ingest.store.snapshots import Snapshots
from services.kit.errors import MdwError, Unavailable
from tests.citus.nodes import PREPARED, settled
from tests.ingest.disturbing import PAGE_BARS, PAGES, Task
from tests.ingest.processes import crew
from tests.ingest.test_many import batch, start
from tests.ingest.versions import History, providing
from tests.ingest.working import CRYPTO, DAY, desk, replaying
from tests.waiting import until

LONG = 300
SERIES, ROUNDS = 500, 12
SECONDS = 60
GAVE_UP = ("part_failed", "step_failed", "slice_given_up", "page_failed")
WRITTEN_BY = "SELECT count(*) FROM ingest.writes WHERE commit_time <= $1 AND cardinality(symbol_ids) > 0"


@pytest.mark.parametrize("seed", range(3))
async def test_a_node_killed_in_mid_backfill_and_started_again_changes_nothing(warehouse, nodes, tmp_path, seed):
    chance = Random(seed)
    async with desk(warehouse) as work, replaying() as replay:
        task = Task(work)
        await task.prepare()
        expected = await task.undisturbed(replay.url)
        replay.served.clear()
        await task.begin()
        async with crew(tmp_path, work.url, replay.url, POLYGON_PAGE_BARS=str(PAGE_BARS)) as workers:
            for _ in range(2):
                workers.start()
            for point in sorted(chance.sample(range(1, PAGES), 2)):

                async def reached(point=point):
                    return len(replay.served) >= point or await task.done()

                await workers.until(reached, LONG)
                node = chance.choice(nodes[1:])
                await node.kill()
                await asyncio.sleep(chance.uniform(0, 1))
                await node.start()
            await workers.until(task.done, LONG)
            await settled(nodes, warehouse.name)
            assert await task.result() == expected
            assert not [word for word in GAVE_UP if word in workers.log.read_text()]


@asynccontextmanager
async def slow_commits(node):
    """Lets each commit of a node wait a tenth of a second before it is on disk."""
    conn = await asyncpg.connect(node.url)
    await conn.execute("ALTER SYSTEM SET commit_delay = 100000")
    await conn.execute("ALTER SYSTEM SET commit_siblings = 0")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()
    try:
        yield
    finally:
        await until(node.answers)
        conn = await asyncpg.connect(node.url)
        await conn.execute("ALTER SYSTEM RESET commit_delay")
        await conn.execute("ALTER SYSTEM RESET commit_siblings")
        await conn.execute("SELECT pg_reload_conf()")
        await conn.close()


async def test_a_coordinator_killed_between_prepare_and_commit_changes_nothing(warehouse, nodes, tmp_path):
    coordinator, *others = nodes
    watching = [await asyncpg.connect(node.url) for node in others]
    in_doubt = 0

    async def any_prepared():
        return any([await conn.fetchval(PREPARED, warehouse.name) for conn in watching])

    async with replaying() as replay:
        async with desk(warehouse) as work:
            task = Task(work)
            await task.prepare()
            expected = await task.undisturbed(replay.url)
            await task.begin()
        variables = {"POLYGON_PAGE_BARS": str(PAGE_BARS)}
        async with slow_commits(coordinator), crew(tmp_path, warehouse.ingest_url, replay.url, **variables) as workers:
            workers.start()
            for _ in range(4):
                pid = await coordinator.pid()
                await until(any_prepared, LONG, 0)
                await coordinator.kill(pid)
                in_doubt += await any_prepared()
                await coordinator.start()
            async with desk(warehouse) as work:
                task.desk = work
                await workers.until(task.done, LONG)
        async with desk(warehouse) as work:
            task.desk = work
            await settled(nodes, warehouse.name)
            assert await task.result() == expected
    assert in_doubt
    for conn in watching:
        await conn.close()


@pytest.mark.parametrize("seed", range(2))
async def test_every_read_of_a_random_history_can_be_repeated(warehouse, nodes, tmp_path, seed):
    chance = Random(seed)
    async with desk(warehouse, size=8) as work, providing(chance) as provider:
        history = History(work, provider, chance, series=20)
        await history.prepare()
        lease = {"LEASE_SECONDS": "3", "REQUEST_SECONDS": "2"}
        async with crew(tmp_path, work.url, provider.url, **lease) as workers:
            for _ in range(4):
                workers.start()
            kills = await disturb(history, workers, nodes[1:], chance)
            await work.settled(LONG)
        await settled(nodes, warehouse.name)
        seen = await history.check()
        print(f"\n{kills} nodes killed, {history.reads} reads, {len(history.seen)} against the oracle, {seen} bars")  # noqa: T201


async def disturb(history, workers, nodes, chance):
    """Starts work and reads, and now and then kills a worker, or a node for up to two seconds."""
    end, down, kills = time.monotonic() + SECONDS, {}, 0
    while time.monotonic() < end or down:
        await history.start_jobs(1)
        for _ in range(10):
            with suppress(Unavailable):  # the node of this series is down
                await history.read()
        if chance.random() < 0.05:
            workers.kill(chance.choice(workers.children))
            workers.start()
        if not down and time.monotonic() < end and chance.random() < 0.1:
            node = chance.choice(nodes)
            await node.kill()
            kills += 1
            down[node] = time.monotonic() + chance.uniform(0, 2)
        for node in [one for one, until_then in down.items() if until_then < time.monotonic()]:
            await node.start()
            del down[node]
    return kills


async def test_parts_of_500_series_are_seen_whole_or_not_at_all_while_nodes_are_killed(warehouse, nodes):
    """Part n gives all series the close n; as of any instant each series has that of the last part until then."""
    chance = Random(3)
    async with desk(warehouse, size=8) as work:
        work.calendars = await sessions.load(work.db)
        work.ids = [await work.symbol(f"X:M{number}-USD", CRYPTO) for number in range(SERIES)]
        reader = Reading(work, chance)
        writing = asyncio.create_task(write_rounds(work))
        while not writing.done():
            for _ in range(20):
                await reader.read()
            if chance.random() < 0.5:
                node = chance.choice(nodes[1:])
                await node.kill()
                await asyncio.sleep(chance.uniform(0, 1))
                await node.start()
        await writing
        await settled(nodes, warehouse.name)
        assert await reader.check() == ROUNDS


async def write_rounds(work):
    for number in range(1, ROUNDS + 1):
        claim = await start(work, 3, 3)
        said = {one: {3: float(number)} for one in work.ids}
        whole = batch(work, 3, 3, said, fetched=datetime(2024, 2, 1, tzinfo=UTC) + timedelta(minutes=number))
        while True:
            try:
                done = await many.write(work.db, claim, whole, done=True)
            except MdwError:
                await asyncio.sleep(0.2)
            else:
                assert done is not None
                break


class Reading:
    """Reads some of the series at some instants, again and again."""

    def __init__(self, work, chance):
        self._work = work
        self._chance = chance
        self._snapshots = Snapshots(work.db)
        self._seen = {}

    async def read(self):
        """Reads ten series at one instant; those whose node is down say so."""
        if self._seen and self._chance.random() < 0.6:
            as_of = self._chance.choice(list(self._seen))
        else:
            as_of = (await self._snapshots.newest()).as_of
        for symbol_id in self._chance.sample(self._work.ids, 10):
            with suppress(Unavailable):
                number = await self._close(symbol_id, as_of)
                assert self._seen.setdefault(as_of, number) == number, (as_of, symbol_id)

    async def check(self):
        """Compares all reads, done again, with the writes; returns the last number."""
        for as_of, number in self._seen.items():
            assert number == await self._work.sql.fetchval(WRITTEN_BY, as_of)
            for symbol_id in self._chance.sample(self._work.ids, 50):
                assert await self._close(symbol_id, as_of) == number
        return await self._close(self._work.ids[0], (await self._snapshots.newest()).as_of)

    async def _close(self, symbol_id, as_of):
        snapshot = await self._snapshots.at(as_of)
        await self._snapshots.settle(snapshot, [symbol_id])
        async with bars.reading(self._work.db, spread=snapshot.spread) as conn:
            block = await bars.read(conn, bars.Span(symbol_id=symbol_id, timeframe=DAY), snapshot, limit=10)
        return int(block.bars.close[0]) if len(block) else 0
