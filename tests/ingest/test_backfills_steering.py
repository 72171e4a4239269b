"""Pause, resume, priority, cancel and retry over gRPC, beside a worker that is played by hand."""

from __future__ import annotations

import grpc
import pytest

from mdw.ingest.v1 import ingest_pb2
from services.ingest.store.endings import (
    begin_backfills,
    close_writes,
    finish_all,
    finish_backfills,
    pause_backfills,
    settle_all,
)
from tests.ingest.backfilling import at
from tests.support import info

State = ingest_pb2.Backfill.State
SliceState = ingest_pb2.Slice.State
LOW, NORMAL, HIGH = ingest_pb2.PRIORITY_LOW, ingest_pb2.PRIORITY_NORMAL, ingest_pb2.PRIORITY_HIGH
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def ingest(ingest):
    for ticker in ("AAPL", "MSFT"):
        await ingest.symbol(ticker)
    return ingest


async def started(ingest, **fields):
    return (await ingest.start(**{"tickers": ["AAPL"], **fields})).backfill.backfill_id


async def states(ingest, backfill_id):
    return [one.state for one in await ingest.slices(backfill_id)]


async def finish_slice(ingest, state=3, reason="", inserted=0):
    row = await ingest.claim()
    await ingest.end(row["slice_id"], state, reason, inserted)
    await finish_backfills(ingest.server.db, row["slice_id"])
    return row["slice_id"]


async def test_a_job_runs_from_the_first_claim_and_succeeds_with_its_last_slice(ingest):
    backfill_id = await started(ingest, tickers=["AAPL", "MSFT"])
    row = await ingest.claim()
    await begin_backfills(ingest.server.db, row["slice_id"])
    running = await ingest.get(backfill_id)
    assert running.state == State.RUNNING
    assert running.HasField("start_work_time")
    await ingest.end(row["slice_id"], inserted=252)
    await finish_backfills(ingest.server.db, row["slice_id"])
    assert (await ingest.get(backfill_id)).progress.done_share == 0.5
    await finish_slice(ingest, inserted=10)
    done = await ingest.get(backfill_id)
    assert (done.state, done.progress.bars_inserted, done.progress.slices_done) == (State.SUCCEEDED, 262, 2)
    assert done.HasField("finish_time")


async def test_a_job_whose_slice_failed_fails_with_the_reason_after_the_others_ended(ingest):
    backfill_id = await started(ingest, tickers=["AAPL", "MSFT"])
    await finish_slice(ingest, state=4, reason="Polygon: unknown ticker")
    assert (await ingest.get(backfill_id)).state == State.RUNNING
    await finish_slice(ingest)
    failed = await ingest.get(backfill_id)
    assert (failed.state, failed.error, failed.progress.slices_failed) == (State.FAILED, "Polygon: unknown ticker", 1)


async def test_a_span_outside_the_plan_does_not_fail_its_job(ingest):
    backfill_id = await started(ingest)
    await finish_slice(ingest, state=5, reason="not in the plan")
    done = await ingest.get(backfill_id)
    assert (done.state, done.progress.slices_outside_plan) == (State.SUCCEEDED, 1)


async def test_a_job_that_nobody_ended_is_ended_by_any_server(ingest):
    backfill_id = await started(ingest)
    await ingest.end((await ingest.claim())["slice_id"])
    assert await finish_all(ingest.server.db) == 1
    assert await finish_all(ingest.server.db) == 0
    assert (await ingest.get(backfill_id)).state == State.SUCCEEDED


async def test_a_paused_job_is_not_worked_on_until_it_is_resumed(ingest):
    backfill_id = await started(ingest)
    paused = await ingest.call("PauseBackfill", backfill_id=backfill_id, reason="disk swap")
    assert (paused.backfill.state, paused.backfill.pause_reason) == (State.PAUSED, "disk swap")
    assert await ingest.claim() is None
    resumed = await ingest.call("ResumeBackfill", backfill_id=backfill_id)
    assert (resumed.backfill.state, resumed.backfill.pause_reason) == (State.PENDING, "")
    assert await ingest.claim() is not None


async def test_pausing_without_a_reason_says_which_key_asked(ingest):
    paused = await ingest.call("PauseBackfill", backfill_id=await started(ingest))
    assert paused.backfill.pause_reason == f"paused by key {ingest.key[:12]}"


async def test_resuming_does_not_wait_for_the_next_try(ingest):
    backfill_id = await started(ingest)
    await ingest.call("PauseBackfill", backfill_id=backfill_id)
    await ingest.sql.execute("UPDATE ingest.slices SET next_try_time = clock_timestamp() + interval '1 hour'")
    await ingest.call("ResumeBackfill", backfill_id=backfill_id)
    assert await ingest.claim() is not None


async def test_a_shared_slice_runs_while_one_of_its_jobs_is_not_paused(ingest):
    first, second = await started(ingest), await started(ingest)
    await ingest.call("PauseBackfill", backfill_id=first)
    row = await ingest.claim()
    assert row is not None
    await ingest.sql.execute("UPDATE ingest.slices SET state = 1, lease_until = NULL")
    await ingest.call("PauseBackfill", backfill_id=second)
    assert await ingest.claim() is None
    await ingest.call("ResumeBackfill", backfill_id=first)
    assert await ingest.claim() is not None


async def test_a_shared_slice_has_the_highest_priority_of_its_jobs(ingest):
    first, second = await started(ingest, priority=LOW), await started(ingest, priority=NORMAL)
    priority = "SELECT priority FROM ingest.slices"
    assert await ingest.sql.fetchval(priority) == NORMAL
    assert (await ingest.call("UpdateBackfill", backfill_id=first, priority=HIGH)).backfill.priority == HIGH
    assert await ingest.sql.fetchval(priority) == HIGH
    await ingest.call("CancelBackfill", backfill_id=first)
    assert await ingest.sql.fetchval(priority) == NORMAL
    assert (await ingest.get(second)).state == State.PENDING


async def test_a_higher_priority_is_served_first_at_once(ingest):
    await started(ingest)
    late = await started(ingest, tickers=["MSFT"])
    await ingest.call("UpdateBackfill", backfill_id=late, priority=HIGH)
    assert (await ingest.claim())["provider_ticker"] == "MSFT"


async def test_a_small_job_gets_its_request_within_two_grants_beside_a_large_one(ingest):
    for number in range(50):
        await ingest.symbol(f"T{number}")
    await started(ingest, tickers=[f"T{number}" for number in range(50)])
    await ingest.claim()
    await started(ingest, tickers=["AAPL"])
    assert "AAPL" in [(await ingest.claim())["provider_ticker"] for _ in range(2)]


async def test_cancelling_ends_the_slices_and_refuses_the_part_under_way(ingest):
    backfill_id = await started(ingest, tickers=["AAPL", "MSFT"])
    row = await ingest.claim()
    cancelled = (await ingest.call("CancelBackfill", backfill_id=backfill_id)).backfill
    assert (cancelled.state, cancelled.progress.slices_done) == (State.CANCELLED, 2)
    assert await states(ingest, backfill_id) == [SliceState.CANCELLED] * 2
    begun = "SELECT ingest.begin_part($1, $2, $3)"
    assert await ingest.sql.fetchval(begun, row["slice_id"], row["token"], row["write_id"]) is False
    assert await ingest.claim() is None


async def test_a_slice_that_another_job_wants_survives_a_cancel(ingest):
    first, second = await started(ingest), await started(ingest)
    await ingest.call("CancelBackfill", backfill_id=first)
    assert await states(ingest, second) == [SliceState.PENDING]
    await finish_slice(ingest)
    assert (await ingest.get(second)).state == State.SUCCEEDED
    assert (await ingest.get(first)).state == State.CANCELLED


async def test_a_job_that_joins_a_paused_one_does_not_inherit_its_priority(ingest):
    """It did: the slice stayed as urgent as the job that waits, until the next change of a job."""
    first = await started(ingest, priority=3)
    await ingest.call("PauseBackfill", backfill_id=first)
    await started(ingest, priority=1)
    assert tuple(await ingest.sql.fetchrow("SELECT held, priority FROM ingest.slices")) == (False, 1)


async def test_the_announced_write_of_a_cancelled_slice_is_closed(ingest):
    backfill_id = await started(ingest)
    row = await ingest.claim()
    await ingest.call("CancelBackfill", backfill_id=backfill_id)
    assert await close_writes(ingest.server.db) == 1
    assert await close_writes(ingest.server.db) == 0
    commit_time = "SELECT commit_time FROM ingest.writes WHERE write_id = $1"
    assert await ingest.sql.fetchval(commit_time, row["write_id"]) is not None


async def test_a_part_that_does_not_end_holds_up_neither_pause_nor_cancel(ingest):
    backfill_id = await started(ingest, tickers=["AAPL", "MSFT"])
    row = await ingest.claim()
    async with ingest.sql.transaction():
        await ingest.sql.fetchval(
            "SELECT ingest.begin_part($1, $2, $3)", row["slice_id"], row["token"], row["write_id"]
        )
        assert (await ingest.call("PauseBackfill", backfill_id=backfill_id)).backfill.state == State.PAUSED
        assert (await ingest.call("CancelBackfill", backfill_id=backfill_id)).backfill.state == State.CANCELLED
    assert await states(ingest, backfill_id) == [SliceState.RUNNING, SliceState.CANCELLED]
    await ingest.sql.execute("UPDATE ingest.slices SET state = 1, lease_until = NULL WHERE state = 2")
    assert await ingest.claim() is None
    assert await states(ingest, backfill_id) == [SliceState.CANCELLED] * 2


async def test_a_change_that_could_not_reach_a_busy_slice_is_put_right_later(ingest):
    backfill_id = await started(ingest)
    row = await ingest.claim()
    async with ingest.sql.transaction():
        await ingest.sql.fetchval(
            "SELECT ingest.begin_part($1, $2, $3)", row["slice_id"], row["token"], row["write_id"]
        )
        await ingest.call("UpdateBackfill", backfill_id=backfill_id, priority=HIGH)
    await settle_all(ingest.server.db)
    assert await ingest.sql.fetchval("SELECT priority FROM ingest.slices") == HIGH


async def test_retry_runs_only_what_failed(ingest):
    backfill_id = await started(ingest, tickers=["AAPL", "MSFT"])
    failed = await finish_slice(ingest, state=4, reason="502 from Polygon")
    await finish_slice(ingest)
    answer = await ingest.call("RetryBackfill", backfill_id=backfill_id)
    assert (answer.slices, answer.backfill.state, answer.backfill.error) == (1, State.RUNNING, "")
    assert sorted(await states(ingest, backfill_id)) == [SliceState.PENDING, SliceState.SUCCEEDED]
    assert (await ingest.call("RetryBackfill", backfill_id=backfill_id)).slices == 0
    assert await finish_slice(ingest) == failed
    assert (await ingest.get(backfill_id)).state == State.SUCCEEDED


async def test_retry_needs_a_job_that_is_open_or_failed(ingest):
    done = await started(ingest)
    await finish_slice(ingest)
    error = await ingest.failure("RetryBackfill", backfill_id=done)
    assert (error.code(), info(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BACKFILL_STATE")
    assert dict(info(error).metadata) == {"backfill_id": done, "state": "SUCCEEDED"}


async def test_retry_after_the_slices_are_gone_has_nothing_to_do(ingest):
    failed = await started(ingest)
    await finish_slice(ingest, state=4, reason="x")
    await ingest.sql.execute("DELETE FROM ingest.slices")
    refused = (grpc.StatusCode.FAILED_PRECONDITION, "NOTHING_TO_DO")
    assert await ingest.refused("RetryBackfill", backfill_id=failed) == refused


async def test_repeating_a_change_is_no_error(ingest):
    backfill_id = await started(ingest)
    for method in ("PauseBackfill", "PauseBackfill", "ResumeBackfill", "ResumeBackfill"):
        await ingest.call(method, backfill_id=backfill_id)
    first = await ingest.call("CancelBackfill", backfill_id=backfill_id)
    assert (await ingest.call("CancelBackfill", backfill_id=backfill_id)).backfill == first.backfill


async def test_an_ended_job_is_not_steered(ingest):
    done = await started(ingest)
    await finish_slice(ingest)
    refused = (grpc.StatusCode.FAILED_PRECONDITION, "BACKFILL_FINISHED")
    assert await ingest.refused("PauseBackfill", backfill_id=done) == refused
    assert await ingest.refused("ResumeBackfill", backfill_id=done) == refused
    assert await ingest.refused("CancelBackfill", backfill_id=done) == refused
    assert await ingest.refused("UpdateBackfill", backfill_id=done, priority=HIGH) == refused


async def test_an_unknown_job_is_not_found_and_an_odd_id_is_an_invalid_field(ingest):
    methods = ("GetBackfill", "ListSlices", "PauseBackfill", "ResumeBackfill", "CancelBackfill", "RetryBackfill")
    for method in methods:
        not_found = (grpc.StatusCode.NOT_FOUND, "BACKFILL_NOT_FOUND")
        assert await ingest.refused(method, backfill_id=UNKNOWN_ID) == not_found
        assert await ingest.broken_fields(method, backfill_id="7") == ["backfill_id"]
    assert await ingest.broken_fields("UpdateBackfill", backfill_id=UNKNOWN_ID, priority=4) == ["priority"]


async def test_trouble_that_no_retry_helps_pauses_all_jobs_of_the_slice_with_the_reason(ingest):
    first, second = await started(ingest), await started(ingest, start_time=at("2023-01-01"))
    row = await ingest.claim()
    await ingest.sql.execute("UPDATE ingest.slices SET state = 1, lease_until = NULL WHERE state = 2")
    await pause_backfills(ingest.server.db, row["slice_id"], "Polygon: Unknown API Key")
    for backfill_id in (first, second):
        paused = await ingest.get(backfill_id)
        assert (paused.state, paused.pause_reason) == (State.PAUSED, "Polygon: Unknown API Key")
    assert await ingest.claim() is None


async def test_a_job_that_shares_a_slice_that_has_ended_meanwhile_ends_too(ingest):
    await started(ingest)
    row = await ingest.claim()
    second = await started(ingest)
    await ingest.end(row["slice_id"])
    await finish_backfills(ingest.server.db, row["slice_id"])
    assert (await ingest.get(second)).state == State.SUCCEEDED
