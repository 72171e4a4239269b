"""Whole backfills: asked for over gRPC, worked on from the replay of Polygon, and seen to their end."""

from __future__ import annotations

import asyncio
from datetime import date

from deploy.local.faults import parse_faults
from mdw.ingest.v1 import ingest_pb2
from tests.ingest.backfilling import CRYPTO, DAY, ETF, MINUTE, at
from tests.ingest.working import replaying
from tests.support import with_key

State = ingest_pb2.Backfill.State
META = (("FB", date(2012, 5, 18), date(2022, 6, 8)), ("META", date(2022, 6, 9), None))
SPAN = {"start_time": at("2012-01-01"), "end_time": at("2021-01-01")}


async def watched(ingest, backfill_id):
    request = ingest_pb2.WatchBackfillRequest(backfill_id=backfill_id)
    call = ingest.stub.WatchBackfill(request, metadata=with_key(ingest.key), timeout=120)
    return [message.backfill async for message in call]


async def test_days_of_a_stock_that_was_renamed_and_of_a_coin(ingest, running):
    await ingest.symbol("META", spans=META)
    await ingest.symbol("BTC-USD", CRYPTO)
    answer = await ingest.start(tickers=["META", "BTC"], **SPAN)
    watching = asyncio.create_task(watched(ingest, answer.backfill.backfill_id))
    async with replaying() as replay:
        await running.drain(await running.worker(replay.url))
    *_, last = await watching
    assert (last.state, last.progress.slices_total, last.progress.requests) == (State.SUCCEEDED, 2, 2)
    assert last.progress.bars_inserted == 196 + 1234


async def test_a_second_backfill_of_the_same_has_nothing_to_do(ingest, running):
    await ingest.symbol("SPY", ETF)
    async with replaying() as replay:
        for inserted in (502, 0):
            answer = await ingest.start(tickers=["SPY"], **SPAN)
            await running.drain(await running.worker(replay.url))
            done = await ingest.get(answer.backfill.backfill_id)
            assert (done.state, done.progress.bars_inserted) == (State.SUCCEEDED, inserted)


async def test_a_refetch_tells_unchanged_bars_from_new_ones(ingest, running):
    await ingest.symbol("SPY", ETF)
    async with replaying() as replay:
        await ingest.start(tickers=["SPY"], **SPAN)
        await running.drain(await running.worker(replay.url))
        again = await ingest.start(tickers=["SPY"], mode=ingest_pb2.BACKFILL_MODE_REFETCH, **SPAN)
        await running.drain(await running.worker(replay.url))
    progress = (await ingest.get(again.backfill.backfill_id)).progress
    assert (progress.bars_inserted, progress.bars_updated, progress.bars_unchanged) == (0, 0, 502)


async def test_a_cancel_between_two_pages_keeps_what_is_written_and_takes_no_more(ingest, running):
    await ingest.symbol("SPY", ETF)
    span = {"start_time": at("2020-12-15"), "end_time": at("2020-12-19")}
    answer = await ingest.start(tickers=["SPY"], timeframes=[MINUTE], **span)
    async with replaying() as replay:
        worker = await running.worker(replay.url, page_bars=500)
        await worker.step()
        cancelled = (await ingest.call("CancelBackfill", backfill_id=answer.backfill.backfill_id)).backfill
        await worker.step()
    assert (cancelled.state, cancelled.progress.bars_inserted) == (State.CANCELLED, 500)
    assert await ingest.sql.fetchval("SELECT count(*) FROM ingest.bars") == 500
    rest = await ingest.start(tickers=["SPY"], timeframes=[MINUTE], **span)
    (planned,) = await ingest.slices(rest.backfill.backfill_id)
    assert planned.first_date == "2020-12-16"


async def test_a_refused_key_pauses_the_job_and_resuming_finishes_it(ingest, running):
    await ingest.symbol("SPY", ETF)
    answer = await ingest.start(tickers=["SPY"], timeframes=[DAY], **SPAN)
    async with replaying(parse_faults("401:times=1")) as replay:
        worker = await running.worker(replay.url)
        await worker.step()
        paused = await ingest.get(answer.backfill.backfill_id)
        assert (paused.state, paused.progress.slices_done) == (State.PAUSED, 0)
        assert "Unknown API Key" in paused.pause_reason
        await ingest.call("ResumeBackfill", backfill_id=answer.backfill.backfill_id)
        await running.drain(worker)
    assert (await ingest.get(answer.backfill.backfill_id)).state == State.SUCCEEDED


async def test_a_job_that_failed_is_retried_to_success(ingest, running):
    await ingest.symbol("SPY", ETF)
    answer = await ingest.start(tickers=["SPY"], **SPAN)
    async with replaying(parse_faults("500")) as broken:
        await running.drain(await running.worker(broken.url))
    failed = await ingest.get(answer.backfill.backfill_id)
    assert (failed.state, failed.progress.slices_failed) == (State.FAILED, 1)
    assert failed.error
    await ingest.call("RetryBackfill", backfill_id=answer.backfill.backfill_id)
    async with replaying() as replay:
        await running.drain(await running.worker(replay.url))
    assert (await ingest.get(answer.backfill.backfill_id)).state == State.SUCCEEDED
