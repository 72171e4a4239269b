"""What a worker does with slices, against the replay of Polygon."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from deploy.local.faults import parse_faults
from services.ingest.store import slices
from tests.ingest.working import (
    CANCELLED,
    CRYPTO,
    DAY,
    ETF,
    MINUTE,
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


async def test_a_slice_of_days_becomes_bars_figures_and_a_finished_job(work):
    symbol = await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    async with replaying() as replay:
        await work.drain(await work.worker(replay.url))
    (row,) = await work.slices()
    assert (row["state"], row["inserted"], row["requests"], row["attempts"]) == (SUCCEEDED, 252, 1, 0)
    series = await work.series(symbol)
    assert (series["bars"], series["sessions_present"], series["watermark"]) == (252, 252, date(2005, 12, 30))
    assert ranges(series["asked"]) == [(date(2005, 1, 3), date(2006, 1, 3))]
    assert series["first_ts"] == datetime(2005, 1, 3, tzinfo=UTC)
    assert len(series["tail"]) == 400
    assert await work.sql.fetchval("SELECT state FROM ingest.backfills") == 4


async def test_minutes_come_in_pages_and_are_counted_by_session(work):
    symbol = await work.backfill("SPY", "2020-12-15", "2020-12-18", MINUTE, ETF)
    async with replaying() as replay:
        await work.drain(await work.worker(replay.url, page_bars=500))
    (row,) = await work.slices()
    assert (row["state"], row["inserted"], row["requests"]) == (SUCCEEDED, 1564, 4)
    days = await work.sql.fetch("SELECT bars, regular_bars FROM ingest.minute_sessions ORDER BY session_date")
    assert [tuple(day) for day in days] == [(391, 390)] * 4
    series = await work.series(symbol, MINUTE)
    assert (series["sessions_present"], series["watermark"]) == (4, date(2020, 12, 18))


async def test_a_sessions_minutes_count_as_asked_only_when_the_next_page_is_in(work):
    symbol = await work.backfill("SPY", "2020-12-15", "2020-12-18", MINUTE, ETF)
    async with replaying() as replay:
        worker = await work.worker(replay.url, page_bars=500)
        await worker.step()
        assert ranges((await work.series(symbol, MINUTE))["asked"]) == [(date(2020, 12, 15), date(2020, 12, 16))]
        await worker.step()
        assert ranges((await work.series(symbol, MINUTE))["asked"]) == [(date(2020, 12, 15), date(2020, 12, 17))]


async def test_the_minute_that_a_session_closes_with_is_not_of_the_regular_hours(work):
    """The recording has 391 minutes a day; the last starts at 16:00."""
    await work.backfill("SPY", "2020-12-15", "2020-12-15", MINUTE, ETF)
    async with replaying() as replay:
        await work.drain(await work.worker(replay.url))
    last = await work.sql.fetchval("SELECT max(ts) FROM ingest.bars")
    assert last == datetime(2020, 12, 15, 21, tzinfo=UTC)


async def test_coins_have_utc_days_and_fractions(work):
    symbol = await work.backfill("X:BTCUSD", "2020-01-01", "2020-01-31", DAY, CRYPTO)
    async with replaying() as replay:
        await work.drain(await work.worker(replay.url))
    assert (await work.series(symbol))["sessions_present"] == 31
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.bars WHERE volume <> round(volume)") == 31


async def test_asking_again_changes_nothing_but_says_so(work):
    symbol = await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    async with replaying() as replay:
        worker = await work.worker(replay.url)
        await work.drain(worker)
        before = await work.tables(slices=False)
        await work.start(Ask(symbol, "AAPL", "2005-03-01", "2005-06-30"))
        await work.drain(worker)
    _, again = await work.slices()
    assert (again["inserted"], again["updated"], again["unchanged"]) == (0, 0, 86)
    assert await work.tables(slices=False) == before
    assert await work.sql.fetchval("SELECT count(*) FROM ingest.bar_revisions") == 0
    assert await work.sql.fetchval("SELECT count(DISTINCT write_id) FROM ingest.bars") == 1


async def test_a_later_correction_replaces_the_bars_and_keeps_their_versions(work):
    symbol = await work.backfill("AAPL", "2005-01-03", "2005-06-30")
    async with replaying(parse_faults("late:times=1")) as replay:
        worker = await work.worker(replay.url)
        await work.drain(worker)
        first = {row["ts"]: row["close"] for row in await work.sql.fetch("SELECT ts, close FROM ingest.bars")}
        await work.start(Ask(symbol, "AAPL", "2005-01-03", "2005-06-30"))
        await work.drain(worker)
    assert (await work.slices())[1]["updated"] == 3
    replaced = await work.sql.fetch(
        "SELECT r.ts, r.close, b.close AS present "
        "FROM ingest.bar_revisions r JOIN ingest.bars b USING (symbol_id, timeframe, ts)"
    )
    assert len(replaced) == 3
    assert all(row["close"] == first[row["ts"]] != row["present"] for row in replaced)


TROUBLES = (
    "429:times=3", "429:times=2,retry_after=0", "429:times=2,body=empty", "500:times=4",
    "500:times=2,status=502,body=html", "500:times=2,body=empty", "error:times=2", "reset:times=2", "cut:times=2",
    "cut:times=2,hard=1", "loop:times=2", "forget", "stranger:times=2", "other_basis:times=2", "delayed", "exponent",
    "unsorted", "duplicate",
)  # fmt: skip


async def test_whatever_goes_wrong_on_the_way_the_tables_end_the_same(work):
    tables = {}
    symbol = await work.symbol("SPY", ETF)
    async with replaying() as replay:
        worker = await work.worker(replay.url, page_bars=500)
        for trouble in ("", *TROUBLES):
            replay.faults = parse_faults(trouble)
            await work.empty()
            await work.start(Ask(symbol, "SPY", "2020-12-15", "2020-12-18", MINUTE, ETF))
            await work.drain(worker)
            tables[trouble] = await work.tables(slices=False)
            states = await work.sql.fetch("SELECT state, inserted FROM ingest.slices")
            assert [tuple(row) for row in states] == [(SUCCEEDED, 1564)], trouble
    assert {trouble for trouble, found in tables.items() if found != tables[""]} == set()


async def test_impossible_bars_are_kept_as_they_came_and_once(work):
    symbol = await work.backfill("AAPL", "2005-01-03", "2005-01-31")
    async with replaying(parse_faults("conflict outside")) as replay:
        worker = await work.worker(replay.url)
        await work.drain(worker)
        await work.start(Ask(symbol, "AAPL", "2005-01-03", "2005-01-31"))
        await work.drain(worker)
    rows = await work.sql.fetch("SELECT reason, raw, ts FROM ingest.rejected_bars ORDER BY reason")
    assert [row["reason"] for row in rows] == ["DUPLICATE", "OUT_OF_SPAN"]
    assert all(row["raw"].startswith('{"v":') for row in rows)
    assert (await work.series(symbol))["rejected"] == len(rows)
    assert [row["rejected"] for row in await work.slices()] == [len(rows)] * 2


async def test_a_bar_that_a_newer_answer_lacks_stays_and_says_so(work):
    symbol = await work.backfill("AAPL", "2005-01-03", "2005-01-31")
    async with replaying(parse_faults("empty:after=1,times=1")) as replay:
        worker = await work.worker(replay.url)
        await work.drain(worker)
        whole = await work.tables(slices=False)
        await work.start(Ask(symbol, "AAPL", "2005-01-10", "2005-01-14"))
        await work.drain(worker)
        absent = await work.sql.fetch("SELECT ts FROM ingest.bars WHERE flags & 16 <> 0 ORDER BY ts")
        assert [row["ts"].day for row in absent] == [10, 11, 12, 13, 14]
        await work.start(Ask(symbol, "AAPL", "2005-01-10", "2005-01-14"))
        await work.drain(worker)
    assert await work.tables(slices=False) == whole


async def test_a_slice_of_a_cancelled_job_ends_with_the_page_under_way(work):
    await work.backfill("SPY", "2020-12-15", "2020-12-18", MINUTE, ETF)
    async with replaying() as replay:
        worker = await work.worker(replay.url, page_bars=100)
        await worker.step()
        await work.sql.execute("UPDATE ingest.backfills SET state = 6, finish_time = now()")
        await worker.step()
        await worker.step()
    (row,) = await work.slices()
    assert (row["state"], row["inserted"]) == (CANCELLED, 100)


async def test_jobs_of_one_priority_take_turns_and_higher_ones_come_first(work):
    many = [Ask(await work.symbol(f"T{number}"), f"T{number}", "2005-01-03", "2005-01-31") for number in range(4)]
    one = Ask(await work.symbol("AAPL"), "AAPL", "2005-01-03", "2005-01-31")
    urgent = Ask(await work.symbol("MSFT"), "MSFT", "2005-01-03", "2005-01-31")
    await work.start(*many)
    async with replaying() as replay:
        worker = await work.worker(replay.url)
        await worker.step()
        await work.start(one)
        await work.start(urgent, priority=3)
        await work.drain(worker)
        order = [served.target.split("/")[4] for served in replay.served]
    assert order == ["T0", "MSFT", "AAPL", "T1", "T2", "T3"]


async def test_a_bar_with_an_older_time_is_fitted_in_and_the_next_twenty_are_judged_again(work):
    """January after February gives what both in order would have given."""
    symbol = await work.symbol("AAPL")
    async with replaying() as replay:
        worker = await work.worker(replay.url)
        spans = [("2005-01-03", "2005-01-31"), ("2005-02-01", "2005-02-28"), ("2005-03-01", "2005-04-29")]
        found = []
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
            await work.empty()
            for at in order:
                await work.start(Ask(symbol, "AAPL", *spans[at]))
                await work.drain(worker)
            found.append(await work.tables(slices=False))
    assert found[1:] == found[:1] * 3
    assert any(row[-1] for row in found[0]["bars"])


async def test_a_job_that_is_paused_while_a_page_is_written_rests_after_it(work):
    await work.backfill("SPY", "2020-12-15", "2020-12-18", MINUTE, ETF)
    async with replaying() as replay:
        worker = await work.worker(replay.url, page_bars=100)
        await worker.step()
        await work.sql.execute("UPDATE ingest.backfills SET state = 3, pause_reason = 'lunch'")
        await worker.step()
        await worker.step()
    (row,) = await work.slices()
    assert (row["state"], row["held"], row["inserted"], row["requests"]) == (PENDING, True, 100, 1)


async def test_a_grant_is_given_back_when_somebody_else_took_the_last_slice(work, monkeypatch):
    await work.sql.execute("DELETE FROM ingest.limiter")
    async with replaying() as replay:
        worker = await work.worker(replay.url, per_minute=1, slot_seconds=60)
        monkeypatch.setattr(slices, "has_due", always)
        await worker.step()
        await work.backfill("AAPL", "2005-01-03", "2005-12-30")
        await worker.step()
        await work.backfill("MSFT", "2005-01-03", "2005-12-30")
        assert 0 < await worker.step() <= 5
    assert [row["state"] for row in await work.slices()] == [SUCCEEDED, PENDING]


async def always(*_):
    return True


async def test_a_request_that_could_not_be_sent_in_time_is_not_counted(work, monkeypatch):
    await work.sql.execute("DELETE FROM ingest.limiter")
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    async with replaying() as replay:
        worker = await work.worker(replay.url, per_minute=5)
        monkeypatch.setattr("services.ingest.store.limiter.GRANT_SECONDS", -1.0)
        await worker.step()
    (row,) = await work.slices()
    assert (row["state"], row["requests"], row["attempts"], len(replay.served)) == (PENDING, 0, 0, 0)


async def test_tries_at_once_are_counted_and_take_their_own_grants(work):
    await work.sql.execute("DELETE FROM ingest.limiter")
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    async with replaying(parse_faults("500:times=2")) as replay:
        worker = await work.worker(replay.url, per_minute=3)
        await worker.step()
        assert await worker._limiter.take() is None
    (row,) = await work.slices()
    assert (row["state"], row["requests"], row["attempts"]) == (SUCCEEDED, 3, 0)
