"""The same input on one server and on the cluster: every table ends the same."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

from services.ingest.batches import cut
from services.ingest.calendar import XNYS, date_of, day_of, start_of_day
from services.ingest.store import deleting, many, sessions, slices
from tests.citus.conftest import distributed_database
from tests.ingest.acting import acting
from tests.ingest.test_deletions import INSERT_DELETION, KINDS, span_of
from tests.ingest.test_many import LEASE, batch, start
from tests.ingest.versions import FIRST, History, providing
from tests.ingest.working import CRYPTO, DAY, MINUTE, Ask, desk
from tests.standby import own_server

SERIES = 600
JOBS = 40

COLUMNS = """
SELECT c.table_name, array_agg(c.column_name::text ORDER BY c.ordinal_position) AS columns
FROM information_schema.columns c
JOIN information_schema.tables t USING (table_schema, table_name)
WHERE c.table_schema = 'ingest'
  AND t.table_type = 'BASE TABLE'
  AND c.table_name NOT IN ('token_key', 'sessions')
  AND c.data_type NOT IN ('timestamp with time zone', 'uuid')
GROUP BY c.table_name
"""
# Instants that say when the work was done, not what came of it, and are of the same type as the bars' own.
OF_BARS = {
    "bars": ["ts"],
    "bar_revisions": ["ts"],
    "absent_bars": ["ts"],
    "series": ["first_ts", "last_ts"],
    "writes": ["min_ts", "max_ts", "asked_from", "asked_to"],
    "slices": ["cursor"],
    "rejected_bars": ["ts"],
}


async def test_the_cluster_holds_what_one_server_holds(tmp_path, joined):
    async with own_server(tmp_path / "one") as (_, plain):
        expected = await done_on(plain)
    found = await done_on(await distributed_database(joined))
    assert expected.keys() == found.keys()
    for name, rows in expected.items():
        assert found[name] == rows, name
    assert all(expected[name] for name in HELD)


HELD = ("bars", "bar_revisions", "series", "minute_sessions", "suspects", "writes", "slices", "actions", "absent_bars")
"""Tables that the work fills for certain."""


async def done_on(database):
    """Does all kinds of work that write bars, one after the other, and returns what is in the tables then."""
    async with desk(database) as work:
        await backfills(work)
        await parts_of_many(work)
        await deletions(work)
    await splits(database)
    async with desk(database) as work:
        return await tables(work.sql)


async def tables(sql):
    """Returns all rows of all tables of the schema, as text, without the instants at which they were written."""
    found = {}
    for row in await sql.fetch(COLUMNS):
        name, columns = row["table_name"], [*row["columns"], *OF_BARS.get(row["table_name"], [])]
        rows = await sql.fetch(f"SELECT {', '.join(f'{column}::text' for column in columns)} FROM ingest.{name}")
        found[name] = sorted(tuple(map(str, one)) for one in rows)
    return found


async def backfills(work):
    """Overlapping answers that contradict each other: corrections, bars that vanish and come back, empty sessions."""
    chance = Random(7)
    async with providing(chance) as provider:
        history = History(work, provider, chance, series=6)
        await history.prepare()
        worker = await work.worker(provider.url)
        for _ in range(JOBS):
            await history.start_jobs(1)
            await work.drain(worker, 120)


async def parts_of_many(work):
    """Three days of many series, by day and by minute, and again with one bar in ten changed."""
    work.calendars = await sessions.load(work.db)
    work.ids = [await work.symbol(f"X:M{number}-USD", CRYPTO) for number in range(SERIES)]
    for changed in (0, 1):
        for timeframe in (DAY, MINUTE):
            for day in (3, 4, 5):
                said = {one: {day: 100.0 + one % 7 + (changed and one % 10 == 0)} for one in work.ids}
                claim = await start(work, day, day, timeframe)
                whole = batch(work, day, day, said, timeframe, fetched=datetime(2024, 2, 1 + changed, day, tzinfo=UTC))
                pieces = list(cut(whole, claim.position))
                assert len(pieces) > 1
                for part in pieces:
                    claim = (await many.write(work.db, claim, part, done=part is pieces[-1])).claim


async def deletions(work):
    """A series loses a month; another one does, and the month's history with it."""
    ids = await work.sql.fetch("SELECT symbol_id FROM ingest.series WHERE bars > 20 ORDER BY symbol_id LIMIT 2")
    first, last = date_of(FIRST + 10), date_of(FIRST + 40)
    for (symbol_id,), purge in zip(ids, (False, True), strict=True):
        await work.start(Ask(symbol_id, "X", first.isoformat(), last.isoformat(), DAY, CRYPTO))
        slice_id = await work.sql.fetchval("SELECT max(slice_id) FROM ingest.slices")
        await work.sql.execute("UPDATE ingest.slices SET kind = 4, mode = 1 WHERE slice_id = $1", slice_id)
        await work.sql.execute(INSERT_DELETION, slice_id, symbol_id, DAY, first, last, purge)
        claim = await slices.claim(work.db, "tests", LEASE, KINDS)
        assert (await deleting.write(work.db, claim, span_of(work, claim))).bars


async def splits(database):
    """A split is learned, and another one withdrawn: bars around them are judged again."""
    async with acting(database) as work:
        symbol_id = await work.desk.symbol("SPLT")
        days = range(day_of(datetime(2024, 1, 2, tzinfo=UTC).date()), day_of(datetime(2024, 3, 1, tzinfo=UTC).date()))
        work.provider.bars["SPLT day"] = {
            start_of_day(day, XNYS): 100.0 if day < days[30] else 25.0 for day in days if (day + 4) % 7 not in (2, 3)
        }
        await work.fetch(symbol_id, "SPLT", "2024-01-02", "2024-02-29", DAY)
        wrong = work.provider.split("SPLT", date_of(days[10]).isoformat(), 1, 3)
        await work.learn()
        work.provider.splits.remove(wrong)
        work.provider.split("SPLT", date_of(days[30]).isoformat(), 1, 4)
        await work.learn()
