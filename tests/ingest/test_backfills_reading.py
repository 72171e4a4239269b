"""Lists, watching, refused bars and what is kept how long, over gRPC."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import date

import grpc
import pytest

from mdw.ingest.v1 import ingest_pb2
from services.ingest.housekeeping import Housekeeping
from services.ingest.store.endings import finish_backfills
from services.ingest.store.rejects import Rejects
from services.kit.requests import Requests
from tests.ingest.backfilling import CRYPTO, DAY, MINUTE, STOCK, at
from tests.support import reason, with_key

State = ingest_pb2.Backfill.State
SliceState = ingest_pb2.Slice.State

INSERT_REJECT = """
INSERT INTO ingest.rejected_bars (symbol_id, timeframe, ticker, reason, raw, raw_hash, ts)
VALUES ($1, $2, $3, $4, $5, sha256(convert_to($5, 'UTF8')), '2024-01-02Z')
"""


async def begun(ingest, *tickers):
    for ticker in tickers:
        await ingest.symbol(ticker)
    return (await ingest.start(tickers=list(tickers))).backfill.backfill_id


def watch(ingest, backfill_id):
    request = ingest_pb2.WatchBackfillRequest(backfill_id=backfill_id)
    return ingest.stub.WatchBackfill(request, metadata=with_key(ingest.key), timeout=120)


async def rest_of(call):
    """Returns what a stream still sends until it ends."""
    found = []
    while (message := await call.read()) is not grpc.aio.EOF:
        found.append(message.backfill)
    return found


async def pages(ingest, method, field, **fields):
    """Returns all pages of a list."""
    found, token = [], ""
    while True:
        answer = await ingest.call(method, page_token=token, **fields)
        found.append(list(getattr(answer, field)))
        token = answer.next_page_token
        if not token:
            return found


async def test_backfills_are_listed_newest_first_in_pages(ingest):
    await ingest.symbol("AAPL")
    made = [(await ingest.start(tickers=["AAPL"])).backfill.backfill_id for _ in range(5)]
    found = await pages(ingest, "ListBackfills", "backfills", page_size=2)
    assert [len(page) for page in found] == [2, 2, 1]
    assert [one.backfill_id for page in found for one in page] == made[::-1]


async def test_backfills_are_filtered_by_state_and_kind(ingest):
    first = await begun(ingest, "AAPL")
    second = await begun(ingest, "MSFT")
    await ingest.call("CancelBackfill", backfill_id=first)
    open_ = await ingest.call("ListBackfills", states=[State.PENDING, State.RUNNING])
    assert [one.backfill_id for one in open_.backfills] == [second]
    kinds = ingest_pb2.Backfill.Kind
    assert not (await ingest.call("ListBackfills", kinds=[kinds.FILES])).backfills
    assert len((await ingest.call("ListBackfills", kinds=[kinds.BARS])).backfills) == 2


async def test_a_page_token_is_good_for_its_own_filters_only(ingest):
    await ingest.symbol("AAPL")
    for _ in range(2):
        await ingest.start(tickers=["AAPL"])
    token = (await ingest.call("ListBackfills", page_size=1)).next_page_token
    error = await ingest.failure("ListBackfills", page_token=token, states=[State.PENDING])
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    assert await ingest.broken_fields("ListBackfills", page_size=-1) == ["page_size"]


async def test_slices_are_listed_by_id_in_pages_and_filtered(ingest):
    backfill_id = await begun(ingest, "AA", "BB", "CC")
    found = await pages(ingest, "ListSlices", "slices", backfill_id=backfill_id, page_size=2)
    assert [[one.provider_ticker for one in page] for page in found] == [["AA", "BB"], ["CC"]]
    await ingest.end((await ingest.claim())["slice_id"], 4, "404: not found")
    (failed,) = await ingest.slices(backfill_id, states=[SliceState.FAILED])
    assert (failed.provider_ticker, failed.reason) == ("AA", "404: not found")
    (other,) = await ingest.slices(backfill_id, symbol_id=found[1][0].symbol_id)
    assert other.provider_ticker == "CC"


async def test_watching_sends_at_once_then_every_change_and_ends_with_the_job(ingest):
    backfill_id = await begun(ingest, "AAPL")
    call = watch(ingest, backfill_id)
    first = (await call.read()).backfill
    assert (first.state, first.progress.slices_total) == (State.PENDING, 1)
    row = await ingest.claim()
    running = (await call.read()).backfill
    assert (running.state, running.progress.current_ticker) == (State.RUNNING, "AAPL")
    await ingest.sql.execute("UPDATE ingest.slices SET inserted = 100, cursor = '2024-07-01Z'")
    moved = (await call.read()).backfill
    assert (moved.progress.bars_inserted, 0.4 < moved.progress.done_share < 0.6) == (100, True)
    await ingest.end(row["slice_id"], inserted=252)
    await finish_backfills(ingest.server.db, row["slice_id"])
    *_, last = await rest_of(call)
    assert (last.state, last.progress.bars_inserted, last.progress.done_share) == (State.SUCCEEDED, 252, 1)


async def test_watching_an_ended_job_sends_one_message(ingest):
    backfill_id = await begun(ingest, "AAPL")
    await ingest.call("CancelBackfill", backfill_id=backfill_id)
    assert [one.state for one in await rest_of(watch(ingest, backfill_id))] == [State.CANCELLED]


async def test_watching_an_unknown_job_is_not_found(ingest):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch(ingest, "00000000-0000-4000-8000-000000000000").read()
    assert reason(caught.value) == "BACKFILL_NOT_FOUND"


async def test_many_watchers_cost_one_query_a_look(ingest):
    backfill_id = await begun(ingest, "AAPL")
    calls = [watch(ingest, backfill_id) for _ in range(20)]
    for call in calls:
        await call.read()
    looks = await looks_during(ingest, calls)
    assert 1 <= looks <= 3


async def looks_during(ingest, calls):
    """Lets all watchers see a change, and counts the statements that read progress meanwhile."""
    seen = []
    database = ingest.server.db
    connection = database.connection

    def counted(*args, **kwargs):
        seen.append(1)
        return connection(*args, **kwargs)

    database.connection = counted
    await ingest.sql.execute("UPDATE ingest.slices SET inserted = 5")
    await asyncio.gather(*(call.read() for call in calls))
    database.connection = connection
    return len(seen)


async def test_a_watcher_that_goes_away_is_forgotten(ingest):
    backfill_id = await begun(ingest, "AAPL")
    call = watch(ingest, backfill_id)
    await call.read()
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call.code()
    again = watch(ingest, backfill_id)
    await again.read()
    await ingest.call("CancelBackfill", backfill_id=backfill_id)
    assert [one.state for one in await rest_of(again)] == [State.CANCELLED]


async def test_a_running_job_says_its_pace(ingest):
    backfill_id = await begun(ingest, "AAPL", "MSFT")
    await ingest.end((await ingest.claim())["slice_id"], inserted=1000)
    await ingest.sql.execute(
        "UPDATE ingest.backfills SET state = 2, start_time = clock_timestamp() - interval '10 seconds'"
    )
    progress = (await ingest.get(backfill_id)).progress
    assert 50 < progress.bars_per_second <= 100
    assert 9 <= progress.estimated_time_left.seconds <= 20


async def test_refused_bars_are_listed_newest_first_with_their_raw_text(ingest):
    aapl, btc = await ingest.symbol("AAPL"), await ingest.symbol("BTC-USD", CRYPTO)
    await ingest.sql.execute(INSERT_REJECT, aapl, DAY, "AAPL", "HIGH_LOW", '{"h":1,"l":2}')
    await ingest.sql.execute(INSERT_REJECT, aapl, MINUTE, "AAPL", "PRICE_NOT_POSITIVE", '{"o":-1}')
    await ingest.sql.execute(INSERT_REJECT, btc, DAY, "X:BTCUSD", "PRICE_NOT_POSITIVE", '{"o":-2}')
    await ingest.sql.execute(INSERT_REJECT, None, DAY, "ZZZ", "PRICE_NOT_POSITIVE", '{"o":-3}')
    found = await pages(ingest, "ListRejectedBars", "bars", page_size=3)
    assert [one.raw for page in found for one in page] == ['{"o":-3}', '{"o":-2}', '{"o":-1}', '{"h":1,"l":2}']
    assert await refused(ingest, ticker="BTC", asset_class=CRYPTO) == ['{"o":-2}']
    assert await refused(ingest, symbol_id=aapl, timeframe=DAY) == ['{"h":1,"l":2}']
    assert await refused(ingest, reason="PRICE_NOT_POSITIVE", ticker="AAPL") == ['{"o":-1}']
    newest = (await ingest.call("ListRejectedBars", page_size=1)).bars[0]
    assert (newest.symbol_id, newest.provider_ticker, newest.start_time) == (0, "ZZZ", at("2024-01-02"))


async def refused(ingest, **fields):
    return [one.raw for one in (await ingest.call("ListRejectedBars", **fields)).bars]


async def test_refused_bars_of_an_unknown_ticker_or_derived_timeframe_are_an_error(ingest):
    not_found = (grpc.StatusCode.NOT_FOUND, "SYMBOL_NOT_FOUND")
    assert await ingest.refused("ListRejectedBars", ticker="NOPE") == not_found
    assert await ingest.broken_fields("ListRejectedBars", timeframe=5) == ["timeframe"]


async def test_a_reason_that_no_rule_has_is_an_error_that_names_the_rules(ingest):
    error = await ingest.failure("ListRejectedBars", reason="high_low")
    assert error.details().startswith("reason: is 'high_low', must be one of MISSING_FIELD, NOT_FINITE, ")
    assert error.details().endswith("DUPLICATE, UNKNOWN_TICKER")


async def test_old_slices_and_refused_bars_go_and_jobs_stay(ingest):
    old, fresh = await begun(ingest, "AA"), await begun(ingest, "BB")
    for _ in range(2):
        slice_id = (await ingest.claim())["slice_id"]
        await ingest.end(slice_id)
        await finish_backfills(ingest.server.db, slice_id)
    await ingest.sql.execute(INSERT_REJECT, None, DAY, "AA", "PRICE_NOT_POSITIVE", "{}")
    await ingest.sql.execute("UPDATE ingest.slices SET end_time = end_time - interval '40 days'")
    await ingest.sql.execute("UPDATE ingest.rejected_bars SET last_seen = last_seen - interval '401 days'")
    await ingest.sql.execute(
        "UPDATE ingest.backfills SET finish_time = finish_time - interval '40 days' WHERE backfill_id = $1", old
    )
    await keep_house(ingest)
    assert await ingest.slices(old) == []
    assert len(await ingest.slices(fresh)) == 1
    assert (await ingest.get(old)).progress.slices_total == 1
    assert await ingest.sql.fetchval("SELECT count(*) FROM ingest.rejected_bars") == 0


async def keep_house(ingest):
    db = ingest.server.db
    house = Housekeeping(db=db, rejects=Rejects(db), requests=Requests("ingest"), slice_days=30, reject_days=400)
    await house.finish()
    await house.settle()
    await house.drop()


async def test_house_is_kept_without_anything_to_keep(ingest):
    await ingest.symbol("AAPL", STOCK, spans=(("AAPL", date(2000, 1, 1), None),))
    await keep_house(ingest)
