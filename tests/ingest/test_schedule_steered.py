"""The schedule is paused, resumed, run by hand, and says what it needs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from mdw.ingest.v1 import ingest_pb2
from services.ingest.store.schedule import Schedule
from tests.ingest.backfilling import CRYPTO, DAY, MINUTE
from tests.ingest.scheduled import symbol
from tests.support import make_key

Kind, State = ingest_pb2.Backfill.Kind, ingest_pb2.Backfill.State
RUNS = """
SELECT session_date::text, result
FROM ingest.schedule_runs
WHERE calendar = $1 AND session_date < '2020-01-01'
ORDER BY session_date
"""


async def test_paused_it_plans_nothing_and_resumed_it_catches_up(ingest, scheduler, clock):
    await symbol(ingest, "AAPL")
    paused = (await ingest.call("PauseSchedule", note="the plan is being changed")).schedule
    assert (paused.paused, paused.note, paused.changed_by_preview) == (
        True,
        "the plan is being changed",
        ingest.key[:12],
    )
    assert paused.changed_by_key_id
    clock.set("2018-03-02T02:00:00")
    assert await scheduler.run_due() == []
    await ingest.sql.execute("INSERT INTO ingest.series SELECT symbol_id, 7 FROM symbols.symbols")
    await ingest.sql.execute(
        "INSERT INTO ingest.suspects "
        "SELECT symbol_id, 7, '2018-02-01', '2018-02-01', 1, now(), now() FROM symbols.symbols"
    )
    assert await scheduler.ask_again() == []
    assert not (await ingest.call("ResumeSchedule")).schedule.paused
    assert len(await scheduler.run_due()) == 1


async def test_a_run_can_be_asked_for_now_and_is_seen(ingest, database, begun):
    await symbol(ingest, "BTC-USD", CRYPTO)
    await symbol(ingest, "AAPL")
    request_id = str(uuid4())
    answer = await ingest.call("RunSchedule", request_id=request_id)
    assert (answer.backfill.kind, answer.backfill.progress.slices_total) == (Kind.SCHEDULE, 2)
    assert answer.backfill.key_id
    assert await ingest.call("RunSchedule", request_id=request_id) == answer
    runs = (await ingest.call("GetSchedule")).schedule.calendars
    assert {run.last_run.backfill.backfill_id for run in runs} == {answer.backfill.backfill_id}
    assert "1 slices planned" in runs[0].last_run.result or "2 series: 2 slices planned" in runs[0].last_run.result
    reader = await make_key(database, "ingest.read")
    assert (await ingest.refused("RunSchedule", key=reader))[1] == "SCOPE_MISSING"


async def test_a_run_before_its_time_does_not_stand_for_the_regular_one(ingest, scheduler, clock):
    await symbol(ingest, "AAPL")
    await ingest.sql.execute("INSERT INTO ingest.schedule_runs VALUES ('XNYS', '2018-03-01', NULL, false, 'asked for')")
    clock.set("2018-03-02T02:00:00")
    assert len(await scheduler.run_due()) == 1
    assert await scheduler.run_due() == []


async def test_without_active_series_a_run_is_done_at_once(ingest):
    assert (await ingest.call("RunSchedule")).backfill.state == State.SUCCEEDED


async def test_it_says_what_it_needs_and_what_is_to_be_had(ingest):
    await symbol(ingest, "BTC-USD", CRYPTO)
    await symbol(ingest, "AAPL", timeframes=(DAY, MINUTE))
    before = (await ingest.call("GetSchedule")).schedule
    assert (before.requests_needed, before.requests_needed_a_day) == (0, 3)
    assert before.requests_available_a_day == int(86_400 * 5 / 62)
    assert 0 <= before.requests_available <= before.requests_available_a_day
    crypto, stocks = before.calendars
    assert (crypto.series, stocks.series) == (1, 2)
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert crypto.next_run_time.ToDatetime().date() <= tomorrow
    await ingest.call("RunSchedule")
    assert (await ingest.call("GetSchedule")).schedule.requests_needed == 3


async def test_runs_are_kept_for_400_days(ingest, scheduler):
    await ingest.sql.execute("UPDATE ingest.schedule_runs SET run_time = now() - interval '401 days'")
    await Schedule(ingest.server.db, ingest.server.recorder).drop_runs(400)
    assert await ingest.sql.fetchval("SELECT count(*) FROM ingest.schedule_runs") == 0
