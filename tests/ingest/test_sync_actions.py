"""SyncActions and ListCorporateActions over gRPC, the work done by a worker against the replay."""

from __future__ import annotations

from datetime import date
from uuid import uuid4

import grpc
import pytest

from mdw.ingest.v1 import ingest_pb2
from services.ingest.sync_plans import plan_actions
from tests.ingest.backfilling import CRYPTO, DAY, at
from tests.ingest.working import replaying
from tests.support import make_key, with_key

Kind = ingest_pb2.CorporateAction.Kind
State = ingest_pb2.Backfill.State
INSERT_ACTION = """
INSERT INTO ingest.actions (action_id, write_id, symbol_id, ex_date, kind, split_from, split_to, cash_amount)
VALUES (nextval('ingest.action_ids'), 0, $1, $2, $3, $4, $4, $5)
"""
SPAN = (date(2000, 1, 1), date(2027, 1, 1))


def test_few_symbols_are_asked_for_by_name_and_a_symbol_is_not_torn_apart():
    planned = plan_actions([["FB", "META"], ["AAPL"]], *SPAN)
    assert [(one.subject, one.tickers) for one in planned] == [
        ("splits", ("FB", "META", "AAPL")), ("dividends", ("FB", "META", "AAPL")),
    ]  # fmt: skip
    batches = [one.tickers for one in plan_actions([[f"A{n}", f"B{n}"] for n in range(60)], *SPAN)]
    assert [len(batch) for batch in batches] == [100, 20, 100, 20]
    assert plan_actions([], *SPAN) == []


def test_many_symbols_are_asked_for_by_market_where_that_takes_fewer_requests():
    many = [[f"T{n}"] for n in range(5_000)]
    history = plan_actions(many, *SPAN)
    assert [(one.subject, bool(one.tickers)) for one in history] == [("splits", False)] + [("dividends", True)] * 50
    lately = plan_actions(many, date(2026, 11, 1), date(2027, 1, 1))
    assert [(one.subject, one.tickers) for one in lately] == [("splits", ()), ("dividends", ())]


async def test_splits_are_fetched_listed_and_judged_by(ingest, running):
    await ingest.symbol("AAPL")
    await ingest.symbol("NVDA")
    async with replaying() as replay:
        worker = await running.worker(replay.url)
        await ingest.start(tickers=["AAPL"], start_time=at("2005-01-03"), end_time=at("2005-05-01"))
        await running.drain(worker)
        gap = "SELECT count(*) FROM ingest.bars WHERE flags & 2 <> 0 AND ts = '2005-02-28+00'"
        gaps = await ingest.sql.fetchval(gap)
        wanted = {"request_id": str(uuid4())}
        first, repeat = [await ingest.call("SyncActions", **wanted) for _ in range(2)]
        assert first == repeat
        assert (first.backfill.kind, first.backfill.state) == (ingest_pb2.Backfill.ACTIONS, State.PENDING)
        await running.drain(worker)
    done = await ingest.get(first.backfill.backfill_id)
    assert (done.state, done.progress.requests) == (State.SUCCEEDED, 2)
    slices = await ingest.slices(first.backfill.backfill_id)
    assert [(one.kind, one.subject, one.provider_ticker) for one in slices] == [
        (ingest_pb2.Slice.ACTIONS, "splits", "AAPL,NVDA"), (ingest_pb2.Slice.ACTIONS, "dividends", "AAPL,NVDA"),
    ]  # fmt: skip
    assert gaps == 1
    assert await ingest.sql.fetchval(gap) == 0
    listed = await ingest.call("ListCorporateActions", ticker="AAPL", page_size=1)
    (latest,) = listed.actions
    assert (latest.ticker, latest.kind, latest.ex_date) == ("AAPL", Kind.SPLIT, "2020-08-31")
    assert (latest.split_from, latest.split_to, latest.HasField("cash_amount")) == (1, 4, False)
    assert latest.source_time.seconds > 0
    rest = await ingest.call("ListCorporateActions", ticker="AAPL", page_token=listed.next_page_token, page_size=1)
    assert rest.actions[0].ex_date < latest.ex_date


async def test_actions_are_filtered_by_kind_and_ex_date(ingest):
    symbol_id = await ingest.symbol("AAPL")
    for kind, day, cash in ((1, 5, None), (2, 5, 0.25), (2, 9, 0.25)):
        ratio = 1.0 if kind == 1 else None
        await ingest.sql.execute(INSERT_ACTION, symbol_id, date(2024, 2, day), kind, ratio, cash)

    async def listed(**fields):
        return [(one.kind, one.ex_date) for one in (await ingest.call("ListCorporateActions", **fields)).actions]

    assert await listed(kind=Kind.SPLIT) == [(Kind.SPLIT, "2024-02-05")]
    assert await listed(start_time=at("2024-02-06")) == [(Kind.DIVIDEND, "2024-02-09")]
    assert len(await listed(symbol_id=symbol_id, end_time=at("2024-02-09"))) == 2
    assert await ingest.broken_fields(
        "ListCorporateActions", start_time=at("2024-02-06"), end_time=at("2024-02-06")
    ) == ["end_time"]
    assert (await ingest.refused("ListCorporateActions", page_token="x"))[1] == "PAGE_TOKEN_INVALID"


async def test_a_bad_request_names_all_its_fields(ingest):
    await ingest.symbol("BTC-USD", CRYPTO)
    wrong = {"symbol_ids": [1], "tickers": ["AAPL"], "start_time": at("2050-01-01"), "priority": 9, "request_id": "x"}
    assert await ingest.broken_fields("SyncActions", **wrong) == ["tickers", "start_time", "priority", "request_id"]
    assert await ingest.broken_fields("SyncActions", asset_class=DAY) == ["asset_class"]
    assert await ingest.broken_fields("SyncActions", tickers=["BTC-USD"]) == ["tickers"]
    assert (await ingest.refused("SyncActions", tickers=["NIX"]))[1] == "SYMBOL_NOT_FOUND"
    nothing = await ingest.call("SyncActions")
    assert nothing.backfill.state == State.SUCCEEDED


async def test_readers_of_bars_may_list_actions_and_not_fetch_them(ingest, database):
    key = await make_key(database, "bars.read")
    assert not (await ingest.call("ListCorporateActions", key=key)).actions
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ingest.stub.SyncActions(ingest_pb2.SyncActionsRequest(), metadata=with_key(key))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
