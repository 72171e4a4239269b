"""The schedule: each session that has closed is planned once, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
from datetime import date

from mdw.ingest.v1 import ingest_pb2
from services.ingest.scheduling import BEGUN
from tests.ingest.acting import acting_provider
from tests.ingest.backfilling import CRYPTO, DAY, ETF, MINUTE, at
from tests.ingest.scheduled import asked, planned, replica, symbol
from tests.ingest.test_market_days import market_of
from tests.ingest.working import replaying

Kind, State, Priority = ingest_pb2.Backfill.Kind, ingest_pb2.Backfill.State, ingest_pb2.Priority
RUNS = """
SELECT session_date::text, result
FROM ingest.schedule_runs
WHERE calendar = $1 AND session_date < '2020-01-01'
ORDER BY session_date
"""


async def test_nothing_is_planned_before_the_extended_hours_are_over(ingest, scheduler, clock):
    await symbol(ingest, "AAPL")
    clock.set("2018-03-02T01:10:00")
    assert await scheduler.run_due() == []
    clock.set("2018-03-02T01:20:00")
    [job] = await scheduler.run_due()
    backfill = await ingest.get(str(job))
    assert (backfill.kind, backfill.priority, backfill.mode) == (
        Kind.SCHEDULE,
        Priority.PRIORITY_SCHEDULE,
        ingest_pb2.BACKFILL_MODE_REFETCH,
    )
    assert (backfill.key_id, backfill.start_time, backfill.end_time) == ("", at("2018-02-27"), at("2018-03-02"))
    assert await scheduler.run_due() == []


ACTION_JOBS = """
SELECT first_date, last_date, priority, request ->> 'symbolIds' IS NOT NULL AS named
FROM ingest.backfills
WHERE kind = 4
ORDER BY create_time
"""
END_ACTIONS = """
UPDATE ingest.backfills SET state = $1, finish_time = now() WHERE kind = 4 AND state = 1
"""


async def test_after_a_session_of_stocks_the_actions_around_it_are_asked_for_once(ingest, scheduler, clock):
    """Not a second time while the first is still to come, nor after a day of crypto; their history comes along."""
    await symbol(ingest, "AAPL")
    await symbol(ingest, "BTC-USD", CRYPTO)
    clock.set("2018-03-02T00:20:00")
    assert len(await scheduler.run_due()) == 1
    assert await ingest.sql.fetch(ACTION_JOBS) == []
    for day in ("2018-03-02", "2018-03-03"):
        clock.set(f"{day}T01:20:00")
        await scheduler.run_due()
        assert await ingest.sql.fetch(ACTION_JOBS) == [
            (date(2000, 1, 1), date(2019, 3, 1), Priority.PRIORITY_LOW, True),
            (date(2018, 1, 30), date(2019, 3, 1), Priority.PRIORITY_LOW, False),
        ]


async def test_the_history_of_actions_is_asked_for_once_of_each_symbol_and_again_where_it_failed(
    ingest, scheduler, clock
):
    async def histories(day):
        """Runs the schedule; returns the jobs for whole histories that there are then."""
        clock.set(f"{day}T02:00:00")
        await scheduler.run_due()
        return sum(row["first_date"] == date(2000, 1, 1) for row in await ingest.sql.fetch(ACTION_JOBS))

    await symbol(ingest, "AAPL")
    assert await histories("2018-03-02") == 1
    await ingest.sql.execute(END_ACTIONS, State.FAILED)
    assert await histories("2018-03-03") == 2
    await ingest.sql.execute(END_ACTIONS, State.SUCCEEDED)
    assert await histories("2018-03-06") == 2
    await symbol(ingest, "MSFT")
    await symbol(ingest, "IBM", active=False)
    await ingest.sql.execute(END_ACTIONS, State.SUCCEEDED)
    assert await histories("2018-03-07") == 3
    await ingest.sql.execute(END_ACTIONS, State.SUCCEEDED)
    await ingest.sql.execute("UPDATE symbols.symbols SET active = true")
    await ingest.call("SyncActions")
    await ingest.sql.execute(END_ACTIONS, State.SUCCEEDED)
    assert await histories("2018-03-08") == 4  # IBM's came with all


async def test_each_symbol_has_its_own_timeframes_and_inactive_ones_none(ingest, scheduler, clock):
    await symbol(ingest, "DAYS")
    await symbol(ingest, "BOTH", timeframes=(MINUTE, DAY))
    await symbol(ingest, "NONE", timeframes=())
    await symbol(ingest, "GONE", active=False)
    clock.set("2018-03-02T02:00:00")
    await scheduler.run_due()
    assert [(ticker, timeframe) for ticker, timeframe, *_ in await planned(ingest)] == [
        ("DAYS", DAY),
        ("BOTH", DAY),
        ("BOTH", MINUTE),
    ]


async def test_crypto_goes_by_utc_days(ingest, scheduler, clock):
    await symbol(ingest, "BTC-USD", CRYPTO)
    for now in ("2018-03-04T00:10:00", "2018-03-04T00:16:00"):
        clock.set(now)
        await scheduler.run_due()
    assert [row[2:4] for row in await planned(ingest)] == [("2018-02-28", "2018-03-03")]
    assert [day for day, _ in await ingest.sql.fetch(RUNS, "24/7")] == ["2018-02-28", "2018-03-02", "2018-03-03"]


async def test_early_closes_and_holidays_are_known(ingest, scheduler, clock):
    await symbol(ingest, "AAPL")
    clock.set("2018-11-23T22:20:00")  # the day after Thanksgiving closes at 13:00 New York time
    await scheduler.run_due()
    assert [row[2:4] for row in await planned(ingest)] == [("2018-11-20", "2018-11-23")]


async def test_of_many_replicas_one_plans_a_session(ingest, scheduler, clock):
    await symbol(ingest, "AAPL")
    clock.set("2018-03-02T02:00:00")
    replicas = [scheduler, *(replica(ingest, clock) for _ in range(3))]
    jobs = await asyncio.gather(*(one.run_due() for one in replicas))
    assert len([job for found in jobs for job in found]) == 1
    assert len(await planned(ingest)) == 1


async def test_days_missed_are_caught_up_in_one_slice(ingest, scheduler, clock):
    aapl = await symbol(ingest, "AAPL")
    await asked(ingest, aapl, "2018-01-02", "2018-02-08")
    clock.set("2018-03-02T02:00:00")
    await scheduler.run_due()
    assert await planned(ingest) == [("AAPL", DAY, "2018-02-08", "2018-03-01", 4)]


async def test_the_last_sessions_are_fetched_again(ingest, scheduler, clock):
    aapl = await symbol(ingest, "AAPL")
    await asked(ingest, aapl, "2018-01-02", "2018-03-01")
    clock.set("2018-03-02T02:00:00")
    await scheduler.run_due()
    assert await planned(ingest) == [("AAPL", DAY, "2018-02-27", "2018-03-01", 4)]


async def test_a_slice_that_still_waits_is_made_longer(ingest, scheduler, clock):
    await symbol(ingest, "AAPL")
    clock.set("2018-03-02T02:00:00")
    [first] = await scheduler.run_due()
    clock.set("2018-03-03T02:00:00")
    [second] = await scheduler.run_due()
    assert await planned(ingest) == [("AAPL", DAY, "2018-02-27", "2018-03-02", 4)]
    assert [one.slice_id for one in await ingest.slices(str(first))] == [
        one.slice_id for one in await ingest.slices(str(second))
    ]
    assert (await ingest.get(str(second))).end_time == at("2018-03-03")


async def test_a_slice_that_is_worked_on_is_left_alone(ingest, scheduler, clock):
    await symbol(ingest, "AAPL")
    clock.set("2018-03-02T02:00:00")
    await scheduler.run_due()
    await ingest.claim()
    clock.set("2018-03-03T02:00:00")
    await scheduler.run_due()
    assert await planned(ingest) == [
        ("AAPL", DAY, "2018-02-27", "2018-03-01", 4),
        ("AAPL", DAY, "2018-02-28", "2018-03-02", 4),
    ]


async def test_a_fresh_warehouse_begins_with_the_next_close(ingest, scheduler, clock):
    await symbol(ingest, "AAPL")
    await ingest.sql.execute("DELETE FROM ingest.schedule_runs")
    clock.set("2018-03-02T02:00:00")
    assert await scheduler.run_due() == []
    assert [tuple(row) for row in await ingest.sql.fetch(RUNS, "XNYS")] == [("2018-03-01", BEGUN)]
    clock.set("2018-03-03T02:00:00")
    assert len(await scheduler.run_due()) == 1


async def test_a_scheduled_session_comes_in_and_is_seen(ingest, scheduler, clock, running):
    await symbol(ingest, "SPY", ETF)
    clock.set("2018-03-02T02:00:00")
    [job] = await scheduler.run_due()
    async with replaying() as replay:
        await running.drain(await running.worker(replay.url))
    done = await ingest.get(str(job))
    assert (done.state, done.progress.bars_inserted) == (State.SUCCEEDED, 3)


OPEN_DAYS = """
SELECT l.backfill_id::text, s.first_date::text
FROM ingest.slices s
JOIN ingest.backfill_slices l USING (slice_id)
WHERE s.kind = 2
ORDER BY s.first_date, l.backfill_id = $1
"""


async def test_many_symbols_are_kept_fresh_by_days_of_the_market(ingest, scheduler, clock):
    """Three requests where by symbol it were five; days that still wait are not asked for twice."""
    for ticker in "ABCDE":
        await symbol(ingest, ticker)
    assert (await ingest.call("GetSchedule")).schedule.requests_needed_a_day == 3
    clock.set("2018-03-02T02:00:00")
    [first] = map(str, await scheduler.run_due())
    days = ["2018-02-27", "2018-02-28", "2018-03-01"]
    assert [tuple(row) for row in await ingest.sql.fetch(OPEN_DAYS, first)] == [(first, day) for day in days]
    assert (await ingest.call("GetSchedule")).schedule.requests_needed == 3
    clock.set("2018-03-03T02:00:00")
    [second] = map(str, await scheduler.run_due())
    assert [tuple(row) for row in await ingest.sql.fetch(OPEN_DAYS, second)] == [
        (first, days[0]), (first, days[1]), (second, days[1]), (first, days[2]), (second, days[2]),
        (second, "2018-03-02"),
    ]  # fmt: skip
    result = (await ingest.sql.fetch(RUNS, "XNYS"))[-1]["result"]
    assert result == "5 series: 1 slices planned, 0 lengthened, 2 shared"


async def test_a_day_of_the_schedule_brings_nothing_back_that_was_deleted(ingest, scheduler, clock, running):
    ids = [await symbol(ingest, ticker) for ticker in "ABCDE"]
    await asked(ingest, ids[0], "2018-01-02", "2018-03-01")
    await ingest.sql.execute("UPDATE ingest.series SET deleted = '{[2018-02-28,2018-03-01)}'")
    clock.set("2018-03-02T02:00:00")
    [job] = await scheduler.run_due()
    told = dict.fromkeys(("2018-02-27", "2018-02-28", "2018-03-01"), "ABCDE")
    async with acting_provider() as provider:
        provider.respond = lambda request: market_of(told, request.path[-1])
        await running.drain(await running.worker(provider.url))
    assert (await ingest.get(str(job))).state == State.SUCCEEDED
    held = await ingest.sql.fetch("SELECT symbol_id, count(*) FROM ingest.bars GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in held] == [(ids[0], 2)] + [(one, 3) for one in ids[1:]]
    again = "SELECT deleted::text FROM ingest.series WHERE symbol_id = $1"
    assert await ingest.sql.fetchval(again, ids[0]) == "{[2018-02-28,2018-03-01)}"


async def test_sessions_in_doubt_of_many_symbols_are_asked_for_by_day(ingest, begun):
    for ticker in "ABCDE":
        await symbol(ingest, ticker)
    await ingest.sql.execute("INSERT INTO ingest.series SELECT symbol_id, 7 FROM symbols.symbols")
    await ingest.sql.execute(
        "INSERT INTO ingest.suspects SELECT symbol_id, 7, d, d, 1, now(), now()"
        " FROM symbols.symbols, unnest('{2018-02-01,2018-02-06}'::date[]) AS d"
    )
    [job] = map(str, await replica(ingest, lambda: None).ask_again())
    days = [tuple(row) for row in await ingest.sql.fetch(OPEN_DAYS, job)]
    assert days == [(job, f"2018-02-0{day}") for day in (1, 2, 5, 6)]


async def test_what_came_empty_is_asked_again_by_a_job_of_its_own(ingest, scheduler, running):
    spy = await symbol(ingest, "SPY", ETF)
    await symbol(ingest, "OTHER", active=False)
    await ingest.start(tickers=["SPY"], start_time=at("2018-12-03"), end_time=at("2019-01-10"))
    async with replaying() as replay:
        worker = await running.worker(replay.url)
        await running.drain(worker)
        assert await replica(ingest, lambda: None).ask_again() == []
        await ingest.sql.execute("UPDATE ingest.suspects SET counts_from = now(), next_ask_time = now()")
        [job] = await replica(ingest, lambda: None).ask_again()
        assert await replica(ingest, lambda: None).ask_again() == []
        await running.drain(worker)
    backfill = await ingest.get(str(job))
    assert (backfill.kind, backfill.state) == (Kind.SCHEDULE, State.SUCCEEDED)
    assert (backfill.start_time, backfill.end_time) == (at("2019-01-02"), at("2019-01-10"))
    assert await ingest.sql.fetchval("SELECT asks FROM ingest.suspects WHERE symbol_id = $1", spy) == 2
