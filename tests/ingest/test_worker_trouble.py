"""What a worker does where the provider refuses or the database cannot write, and with slices that fail."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from deploy.local.faults import parse_faults
from deploy.local.replay import Plan
from services.ingest.fetching import Patience
from services.ingest.store import slices
from tests.ingest.working import (
    CRYPTO,
    DAY,
    ETF,
    FAILED,
    MINUTE,
    OUTSIDE_PLAN,
    PAUSED,
    PENDING,
    SUCCEEDED,
    Ask,
    desk,
    replaying,
)


@pytest.fixture
async def work(database):
    async with desk(database) as made:
        yield made


def ranges(multirange):
    return [(part.lower, part.upper) for part in multirange]


async def test_an_unknown_key_pauses_the_job_with_polygons_words(work):
    await work.backfill("AAPL", "2005-01-03", "2005-01-31")
    async with replaying(key="another") as replay:
        worker = await work.worker(replay.url)
        await worker.step()
        await worker.step()
    (row,) = await work.slices()
    assert (row["state"], row["attempts"], row["held"], row["requests"]) == (PENDING, 0, True, 1)
    state, reason = await work.sql.fetchrow("SELECT state, pause_reason FROM ingest.backfills")
    assert state == PAUSED
    assert "Unknown API Key" in reason
    assert "POLYGON_API_KEY" in reason


async def test_a_session_that_is_not_out_yet_waits_without_an_attempt_and_what_lies_before_comes(work):
    await work.backfill("AAPL", "2005-01-03", "2005-01-31")
    async with replaying(faults=parse_faults("early:times=1 early:after=2,times=1")) as replay:
        worker = await work.worker(replay.url)
        await worker.step()
        (refused,) = await work.slices()
        assert (refused["state"], refused["attempts"], refused["next_try_time"]) == (PENDING, 0, None)
        await worker.step()
        assert replay.served[-1].target.split("?")[0].endswith("/2005-01-03/2005-01-30")
        (before,) = await work.slices()
        assert (before["state"], before["inserted"], before["reason"]) == (PENDING, 19, "")
        await worker.step()
        (waits,) = await work.slices()
        assert (waits["state"], waits["attempts"], "before end of day" in waits["reason"]) == (PENDING, 0, True)
        assert waits["next_try_time"] > waits["fetch_time"] + timedelta(minutes=10)
        assert ranges((await work.series(waits["symbol_id"]))["asked"]) == [(date(2005, 1, 3), date(2005, 1, 31))]
        await work.sql.execute("UPDATE ingest.slices SET next_try_time = NULL")
        await work.drain(worker)
    (done,) = await work.slices()
    assert (done["state"], done["inserted"], done["reason"]) == (SUCCEEDED, 20, "")


async def test_a_span_too_old_for_the_plan_is_cut_two_years_back(work):
    symbol = await work.backfill("AAPL", "2005-01-03", "2010-06-30")
    async with replaying(plan=Plan(years=2), today=lambda: date(2010, 7, 1)) as replay:
        await work.drain(await work.worker(replay.url, today=lambda: date(2010, 7, 1)))
    (row,) = await work.slices()
    assert (row["state"], row["requests"], row["attempts"]) == (SUCCEEDED, 2, 0)
    series = await work.series(symbol)
    assert ranges(series["outside_plan"]) == [(date(2005, 1, 3), date(2008, 7, 2))]
    assert ranges(series["asked"]) == [(date(2008, 7, 2), date(2010, 7, 1))]
    assert series["first_ts"] == datetime(2008, 7, 2, tzinfo=UTC)


async def test_a_span_that_the_plan_does_not_reach_ends_outside_the_plan(work):
    symbol = await work.backfill("AAPL", "2005-01-03", "2005-06-30")
    async with replaying(plan=Plan(years=2), today=lambda: date(2010, 7, 1)) as replay:
        await work.drain(await work.worker(replay.url, today=lambda: date(2010, 7, 1)))
    (row,) = await work.slices()
    assert (row["state"], row["attempts"]) == (OUTSIDE_PLAN, 0)
    assert "timeframe" in row["reason"]
    assert ranges((await work.series(symbol))["outside_plan"]) == [(date(2005, 1, 3), date(2005, 7, 1))]
    assert await work.sql.fetchval("SELECT state FROM ingest.backfills") == 4
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.writes WHERE commit_time IS NULL") == 0


async def test_a_poisoned_slice_fails_after_its_attempts_and_stops_no_other(work):
    bad, good = await work.symbol("AAPL"), await work.symbol("MSFT")
    await work.start(Ask(bad, "AAPL", "2005-01-03", "2005-01-31"), Ask(good, "MSFT", "2005-01-03", "2005-01-31"))
    async with replaying(parse_faults("500:ticker=AAPL")) as replay:
        await work.drain(await work.worker(replay.url))
    failed, done = await work.slices()
    assert (failed["state"], done["state"]) == (FAILED, SUCCEEDED)
    assert "500" in failed["reason"]
    assert ranges((await work.series(bad))["failed"]) == [(date(2005, 1, 3), date(2005, 2, 1))]
    assert "500" in (await work.series(bad))["last_error"]
    assert await work.sql.fetchval("SELECT state FROM ingest.backfills") == 5


async def test_attempts_count_from_the_last_progress(work):
    await work.backfill("SPY", "2020-12-15", "2020-12-18", MINUTE, ETF)
    async with replaying(parse_faults("500:every=2")) as replay:
        await work.drain(await work.worker(replay.url, page_bars=100, tries=1))
    (row,) = await work.slices()
    assert row["state"] == SUCCEEDED
    assert row["requests"] > 30
    assert row["attempts"] == 0


async def test_a_wrong_series_poisons_the_slice_and_not_the_worker(work):
    """A row that the registry took away under the work is a bug somewhere; it must not come again for ever."""
    await work.backfill("AAPL", "2005-01-03", "2005-01-31")
    await work.sql.execute("DELETE FROM ingest.series")
    async with replaying() as replay:
        await work.drain(await work.worker(replay.url, patience=Patience(attempts=2, first_wait=0.01)))
    (row,) = await work.slices()
    assert (row["state"], row["reason"][:13]) == (FAILED, "a part failed")


FULL_DISK = """
CREATE FUNCTION ingest.no_space() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER no_space BEFORE UPDATE ON ingest.series FOR EACH STATEMENT EXECUTE FUNCTION ingest.no_space()
"""


SPACE_AGAIN = "DROP TRIGGER IF EXISTS no_space ON ingest.series; DROP FUNCTION IF EXISTS ingest.no_space()"


async def test_a_full_disk_pauses_the_job_and_resuming_goes_on_where_it_stopped(work):
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    async with replaying() as replay:
        worker = await work.worker(replay.url)
        try:
            await work.sql.execute(FULL_DISK)
            await worker.step()
        finally:
            await work.sql.execute(SPACE_AGAIN)
        (row,) = await work.slices()
        assert (row["state"], row["held"], row["attempts"]) == (PENDING, True, 0)
        state, reason = await work.sql.fetchrow("SELECT state, pause_reason FROM ingest.backfills")
        assert (state, "No space left" in reason) == (PAUSED, True)
        await work.sql.execute("UPDATE ingest.backfills SET state = 2, pause_reason = ''")
        await work.sql.execute("UPDATE ingest.slices SET held = false")
        await work.drain(worker)
    assert (await work.slices())[0]["inserted"] == 252


async def test_a_slice_whose_workers_are_lost_again_and_again_fails(work):
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    for _ in range(3):
        await slices.claim(work.db, "a worker that dies of it", timedelta(seconds=60))
        await slices.free_lost(work.db, lambda _: True)
    async with replaying() as replay:
        worker = await work.worker(replay.url, patience=Patience(attempts=3))
        await worker.step()
    (row,) = await work.slices()
    assert (row["state"], row["reason"], len(replay.served)) == (FAILED, "the worker was lost", 0)


async def test_a_market_that_the_plan_does_not_include_is_outside_it_as_a_whole(work):
    symbol = await work.backfill("X:BTCUSD", "2019-01-01", "2019-12-31", DAY, CRYPTO)
    async with replaying(parse_faults("200")) as replay:
        await work.drain(await work.worker(replay.url))
    (row,) = await work.slices()
    assert (row["state"], row["requests"]) == (OUTSIDE_PLAN, 1)
    assert "not entitled" in row["reason"]
    assert ranges((await work.series(symbol))["outside_plan"]) == [(date(2019, 1, 1), date(2020, 1, 1))]


async def test_what_failed_and_is_fetched_later_is_no_longer_failed(work):
    symbol = await work.backfill("AAPL", "2005-01-03", "2005-01-31")
    async with replaying(parse_faults("500:times=30")) as replay:
        worker = await work.worker(replay.url)
        await work.drain(worker)
        assert ranges((await work.series(symbol))["failed"]) == [(date(2005, 1, 3), date(2005, 2, 1))]
        replay.faults = []
        await work.start(Ask(symbol, "AAPL", "2005-01-03", "2005-01-31"))
        await work.drain(worker)
    series = await work.series(symbol)
    assert (ranges(series["failed"]), series["last_error"]) == ([], "")
    assert ranges(series["asked"]) == [(date(2005, 1, 3), date(2005, 2, 1))]
