"""The whole market by day: planned where it takes fewer requests, and landing on the same bars as ranges do."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from deploy.local.wire import Answer
from mdw.ingest.v1 import ingest_pb2
from services.ingest.calendar import EVERY_DAY, XNYS, Sessions, day_of, start_of_day
from services.ingest.market_days import by_day_where_fewer, target, to_batch
from services.ingest.pages import PageError, decode_grouped
from services.ingest.planner import MarketDay, Plan, Slice
from services.ingest.timeframes import DAY_MS
from tests.ingest.acting import acting, acting_provider
from tests.ingest.backfilling import CRYPTO, DAY, ETF, STOCK, at
from tests.ingest.test_worker_metrics import exported
from tests.ingest.working import FAILED, OUTSIDE_PLAN, PENDING, SUCCEEDED, Ask, replaying

FRIDAY = day_of(date(2005, 2, 25))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SESSIONS = [FRIDAY - 1, FRIDAY, FRIDAY + 3, FRIDAY + 4, FRIDAY + 5]
CHANGES = ("inserted", "updated", "unchanged", "rejected")
State = ingest_pb2.Backfill.State
IN_DOUBT = """
SELECT s.symbol_id, c.session_date, s.asks
FROM ingest.suspects s
JOIN ingest.sessions c ON c.calendar = 'XNYS' AND c.session_date BETWEEN s.first_date AND s.last_date
ORDER BY s.symbol_id, c.session_date
"""


def span(symbol_id: int, first: int, last: int, asset_class: int = STOCK, timeframe: int = DAY) -> Slice:
    return Slice(symbol_id, asset_class, timeframe, f"T{symbol_id}", first, last, 1)


def chosen(slices, open_days=()):
    plan = by_day_where_fewer(
        Plan(slices=list(slices)), {STOCK: SESSIONS, CRYPTO: SESSIONS}, dict.fromkeys(open_days, 77)
    )
    return plan, [one.day for one in plan.days], len(plan.slices)


def test_days_stand_for_slices_where_there_are_fewer_of_them():
    many = [span(number, FRIDAY, FRIDAY + 3) for number in range(3)]
    plan, days, left = chosen(many)
    assert (days, left, plan.requests, plan.by_day, plan.bars) == ([FRIDAY, FRIDAY + 3], 0, 2, many, 3)
    assert chosen(many[:2])[1:] == ([], 2)
    assert chosen([span(n, FRIDAY, FRIDAY + 3, timeframe=1) for n in range(9)])[1:] == ([], 9)


def test_a_long_slice_among_many_short_ones_stays_a_range():
    short = [span(number, FRIDAY, FRIDAY) for number in range(3)]
    plan, days, left = chosen([*short, span(9, SESSIONS[0], SESSIONS[-1])])
    assert (days, left, plan.slices[0].symbol_id, plan.requests) == ([FRIDAY], 1, 9, 2)


def test_each_market_has_its_days_and_a_day_that_another_job_brings_is_shared():
    mixed = [span(n, FRIDAY, FRIDAY, asset_class) for n, asset_class in enumerate((STOCK, ETF, CRYPTO, CRYPTO))]
    plan, _, _ = chosen(mixed)
    assert plan.days == [MarketDay(STOCK, FRIDAY), MarketDay(CRYPTO, FRIDAY)]
    plan, days, left = chosen(mixed[:2], [MarketDay(STOCK, FRIDAY)])
    assert (days, left, plan.shared, plan.requests) == ([], 0, [77], 0)


def test_days_are_asked_for_raw():
    assert target(STOCK, FRIDAY) == (
        "/v2/aggs/grouped/locale/us/market/stocks/2005-02-25?adjusted=false&include_otc=true"
    )
    assert target(CRYPTO, FRIDAY) == "/v2/aggs/grouped/locale/global/market/crypto/2005-02-25?adjusted=false"


def row(ticker: str, ms: int, **fields) -> dict:
    return {"T": ticker, "o": 1, "h": 1, "l": 1, "c": 1, "v": 1, "t": ms, **fields}


def grouped(*rows) -> bytes:
    return json.dumps({"status": "OK", "adjusted": False, "results": rows}).encode()


def of_day(*rows, owners, asked=(), calendar=XNYS):
    nothing = np.empty(0, np.int64)
    known = Sessions(calendar, np.array(SESSIONS), nothing, nothing)
    return to_batch(decode_grouped(grouped(*rows)), owners, asked, known, (FRIDAY, NOW))


def test_rows_are_keyed_by_their_session_whatever_instant_of_it_they_are_stamped_with():
    begin, end = (start_of_day(day, XNYS) for day in (FRIDAY, FRIDAY + 1))
    times = (begin, begin + 16 * 3_600_000, end - 1, end, end + 1, begin - 1)
    batch = of_day(*(row(f"T{n}", ms) for n, ms in enumerate(times)), owners=dict(enumerate([5, 4, 3, 2, 1, 6])))
    assert batch.symbol_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.bars.ts.tolist() == [FRIDAY * DAY_MS] * 4
    assert np.diff(batch.starts).tolist() == [0, 1, 1, 1, 1, 0]
    assert [(whose, ticker, one.reason) for whose, ticker, one in batch.rejects] == [
        (1, "T4", "OUT_OF_SPAN"), (6, "T5", "OFF_GRID"),
    ]  # fmt: skip
    utc = of_day(row("X:BTCUSD", (FRIDAY + 1) * DAY_MS - 1), owners={0: 1}, calendar=EVERY_DAY)
    assert utc.bars.ts.tolist() == [FRIDAY * DAY_MS]


def test_rows_of_nobody_are_left_out_and_who_was_asked_for_without_a_row_is_empty():
    noon = start_of_day(FRIDAY, XNYS) + 43_200_000
    batch = of_day(row("A", noon), row("Z", noon), row("A", noon, c=0.5), owners={0: 2, 2: 2}, asked=[2, 7])
    assert (batch.symbol_ids.tolist(), np.diff(batch.starts).tolist(), batch.whole) == ([2, 7], [1, 0], True)
    assert [(whose, one.reason) for whose, _, one in batch.rejects] == [(2, "HIGH_LOW")]


def test_odd_pages_are_read_row_by_row():
    body = b'{"status":"OK","adjusted":false,"results":[{"T":"A","o":"x","t":1},7,{"T":null}]}'
    assert decode_grouped(body).tickers == ["A", "", ""]
    with pytest.raises(PageError):
        decode_grouped(b"{")


async def test_days_of_the_market_end_in_the_same_tables_as_ranges(ingest, running):
    names = {"AAPL": STOCK, "MSFT": STOCK, "IBM": STOCK, "SPY": ETF, "NIX": STOCK}
    ids = {name: await ingest.symbol(name, asset_class) for name, asset_class in names.items()}
    last = {"start_time": at("2005-02-24"), "end_time": at("2005-03-02")}
    async with replaying() as replay:
        worker = await running.worker(replay.url)
        plan = (await ingest.start(tickers=list(names), validate_only=True, **last)).plan
        assert (plan.slices, plan.requests, plan.estimated_bars) == (4, 4, 20)
        started = (await ingest.start(tickers=list(names), **last)).backfill
        shared = await ingest.start(tickers=["AAPL", "MSFT", "IBM", "SPY", "NIX"], **last)
        assert (shared.plan.slices, shared.plan.shared_slices) == (0, 4)
        pending = "SELECT DISTINCT state FROM ingest.series_figures"
        assert [row["state"] for row in await ingest.sql.fetch(pending)] == [2]
        await running.drain(worker)
        done = await ingest.get(started.backfill_id)
        assert (done.state, done.progress.requests, done.progress.done_share) == (State.SUCCEEDED, 4, 1)
        days = await ingest.slices(started.backfill_id)
        assert [(one.kind, one.first_date, one.rows_unknown > 0) for one in days] == [
            (ingest_pb2.Slice.DAY, f"2005-0{day}", True) for day in ("2-24", "2-25", "2-28", "3-01")
        ]  # fmt: skip
        again = await ingest.start(tickers=["AAPL", "MSFT", "IBM"], **last)
        assert again.backfill.state == State.SUCCEEDED
        by_day, doubted = await running.tables(slices=False), await ingest.sql.fetch(IN_DOUBT)
        await running.empty()
        await running.start(*(Ask(ids[n], n, "2005-02-24", "2005-03-01", DAY, names[n]) for n in names))
        await running.drain(worker)
    by_range = await running.tables(slices=False)
    assert len(by_day["bars"]) > 8
    assert by_day == by_range
    assert {row["symbol_id"] for row in doubted} == {ids["NIX"], ids["SPY"]}
    assert doubted == await ingest.sql.fetch(IN_DOUBT)


async def test_coverage_says_that_a_day_failed_until_a_retry_has_brought_it(ingest, running):
    for ticker in "ABCDE":
        await ingest.symbol(ticker)
    told = dict.fromkeys(("2005-02-24", "2005-02-25", "2005-02-28"), "ABCDE")
    nothing = Answer(404, b'{"status":"NOT_FOUND","message":"Data not found."}')
    lost = ["2005-02-25"]
    span = {"start_time": at("2005-02-24"), "end_time": at("2005-03-01")}

    async def holes():
        answer = await ingest.call("GetCoverage", tickers=["A"], timeframe=DAY, **span)
        return [(hole.first_date, ingest_pb2.Hole.Reason.Name(hole.reason)) for hole in answer.series[0].holes]

    async with acting_provider() as provider:
        provider.respond = lambda request: nothing if request.path[-1] in lost else market_of(told, request.path[-1])
        worker = await running.worker(provider.url)
        started = (await ingest.start(tickers=list("ABCDE"), **span)).backfill
        await running.drain(worker)
        job = await ingest.get(started.backfill_id)
        assert (job.state, job.progress.slices_failed, "Data not found" in job.error) == (State.FAILED, 1, True)
        assert await holes() == [("2005-02-25", "FAILED")]
        lost.clear()
        assert (await ingest.call("RetryBackfill", backfill_id=started.backfill_id)).slices == 1
        assert await holes() == [("2005-02-25", "IN_PROGRESS")]
        await running.drain(worker)
    assert (await ingest.get(started.backfill_id)).state == State.SUCCEEDED
    assert await holes() == []


async def test_a_day_asked_for_again_corrects_and_marks_what_is_gone(database):
    async with acting(database) as work:
        a, b = [await work.desk.symbol(ticker) for ticker in "AB"]
        noon = start_of_day(FRIDAY, XNYS) + 43_200_000
        rows = [row("A", noon), row("B", noon), row("Z", noon)]
        work.provider.respond = lambda _: Answer(200, grouped(*rows))
        await asked_for(work, a, b)
        first = await ask_day(work)
        rows[:] = [row("A", noon, v=2), row("Z", noon)]
        second = await ask_day(work)
        found = await work.desk.sql.fetch("SELECT symbol_id, volume, flags FROM ingest.bars ORDER BY symbol_id")
        assert [tuple(one) for one in found] == [(a, 2, 0), (b, 1, 16)]
        assert [(one["inserted"], one["updated"], one["unknown"]) for one in (first, second)] == [(2, 0, 1), (0, 1, 1)]
        counts = exported(work.worker._fetcher._tally)
        assert [counts("mdw_bars_written_total", {"timeframe": "1d", "change": one}) for one in CHANGES] == [2, 1, 0, 0]
        assert {one["state"] for one in (first, second)} == {SUCCEEDED}
        rows.clear()
        empty = await ask_day(work)
        assert (empty["state"], "no bar" in empty["reason"]) == (FAILED, True)


async def test_a_day_with_adjusted_prices_or_cut_short_is_not_believed(database):
    async with acting(database) as work:
        said = [b""]
        work.provider.respond = lambda _: Answer(200, said[0])
        other, adjusted = b'{"status":"OK","results":7}', grouped(row("A", 1)).replace(b"false", b"true")
        for said[0], words in ((other, "not a page"), (adjusted, "adjusted prices")):
            refused = await ask_day(work)
            assert (refused["state"], words in refused["reason"]) == (FAILED, True)


async def test_who_is_not_in_a_day_of_the_market_is_in_doubt_until_a_later_answer_has_it(database):
    """From its first bar on, whatever the order of days; and not where it is not listed, or was deleted."""
    async with acting(database) as work:
        a, b, gone = [await work.desk.symbol(ticker) for ticker in ("A", "B", "GONE")]
        await asked_for(work, a, b, gone)
        await work.desk.sql.execute("UPDATE symbols.symbols SET delist_date = '2005-02-24' WHERE symbol_id = $1", gone)
        told = {"2005-02-28": "A", "2005-03-01": "AB", "2005-02-24": "A", "2005-02-25": "AB", "2005-03-02": "B"}
        work.provider.respond = lambda request: market_of(told, request.path[-1])
        for day in told:
            await ask_day(work, day)
        doubt = [(row["symbol_id"], str(row["session_date"])) for row in await work.desk.sql.fetch(IN_DOUBT)]
        assert doubt == [(a, "2005-03-02"), (b, "2005-02-28"), (gone, "2005-02-24")]
        told["2005-02-28"], told["2005-03-02"] = "AB", "AB"
        await ask_day(work, "2005-02-28")
        await work.desk.sql.execute("UPDATE ingest.series SET deleted = '{[2005-03-02,2005-03-03)}'")
        await ask_day(work, "2005-03-02")
        left = [(row["symbol_id"], str(row["session_date"])) for row in await work.desk.sql.fetch(IN_DOUBT)]
        assert left == [(gone, "2005-02-24")]


async def test_a_day_that_fails_is_said_in_its_series_until_it_is_answered(database):
    """Of the class and the date, of those that were asked for; what was answered before does not fail."""
    async with acting(database) as work:
        a, coin, late = await work.desk.symbol("A"), await work.desk.symbol("X:C", CRYPTO), await work.desk.symbol("L")
        await work.desk.sql.execute("UPDATE symbols.symbols SET list_date = '2005-03-01' WHERE symbol_id = $1", late)
        await asked_for(work, a, coin, late)
        nothing = Answer(404, b'{"status":"NOT_FOUND","message":"Data not found."}')
        said = [nothing]
        work.provider.respond = lambda _: said[0]
        lost = await ask_day(work)
        assert lost["state"] == FAILED
        assert await work.desk.sql.fetch(ENDED) == [
            (a, "{[2005-02-25,2005-02-28)}", "{}", 5), (coin, "{}", "{}", 1), (late, "{}", "{}", 1),
        ]  # fmt: skip
        assert "Data not found" in (await work.desk.series(a))["last_error"]
        said[0] = market_of({"2005-02-25": "A"}, "2005-02-25")
        await ask_day(work)
        assert (await work.desk.sql.fetch(ENDED))[0] == (a, "{}", "{}", 4)
        assert (await work.desk.series(a))["last_error"] == ""
        said[0] = nothing
        await ask_day(work)
        assert (await work.desk.sql.fetch(ENDED))[0] == (a, "{}", "{}", 4)


async def test_a_day_outside_the_plan_is_said_in_its_series(database):
    async with acting(database) as work:
        a = await work.desk.symbol("A")
        await asked_for(work, a)
        refusal = b'{"status":"NOT_AUTHORIZED","message":"Your plan doesn\'t include this data timeframe."}'
        work.provider.respond = lambda _: Answer(403, refusal)
        assert (await ask_day(work))["state"] == OUTSIDE_PLAN
        assert await work.desk.sql.fetch(ENDED) == [(a, "{}", "{[2005-02-25,2005-02-28)}", 1)]


async def test_a_day_that_is_not_over_for_the_plan_waits_without_an_attempt(database):
    async with acting(database) as work:
        refusal = b'{"status":"NOT_AUTHORIZED","message":"Attempted to request today\'s data before end of day."}'
        work.provider.respond = lambda _: Answer(403, refusal)
        slice_id = await day_slice(work, "2005-02-25")
        await work.worker.step()
        waits = await work.slice(slice_id)
        assert (waits["state"], waits["attempts"], "end of day" in waits["reason"]) == (PENDING, 0, True)
        assert waits["next_try_time"] > waits["fetch_time"] + timedelta(minutes=10)


async def test_a_day_without_any_bar_leaves_all_in_doubt_and_fails_nobody(database):
    async with acting(database) as work:
        a, b = [await work.desk.symbol(ticker) for ticker in "AB"]
        await asked_for(work, a, b)
        said = [Answer(200, b'{"status":"OK","resultsCount":0}')]
        work.provider.respond = lambda _: said[0]
        assert (await ask_day(work))["state"] == SUCCEEDED
        doubt = [tuple(row) for row in await work.desk.sql.fetch(IN_DOUBT)]
        assert doubt == [(one, date(2005, 2, 25), 1) for one in (a, b)]
        said[0] = market_of({"2005-02-25": "AB"}, "2005-02-25")
        assert (await ask_day(work))["inserted"] == 2
        assert await work.desk.sql.fetch(IN_DOUBT) == []


async def test_a_day_of_many_series_is_written_500_at_a_time_each_a_write_of_its_own(database):
    async with acting(database) as work:
        await work.desk.sql.execute(
            "INSERT INTO symbols.symbols (asset_class, active) SELECT 1, true FROM generate_series(1, 1100)"
        )
        await work.desk.sql.execute(
            "INSERT INTO symbols.tickers (symbol_id, from_date, asset_class, ticker, provider_ticker)"
            " SELECT symbol_id, '1900-01-01', 1, 'T' || symbol_id, 'T' || symbol_id FROM symbols.symbols"
        )
        noon = start_of_day(FRIDAY, XNYS) + 43_200_000
        rows = [row(f"T{one['symbol_id']}", noon) for one in await work.desk.sql.fetch(ALL)]
        work.provider.respond = lambda _: Answer(200, grouped(*rows))
        done = await ask_day(work)
        assert (done["state"], done["inserted"], done["requests"]) == (SUCCEEDED, 1100, 1)
        parts = "SELECT cardinality(symbol_ids) FROM ingest.writes WHERE slice_id = $1 ORDER BY write_id"
        assert [one[0] for one in await work.desk.sql.fetch(parts, done["slice_id"])] == [500, 500, 100]


ALL = "SELECT symbol_id FROM symbols.symbols"
ENDED = """
SELECT r.symbol_id, r.failed::text, r.outside_plan::text, f.state
FROM ingest.series r
JOIN ingest.series_figures f USING (symbol_id, timeframe)
ORDER BY r.symbol_id
"""


def market_of(told, day):
    """Answers with bars of the tickers, a letter each, that are told of a day."""
    noon = start_of_day(day_of(date.fromisoformat(day)), XNYS) + 43_200_000
    return Answer(200, grouped(row("Z", noon), *(row(ticker, noon) for ticker in told[day])))


async def asked_for(work, *symbol_ids):
    for one in symbol_ids:
        await work.desk.sql.execute("INSERT INTO ingest.series (symbol_id, timeframe) VALUES ($1, 7)", one)


async def ask_day(work, day="2005-02-25"):
    """Runs a job of one day; returns its slice."""
    slice_id = await day_slice(work, day)
    await work.desk.drain(work.worker)
    return await work.slice(slice_id)


async def day_slice(work, day):
    """Writes a job of one day; returns its slice's id."""
    slice_id = await work.ask()
    await work.desk.sql.execute(
        "UPDATE ingest.slices SET kind = 2, timeframe = 7, asset_class = 1, first_date = $2, last_date = $2,"
        " subject = '' WHERE slice_id = $1",
        slice_id, date.fromisoformat(day),
    )  # fmt: skip
    return slice_id
