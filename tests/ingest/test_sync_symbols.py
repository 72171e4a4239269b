"""SyncSymbols: the provider's lists come into the registry over the SymbolService, whole and in any state of it."""

from __future__ import annotations

import json
from datetime import date

import pytest

from deploy.local.wire import Answer
from mdw.ingest.v1 import ingest_pb2
from mdw.symbols.v1 import symbols_pb2, symbols_pb2_grpc
from mdw_client.channel import aio_channel
from services.ingest.pages import PageError
from services.ingest.registry import Registry
from services.ingest.symbol_lists import (
    Holder,
    Listing,
    list_target,
    plan_list,
    read_change,
    read_list,
    read_list_date,
)
from services.symbols.__main__ import build
from services.symbols.settings import SymbolsSettings
from tests.ingest.acting import acting_provider
from tests.ingest.working import replaying
from tests.support import environment, make_key, serving

STOCK, ETF, CRYPTO = 1, 2, 3
State = ingest_pb2.Backfill.State
EVER = date(1900, 1, 1)
LEFT = date(2020, 5, 1)
APPLE, OTHER = "BBG000B9XRY4", "BBG000BPH459"


def page(*rows, **fields) -> bytes:
    return json.dumps({"status": "OK", "results": rows, **fields}).encode()


def listing(ticker: str, left: date | None = None, figi: str = "", **fields) -> Listing:
    return Listing(provider_ticker=ticker, asset_class=STOCK, figi=figi, delist_date=left, **fields)


def holder(ticker: str, symbol_id: int = 1, until: date | None = None, since: date = EVER, **fields) -> Holder:
    return Holder(symbol_id=symbol_id, provider_ticker=ticker, from_date=since, to_date=until, **fields)


def test_a_list_is_asked_for_behind_the_last_ticker():
    assert list_target("stocks", "", active=False) == (
        "/v3/reference/tickers?market=stocks&active=false&sort=ticker&order=asc&limit=1000"
    )
    assert "&ticker.gt=X:BTCUSD&" in list_target("crypto", "X:BTCUSD", active=True)


def test_rows_are_read_with_what_is_known_of_them_and_without_what_the_registry_cannot_hold():
    apple = {"ticker": "AAPL", "name": " Apple ", "type": "CS", "primary_exchange": "XNAS", "composite_figi": APPLE}
    found = read_list("stocks", page(apple, {"ticker": "SPY", "type": "ETF"}, {"ticker": "a b"}, 7), active=True)
    assert found.listings == [
        listing("AAPL", figi=APPLE, name="Apple", type="CS", exchange="XNAS"),
        Listing(provider_ticker="SPY", asset_class=ETF, type="ETF"),
    ]
    assert (found.useless, found.until) == (2, "")
    gone = {"ticker": "X", "delisted_utc": "2020-05-01T04:00:00Z", "primary_exchange": "nowhere"}
    assert read_list("stocks", page(gone, {"ticker": "Y"}), active=False).listings == [listing("X", LEFT)]
    assert read_list("crypto", page({"ticker": "X:BTCUSD"}), active=True).listings[0].asset_class == CRYPTO


def test_the_last_ticker_of_a_page_is_asked_for_again_since_it_may_go_on():
    rows = [{"ticker": ticker, "delisted_utc": "2020-05-01"} for ticker in ("A", "B", "B")]
    found = read_list("stocks", page(*rows, next_url="x"), active=False)
    assert ([one.provider_ticker for one in found.listings], found.until) == (["A"], "A")
    for broken in (page({"ticker": "B"}, next_url="x"), b"{", b"[]", b'{"results":7}'):
        with pytest.raises(PageError):
            read_list("stocks", broken, active=True)


def test_dates_of_listing_and_change_are_read_where_they_are_said():
    assert read_list_date(b'{"results":{"list_date":"1980-12-12"}}') == date(1980, 12, 12)
    assert read_list_date(b'{"results":{}}') is None
    assert read_list_date(b"{}") is None
    events = {"results": {"events": [{"date": "2022-06-09", "ticker_change": {"ticker": "META"}}, {"date": "x"}, 7]}}
    assert read_change(json.dumps(events).encode(), "META") == date(2022, 6, 9)
    assert read_change(json.dumps(events).encode(), "FB") is None


def test_a_new_holder_begins_the_day_after_the_one_before_left():
    plan = plan_list([listing("X", LEFT), listing("X", date(2010, 1, 1))], [])
    assert [(one.delist_date, first) for one, first in plan.new] == [
        (date(2010, 1, 1), None), (LEFT, date(2010, 1, 2)),
    ]  # fmt: skip
    assert plan_list([listing("X")], [holder("X", until=LEFT)]).new == [(listing("X"), date(2020, 5, 2))]


def test_a_known_symbol_is_put_right_and_otherwise_left_alone():
    one = listing("A", figi=APPLE, name="Apple", exchange="XNAS")
    plan = plan_list([one], [holder("A", name="Old name", exchange="XNAS")])
    assert plan.updates == [(1, {"name": "Apple", "figi": APPLE})]
    assert plan_list([one], [holder("A", name="Apple", exchange="XNAS", figi=APPLE)]).unchanged == 1
    gone = plan_list([listing("A", LEFT, APPLE)], [holder("A", figi=APPLE)])
    assert gone.updates == [(1, {"delist_date": LEFT})]


def test_a_ticker_that_another_company_holds_is_flagged_and_nothing_changed():
    for one, known in (
        (listing("A", figi=APPLE), holder("A", figi=OTHER)),
        (listing("A", LEFT), holder("A")),
        (listing("FB", LEFT, APPLE), holder("META", figi=APPLE)),
    ):
        plan = plan_list([one], [known])
        assert (plan.reused, plan.new, plan.updates) == ([(1, one)], [], [])


def test_a_company_that_is_listed_under_another_ticker_was_renamed():
    one = listing("META", figi=APPLE)
    assert plan_list([one], [holder("FB", figi=APPLE)]).renamed == [(holder("FB", figi=APPLE), one)]


@pytest.fixture
async def registry(database, auth_target):
    """A symbols service in this process, its stub and the registry that a worker calls."""
    own, service = await make_key(database, "service", name="symbols"), await make_key(database, "admin")
    variables = environment(database.symbols_url, auth_target=auth_target, service_key=own)
    server = await build(SymbolsSettings.from_environment(variables))
    async with (
        serving(server) as address,
        aio_channel(address, key=service) as channel,
        aio_channel(address) as bare,
    ):
        yield symbols_pb2_grpc.SymbolServiceStub(channel), Registry(bare, lambda: service)


async def symbol(stub, ticker: str) -> symbols_pb2.Symbol:
    return (await stub.GetSymbol(symbols_pb2.GetSymbolRequest(ticker=ticker))).symbol


async def test_an_empty_registry_is_filled_inactive_with_delisted_ones_and_changed_tickers(ingest, running, registry):
    stub, called = registry
    async with replaying() as replay:
        worker = await running.worker(replay.url, registry=called)
        first = await ingest.call("SyncSymbols")
        assert first.backfill.kind == ingest_pb2.Backfill.SYMBOLS
        await running.drain(worker)
        stocks, crypto = await ingest.slices(first.backfill.backfill_id)
        assert (stocks.subject, crypto.subject, crypto.bars_inserted) == ("stocks", "crypto", 2)
        assert (stocks.bars_inserted, stocks.bars_rejected) == (14, 0)
        again = await ingest.call("SyncSymbols", asset_class=ETF)
        await running.drain(worker)
        (same,) = await ingest.slices(again.backfill.backfill_id)
    assert (same.state, same.bars_inserted, same.bars_updated) == (ingest_pb2.Slice.SUCCEEDED, 0, 0)
    assert (await ingest.get(first.backfill.backfill_id)).state == State.SUCCEEDED
    apple, meta, bitcoin = [await symbol(stub, ticker) for ticker in ("AAPL", "META", "BTC-USD")]
    assert (apple.name, apple.exchange, apple.type, apple.figi, apple.active) == (
        "Apple Inc.", "XNAS", "CS", APPLE, False,
    )  # fmt: skip
    assert [(span.ticker, span.to_date) for span in meta.tickers] == [("FB", "2022-06-08"), ("META", "")]
    assert (await symbol(stub, "SPY")).asset_class == ETF
    assert bitcoin.provider_ticker == "X:BTCUSD"


async def test_a_ticker_that_was_reused_is_flagged_by_its_dates(ingest, running, registry):
    """Where the lists tell both holders, in the registry; where it knows another than they do, in the slice."""
    stub, called = registry
    gone = {"ticker": "META", "market": "stocks", "type": "ETF", "name": "Metaverse ETF", "active": False}
    lists = {
        "false": [gone | {"delisted_utc": "2022-01-31T00:00:00Z"}],
        "true": [
            {"ticker": "META", "market": "stocks", "type": "CS", "name": "Meta", "composite_figi": OTHER},
            {"ticker": "TAKEN", "market": "stocks", "type": "CS", "name": "New owner", "composite_figi": OTHER[::-1]},
        ],
    }
    new = symbols_pb2.NewSymbol(ticker="TAKEN", asset_class=STOCK, figi=APPLE)
    old = (await stub.CreateSymbol(symbols_pb2.CreateSymbolRequest(symbol=new))).symbol
    async with acting_provider() as provider:
        provider.respond = lambda request: Answer(
            200, json.dumps({"status": "OK", "results": lists.get(request.params.get("active", ""), {})}).encode()
        )
        started = await ingest.call("SyncSymbols", asset_class=STOCK)
        await running.drain(await running.worker(provider.url, registry=called))
    [done] = await ingest.slices(started.backfill.backfill_id)
    assert (done.state, done.bars_inserted, done.bars_rejected) == (ingest_pb2.Slice.SUCCEEDED, 2, 1)
    assert done.reason == f"TAKEN now is listed as New owner, not as symbol {old.symbol_id}"
    meta = await symbol(stub, "META")
    [now] = meta.tickers
    [former_id] = now.other_symbol_ids
    former = (await stub.GetSymbol(symbols_pb2.GetSymbolRequest(symbol_id=former_id))).symbol
    [then] = former.tickers
    assert (now.from_date, then.to_date, list(then.other_symbol_ids)) == ("2022-02-01", "2022-01-31", [meta.symbol_id])
    assert list((await symbol(stub, "TAKEN")).tickers[0].other_symbol_ids) == []


async def test_listing_dates_are_looked_up_for_active_symbols(ingest, running, registry):
    stub, called = registry
    for ticker in ("AAPL", "AMD", "NIX"):
        new = symbols_pb2.NewSymbol(ticker=ticker, asset_class=STOCK)
        await stub.CreateSymbol(symbols_pb2.CreateSymbolRequest(symbol=new))
    async with replaying() as replay:
        worker = await running.worker(replay.url, registry=called)
        await ingest.call("SyncSymbols", asset_class=STOCK)
        await running.drain(worker)
        asked = [one.target for one in replay.served if "/v3/reference/tickers/" in one.target]
    assert asked == [f"/v3/reference/tickers/{ticker}" for ticker in ("AAPL", "AMD", "NIX")]
    assert (await symbol(stub, "AAPL")).list_date == "1980-12-12"
    assert (await symbol(stub, "AMD")).list_date == ""


async def test_a_registry_that_is_away_or_refuses_the_key_is_tried_again_and_then_said(ingest, running, registry):
    _, called = registry
    async with replaying() as replay:
        for one, words in (
            (None, "no SERVICE_KEY"),
            (Registry(called._channel, lambda: "mdw_wrong"), "UNAUTHENTICATED"),
        ):
            worker = await running.worker(replay.url, registry=one)
            started = await ingest.call("SyncSymbols", asset_class=CRYPTO)
            await running.drain(worker)
            (failed,) = await ingest.slices(started.backfill.backfill_id)
            assert failed.state == ingest_pb2.Slice.FAILED
            assert words in failed.reason


async def test_a_bad_request_names_all_its_fields(ingest):
    wrong = {"asset_class": 9, "priority": 9, "request_id": "x"}
    assert await ingest.broken_fields("SyncSymbols", **wrong) == ["asset_class", "priority", "request_id"]
