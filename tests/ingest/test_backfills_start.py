"""StartBackfill over gRPC: what is planned, what is refused, what is shared, and what a repeat gives."""

from __future__ import annotations

import asyncio
from datetime import date
from uuid import uuid4

import asyncpg
import grpc
import pytest

from mdw.ingest.v1 import ingest_pb2
from tests.ingest.backfilling import CRYPTO, DAY, MINUTE, at, ingest_running
from tests.support import info, make_key, reason, violations, with_key

State = ingest_pb2.Backfill.State


async def test_a_backfill_is_one_slice_a_series_over_the_asked_sessions(ingest):
    aapl = await ingest.symbol("AAPL")
    answer = await ingest.start(tickers=["AAPL"])
    assert answer.backfill.state == State.PENDING
    assert (answer.plan.slices, answer.plan.requests, answer.plan.estimated_bars) == (1, 1, 252)
    (planned,) = await ingest.slices(answer.backfill.backfill_id)
    assert (planned.symbol_id, planned.provider_ticker, planned.timeframe) == (aapl, "AAPL", DAY)
    assert (planned.first_date, planned.last_date) == ("2024-01-02", "2024-12-31")


async def test_the_series_is_there_before_the_first_slice_is_claimed(ingest):
    aapl = await ingest.symbol("AAPL")
    await ingest.start(tickers=["AAPL"], timeframes=[DAY, MINUTE])
    rows = await ingest.sql.fetch("SELECT timeframe FROM ingest.series WHERE symbol_id = $1 ORDER BY 1", aapl)
    assert [row["timeframe"] for row in rows] == [MINUTE, DAY]


async def test_a_derived_timeframe_plans_its_base_once(ingest):
    await ingest.symbol("AAPL")
    answer = await ingest.start(tickers=["AAPL"], timeframes=[2, 5, 8])
    assert list(answer.backfill.timeframes) == [DAY, MINUTE]
    assert answer.plan.slices == 2


async def test_open_ends_mean_from_2000_to_the_last_closed_session(ingest):
    await ingest.symbol("AAPL")
    answer = await ingest.call("StartBackfill", tickers=["AAPL"], timeframes=[DAY])
    last = await ingest.sql.fetchval(
        "SELECT max(session_date) FROM ingest.sessions WHERE calendar = 'XNYS' AND close_time <= clock_timestamp()"
    )
    (planned,) = await ingest.slices(answer.backfill.backfill_id)
    assert (planned.first_date, planned.last_date) == ("2000-01-03", str(last))
    assert answer.backfill.start_time == at("2000-01-01")


async def test_crypto_is_planned_by_utc_days(ingest):
    await ingest.symbol("BTC-USD", CRYPTO)
    answer = await ingest.start(tickers=["BTC-USD"], end_time=at("2024-01-08"))
    (planned,) = await ingest.slices(answer.backfill.backfill_id)
    assert (planned.provider_ticker, planned.first_date, planned.last_date) == ("X:BTCUSD", "2024-01-01", "2024-01-07")


async def test_slices_are_cut_where_the_ticker_changed(ingest):
    spans = (("FB", date(2012, 5, 18), date(2022, 6, 8)), ("META", date(2022, 6, 9), None))
    await ingest.symbol("META", spans=spans)
    answer = await ingest.start(tickers=["META"], start_time=at("2012-01-01"))
    found = [(s.provider_ticker, s.first_date, s.last_date) for s in await ingest.slices(answer.backfill.backfill_id)]
    assert found == [("FB", "2012-05-18", "2022-06-08"), ("META", "2022-06-09", "2024-12-31")]
    assert [one.reason for one in answer.plan.skipped] == ["no ticker of the symbol is known: 2012-01-03 to 2012-05-17"]


async def test_fb_finds_meta(ingest):
    spans = (("FB", date(2012, 5, 18), date(2022, 6, 8)), ("META", date(2022, 6, 9), None))
    meta = await ingest.symbol("META", spans=spans)
    answer = await ingest.start(tickers=["FB"])
    assert [one.symbol_id for one in await ingest.slices(answer.backfill.backfill_id)] == [meta]


async def test_all_spellings_of_a_coin_are_one_symbol(ingest):
    btc = await ingest.symbol("BTC-USD", CRYPTO)
    answer = await ingest.start(tickers=["BTC", "BTCUSD", "BTC-USD", "X:BTCUSD"], asset_class=CRYPTO)
    assert [one.symbol_id for one in await ingest.slices(answer.backfill.backfill_id)] == [btc]


async def test_a_ticker_of_two_classes_is_ambiguous_and_the_candidates_are_named(ingest):
    await ingest.symbol("BTC")
    await ingest.symbol("BTC-USD", CRYPTO)
    error = await ingest.failure("StartBackfill", tickers=["BTC"], timeframes=[DAY])
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "SYMBOL_AMBIGUOUS")
    assert "BTC-USD" in info(error).metadata["candidates"]


async def test_a_class_alone_means_its_active_symbols(ingest):
    await ingest.symbol("BTC-USD", CRYPTO)
    await ingest.symbol("AAPL")
    await ingest.symbol("OLD", active=False)
    assert (await ingest.start(asset_class=1)).plan.slices == 1
    assert (await ingest.start(all_active=True, start_time=at("2023-01-01"))).plan.slices == 2


async def test_all_active_of_an_empty_registry_is_done_at_once(ingest):
    answer = await ingest.start(all_active=True)
    assert (answer.backfill.state, answer.plan.slices) == (State.SUCCEEDED, 0)


async def test_what_is_held_is_not_planned_again(ingest):
    aapl = await ingest.symbol("AAPL")
    await ingest.sql.execute(
        "INSERT INTO ingest.series (symbol_id, timeframe, asked) VALUES ($1, 7, '{[2024-03-01,2024-07-01)}')", aapl
    )
    answer = await ingest.start(tickers=["AAPL"])
    found = [(s.first_date, s.last_date) for s in await ingest.slices(answer.backfill.backfill_id)]
    assert found == [("2024-01-02", "2024-02-29"), ("2024-07-01", "2024-12-31")]
    assert answer.plan.sessions_held == 83


async def test_a_backfill_of_what_is_all_held_succeeds_at_once_and_says_so(ingest):
    aapl = await ingest.symbol("AAPL")
    await ingest.sql.execute(
        "INSERT INTO ingest.series (symbol_id, timeframe, asked) VALUES ($1, 7, '{[2000-01-01,2025-01-01)}')", aapl
    )
    answer = await ingest.start(tickers=["AAPL"])
    assert answer.backfill.state == State.SUCCEEDED
    assert answer.backfill.progress.done_share == 1
    assert [one.reason for one in answer.plan.skipped] == ["held: 2024-01-02 to 2024-12-31"]


async def test_refetch_takes_all_again(ingest):
    aapl = await ingest.symbol("AAPL")
    await ingest.sql.execute(
        "INSERT INTO ingest.series (symbol_id, timeframe, asked, deleted, outside_plan) VALUES"
        " ($1, 7, '{[2024-03-01,2025-01-01)}', '{[2024-02-01,2024-03-01)}', '{[2024-01-01,2024-02-01)}')",
        aapl,
    )
    assert (await ingest.start(tickers=["AAPL"])).plan.slices == 0
    answer = await ingest.start(tickers=["AAPL"], mode=ingest_pb2.BACKFILL_MODE_REFETCH)
    assert (answer.plan.slices, answer.plan.estimated_bars) == (1, 252)


async def test_an_open_start_begins_where_the_subscription_was_seen_to_begin(ingest):
    aapl, msft = await ingest.symbol("AAPL"), await ingest.symbol("MSFT")
    await ingest.sql.execute(
        "INSERT INTO ingest.series (symbol_id, timeframe, asked, outside_plan) VALUES"
        " ($1, 7, '{[2023-03-01,2024-01-01)}', '{[2000-01-01,2023-03-01)}')",
        aapl,
    )
    answer = await ingest.call("StartBackfill", symbol_ids=[msft], timeframes=[DAY])
    assert [one.first_date for one in await ingest.slices(answer.backfill.backfill_id)] == ["2023-03-01"]
    assert [one.reason for one in answer.plan.skipped] == ["outside the plan: 2000-01-03 to 2023-02-28"]


async def test_unfinished_work_of_another_backfill_is_shared(ingest):
    await ingest.symbol("AAPL")
    first = await ingest.start(tickers=["AAPL"])
    second = await ingest.start(tickers=["AAPL"], start_time=at("2023-12-01"), priority=ingest_pb2.PRIORITY_HIGH)
    assert (second.plan.slices, second.plan.shared_slices) == (1, 1)
    (shared,) = await ingest.slices(first.backfill.backfill_id)
    own = [one for one in await ingest.slices(second.backfill.backfill_id) if one.slice_id != shared.slice_id]
    assert [(one.first_date, one.last_date) for one in own] == [("2023-12-01", "2023-12-29")]
    lifted = await ingest.sql.fetchval("SELECT priority FROM ingest.slices WHERE slice_id = $1", shared.slice_id)
    assert lifted == ingest_pb2.PRIORITY_HIGH


async def test_a_refetch_shares_only_what_is_still_to_come(ingest):
    await ingest.symbol("AAPL")
    await ingest.start(tickers=["AAPL"])
    row = await ingest.claim()
    await ingest.sql.execute(
        "UPDATE ingest.slices SET state = 1, lease_until = NULL, cursor = '2024-07-01Z' WHERE slice_id = $1",
        row["slice_id"],
    )
    again = await ingest.start(tickers=["AAPL"], mode=ingest_pb2.BACKFILL_MODE_REFETCH)
    own = [one for one in await ingest.slices(again.backfill.backfill_id) if one.slice_id != row["slice_id"]]
    assert [(one.first_date, one.last_date) for one in own] == [("2024-01-02", "2024-07-01")]


async def test_sharing_a_paused_backfills_slice_lets_it_run(ingest):
    await ingest.symbol("AAPL")
    first = await ingest.start(tickers=["AAPL"])
    await ingest.call("PauseBackfill", backfill_id=first.backfill.backfill_id)
    assert await ingest.claim() is None
    await ingest.start(tickers=["AAPL"])
    assert (await ingest.claim())["provider_ticker"] == "AAPL"


async def test_two_starts_at_once_do_not_plan_the_same_twice(ingest):
    await ingest.symbol("AAPL")
    plans = [answer.plan for answer in await asyncio.gather(*(ingest.start(tickers=["AAPL"]) for _ in range(4)))]
    assert sorted((plan.slices, plan.shared_slices) for plan in plans) == [(0, 1), (0, 1), (0, 1), (1, 0)]


async def test_validate_only_gives_the_plan_and_changes_nothing(ingest):
    await ingest.symbol("AAPL")
    await ingest.start(tickers=["AAPL"], start_time=at("2023-01-01"), end_time=at("2024-01-01"))
    answer = await ingest.start(tickers=["AAPL"], timeframes=[MINUTE], validate_only=True)
    assert not answer.HasField("backfill")
    plan = answer.plan
    assert (plan.slices, plan.requests, plan.estimated_bars) == (1, 4, 252 * 600)
    assert plan.estimated_bytes == plan.estimated_bars * 140
    assert await ingest.sql.fetchval("SELECT count(*) FROM ingest.backfills") == 1
    assert await ingest.sql.fetchval("SELECT count(*) FROM ingest.slices") == 1


async def test_the_estimate_counts_the_limit_and_what_waits_before(database, auth_target):
    async with ingest_running(database, auth_target, polygon_requests_per_minute="2") as ingest:
        for ticker in ("AA", "BB", "CC", "DD"):
            await ingest.symbol(ticker)
        alone = await ingest.start(tickers=["AA", "BB", "CC", "DD"], validate_only=True)
        await ingest.start(asset_class=1, start_time=at("2020-01-01"), end_time=at("2021-01-01"))
        beside = await ingest.start(tickers=["AA", "BB", "CC", "DD"], validate_only=True)
        ahead = await ingest.start(asset_class=1, validate_only=True, priority=ingest_pb2.PRIORITY_HIGH)
        one = await ingest.start(tickers=["AA"], validate_only=True)
    assert alone.plan.estimated_time.seconds == 62
    assert beside.plan.estimated_time.seconds == 3 * 62
    assert ahead.plan.estimated_time.seconds == 62
    assert one.plan.estimated_time.seconds == 0


async def test_a_repeat_with_the_same_request_id_gives_the_first_answer(ingest):
    await ingest.symbol("AAPL")
    request_id = str(uuid4())
    first = await ingest.start(tickers=["AAPL"], request_id=request_id)
    assert await ingest.start(tickers=["AAPL"], request_id=request_id) == first
    assert await ingest.sql.fetchval("SELECT count(*) FROM ingest.backfills") == 1
    error = await ingest.failure("StartBackfill", tickers=["AAPL"], timeframes=[MINUTE], request_id=request_id)
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_a_start_leaves_one_audit_row_that_commits_with_it(ingest):
    await ingest.symbol("AAPL")
    await ingest.start(tickers=["AAPL"])
    rows = await ingest.sql.fetch("SELECT kind, code FROM auth.audit_entries WHERE method = 'StartBackfill'")
    assert [(row["kind"], row["code"]) for row in rows] == [("changes", 0)]


async def test_a_bad_request_names_all_its_fields(ingest):
    fields = {"tickers": ["A"] * 20_001, "timeframes": [DAY, 99], "start_time": at("2025-01-02"), "priority": 9}
    error = await ingest.failure("StartBackfill", end_time=at("2025-01-01"), **fields)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == ["tickers", "timeframes[1]", "end_time", "priority"]


async def test_a_text_that_is_no_ticker_is_an_invalid_field(ingest):
    error = await ingest.failure("StartBackfill", tickers=["AAPL", "no such thing!", "A" * 99], timeframes=[DAY])
    assert violations(error) == ["tickers[1]", "tickers[2]"]


async def test_an_unknown_symbol_is_not_found_and_an_inactive_one_is_refused(ingest):
    await ingest.symbol("OLD", active=False)
    not_found = (grpc.StatusCode.NOT_FOUND, "SYMBOL_NOT_FOUND")
    assert await ingest.refused("StartBackfill", tickers=["NOPE"], timeframes=[DAY]) == not_found
    assert await ingest.refused("StartBackfill", symbol_ids=[2**40], timeframes=[DAY]) == not_found
    inactive = (grpc.StatusCode.FAILED_PRECONDITION, "SYMBOL_INACTIVE")
    assert await ingest.refused("StartBackfill", tickers=["OLD"], timeframes=[DAY]) == inactive


async def test_a_span_beyond_the_calendar_is_said_so(ingest):
    error = await ingest.failure("StartBackfill", tickers=["AAPL"], timeframes=[DAY], end_time=at("2036-01-02"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.OUT_OF_RANGE, "CALENDAR_HORIZON")
    assert info(error).metadata["horizon"] == "2036-01-01"


async def test_starting_needs_the_scope_to_write(ingest, database):
    await ingest.symbol("AAPL")
    reader = await make_key(database, "ingest.read", "bars.read")
    request = ingest_pb2.StartBackfillRequest(tickers=["AAPL"], timeframes=[DAY])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ingest.stub.StartBackfill(request, metadata=with_key(reader))
    assert reason(caught.value) == "SCOPE_MISSING"


MANY_SYMBOLS = """
WITH s AS (INSERT INTO symbols.symbols (asset_class) SELECT 1 FROM generate_series(1, 20000) RETURNING symbol_id)
INSERT INTO symbols.tickers (symbol_id, from_date, asset_class, ticker, provider_ticker)
SELECT symbol_id, '1900-01-01', 1, 'T' || symbol_id, 'T' || symbol_id FROM s
"""


async def test_twenty_thousand_symbols_are_taken_in_one_call(ingest):
    """Also where the planner believes that there is hardly a row: its statistics are from after a deletion."""
    await ingest.sql.execute(MANY_SYMBOLS)
    await ingest.sql.execute("DELETE FROM symbols.symbols")
    await ingest.sql.execute("ANALYZE")
    await ingest.sql.execute(MANY_SYMBOLS)
    request = ingest_pb2.StartBackfillRequest(all_active=True, timeframes=[MINUTE])
    answer = await ingest.stub.StartBackfill(request, metadata=with_key(ingest.key), timeout=120)
    assert answer.plan.slices == 20_000
    assert answer.backfill.progress.slices_total == 20_000


async def test_a_symbol_deleted_meanwhile_ends_the_start_and_nothing_refers_to_it(ingest, database):
    """The registry holds the series when StartBackfill comes: it waits, and then finds the symbol gone."""
    symbol_id = await ingest.symbol("AAPL")
    owner = await asyncpg.connect(database.owner_url)
    await owner.execute("INSERT INTO ingest.series (symbol_id, timeframe) VALUES ($1, 7)", symbol_id)
    deletion = owner.transaction()
    await deletion.start()
    assert await owner.fetchval("SELECT ingest.forget_symbol($1)", symbol_id)
    await owner.execute("DELETE FROM symbols.symbols WHERE symbol_id = $1", symbol_id)
    start = asyncio.create_task(ingest.refused("StartBackfill", tickers=["AAPL"], timeframes=[DAY]))
    await _until_waiting(database)
    await deletion.commit()

    assert await start == (grpc.StatusCode.ABORTED, "CONFLICT")
    assert await owner.fetchval("SELECT count(*) FROM ingest.slices") == 0
    await owner.close()


async def _until_waiting(database):
    async with asyncio.timeout(60):
        watcher = await asyncpg.connect(database.admin_url)
        while not await watcher.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):  # noqa: ASYNC110 - a poll
            await asyncio.sleep(0.01)
        await watcher.close()
