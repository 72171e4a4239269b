"""Bars on one basis: splits as Polygon adjusts, dividends as Yahoo and CRSP do, and only what was known at the time."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from deploy.local.market import RecordedMarket
from deploy.local.windows import session_of
from mdw.ingest.v1 import bars_pb2
from services.ingest.calendar import day_of
from services.ingest.reading.adjust import DIVIDEND, SPLIT, Action, Adjuster, Closes, applicable
from services.ingest.timeframes import DAY_MS
from tests.ingest.bars_support import at, direct_bars, to_time
from tests.ingest.history import CRYPTO, MINUTE, Row, day, days
from tests.ingest.test_bars_as_of import applied, rows_of
from tests.ingest.test_bars_rollup import block_of

M1, H1, D1, W1 = 1, 5, 7, 8
SPLITS, BOTH = bars_pb2.ADJUSTMENT_SPLIT, bars_pb2.ADJUSTMENT_SPLIT_AND_DIVIDEND
NEW_YORK = ZoneInfo("America/New_York")

INSERT_ACTION = """
INSERT INTO ingest.actions (action_id, write_id, symbol_id, ex_date, kind, split_from, split_to, cash_amount,
                            currency, flags)
VALUES (nextval('ingest.action_ids'), $1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
END_ACTIONS = "UPDATE ingest.actions SET ended_write_id = $1 WHERE symbol_id = $2 AND ended_write_id IS NULL"


@pytest.fixture
async def bars(database):
    async with direct_bars(database) as bars:
        yield bars


def split(text, split_from, split_to, **more):
    return Action(day_of(date.fromisoformat(text)), SPLIT, split_from, split_to, **more)


def dividend(text, amount, **more):
    return Action(day_of(date.fromisoformat(text)), DIVIDEND, cash_amount=amount, **more)


async def learn(history, symbol_id, *actions, withdraw=False):
    """Writes what an ACTIONS slice would: new actions, or the end of all that were known."""
    async with history.begin(symbol_id) as write:
        if withdraw:
            await write.conn.execute(END_ACTIONS, write.write_id, symbol_id)
        for one in actions:
            ratio = (one.split_from, one.split_to) if one.kind == SPLIT else (None, None)
            cash = one.cash_amount if one.kind == DIVIDEND else None
            ex_date = date.fromordinal(date(1970, 1, 1).toordinal() + one.ex_day)
            key = (write.write_id, symbol_id, ex_date, one.kind)
            await write.conn.execute(INSERT_ACTION, *key, *ratio, cash, one.currency, one.flags)
        return await write.finish()


def adjusted(rows, *actions, closes=None):
    """Adjusts (day, close, volume) rows."""
    ts = [day_of(date.fromisoformat(text)) * DAY_MS for text, _, _ in rows]
    close, volume = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    prices = dict.fromkeys(("open", "high", "low", "close", "vwap"), close)
    known = Closes(np.array(ts) // DAY_MS, close) if closes is None else closes
    moments = [action.ex_day * DAY_MS for action in sorted(actions)]
    done = Adjuster(sorted(actions), moments, known).apply(block_of(ts, **prices, volume=volume))
    assert done.bars.vwap.tolist() == done.bars.high.tolist() == done.bars.close.tolist()
    return list(zip(done.bars.close.tolist(), done.bars.volume.tolist(), strict=True))


def test_a_split_divides_prices_before_its_day_and_multiplies_volumes():
    rows = [("2020-08-28", 499.23, 46_907_479.0), ("2020-08-31", 129.04, 225_702_688.0)]
    assert adjusted(rows, split("2020-08-31", 1, 4)) == [(124.8075, 187_629_916.0), (129.04, 225_702_688.0)]


def test_splits_add_up_and_prices_are_rounded_once_to_four_decimals():
    rows = [("2000-06-20", 101.25, 1000.0), ("2014-06-06", 645.57, 1000.0), ("2020-08-28", 499.23, 1000.0)]
    dates = (("2000-06-21", 2), ("2005-02-28", 2), ("2014-06-09", 7), ("2020-08-31", 4))
    all_splits = [split(text, 1, ratio) for text, ratio in dates]
    assert adjusted(rows, *all_splits) == [(0.904, 112_000.0), (23.0561, 28_000.0), (124.8075, 4000.0)]


@pytest.mark.parametrize("ticker", ["AAPL", "MSFT"])
def test_recorded_bars_are_adjusted_as_the_provider_sends_them(ticker):
    series = RecordedMarket().find(ticker, "day")
    actions = [
        Action(day_of(one.execution_date), SPLIT, one.split_from, one.split_to)
        for one in sorted(series.splits, key=str)
    ]
    assert actions
    names = ("open", "high", "low", "close", "volume")
    ts = [day_of(session_of(bar.start)) * DAY_MS for bar in series.bars]
    raw = block_of(ts, **{name: [float(getattr(bar, name)) for bar in series.bars] for name in names})
    done = Adjuster(sorted(actions), [action.ex_day * DAY_MS for action in sorted(actions)]).apply(raw)
    for name in names:
        expected = [getattr(bar, name) for bar in series.adjusted_bars]
        np.testing.assert_allclose(getattr(done.bars, name), expected, rtol=0, atol=1.5e-4 if name != "volume" else 1)


def test_a_reverse_split_raises_prices():
    assert adjusted([("2024-01-02", 0.5, 1000.0)], split("2024-01-03", 10, 1)) == [(5.0, 100.0)]


def test_dividends_are_applied_as_in_yahoos_example():
    prices = (("2003-02-13", 46.99), ("2003-02-14", 48.30), ("2003-02-18", 24.96), ("2003-02-19", 24.53))
    rows = [(text, price, 1.0) for text, price in prices]
    done = adjusted(rows, split("2003-02-18", 1, 2), dividend("2003-02-19", 0.08))
    assert [round(close, 2) for close, _ in done] == [23.42, 24.07, 24.88, 24.53]
    assert [volume for _, volume in done] == [2.0, 2.0, 1.0, 1.0]


def test_a_dividend_on_the_day_of_a_split_counts_by_the_new_shares():
    done = adjusted([("2024-01-02", 100.0, 1.0)], split("2024-01-03", 1, 2), dividend("2024-01-03", 1.0))
    assert done == [(49.0, 2.0)]


@pytest.mark.parametrize("amount", [100.0, 150.0])
def test_a_dividend_that_cannot_be_changes_nothing(amount):
    assert adjusted([("2024-01-02", 100.0, 1.0)], dividend("2024-01-03", amount)) == [(100.0, 1.0)]


def test_a_dividend_without_a_close_before_it_changes_nothing():
    nothing = Closes(np.empty(0, np.int64), np.empty(0))
    assert adjusted([("2024-01-02", 100.0, 1.0)], dividend("2024-01-03", 1.0), closes=nothing) == [(100.0, 1.0)]


def test_only_actions_of_the_past_count_no_repeats_and_no_foreign_money():
    past, future = split("2024-01-03", 1, 2), split("2024-02-03", 1, 3)
    repeat, foreign = split("2024-01-03", 1, 2, flags=1), dividend("2024-01-05", 1.0, currency="EUR")
    cash = dividend("2024-01-04", 1.0, currency="USD")
    known = [future, cash, foreign, repeat, past]
    today = day_of(date(2024, 2, 2))
    assert applicable(known, as_of_day=today, dividends=True) == (past, cash)
    assert applicable(known, as_of_day=today, dividends=False) == (past,)
    assert applicable(known, as_of_day=today + 1, dividends=False) == (past, future)


async def closes(bars, **fields):
    """Returns the closes by both ways to read, which must agree."""
    streamed = await bars.streamed(tickers=["AAPL"], **fields)
    listed = await bars.list(ticker="AAPL", **fields)
    assert streamed.column("close") == [bar.close for bar in listed.bars]
    assert streamed.receipt == listed.receipt
    return streamed.column("close"), listed.receipt.actions_applied


async def test_bars_are_adjusted_when_they_are_read(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, days("2024-01-02", [100.0, 100.0, 50.0, 50.0]))
    await learn(history, aapl, split("2024-01-04", 1, 2), dividend("2024-01-05", 5.0))
    assert await closes(bars, timeframe=D1) == ([100, 100, 50, 50], 0)
    assert await closes(bars, timeframe=D1, adjustment=SPLITS) == ([50, 50, 50, 50], 1)
    assert await closes(bars, timeframe=D1, adjustment=BOTH) == ([45, 45, 45, 50], 2)
    late = {"timeframe": D1, "adjustment": BOTH, "start_time": at("2024-01-04")}
    assert await closes(bars, **late) == ([45, 50], 1)
    week = await bars.list(ticker="AAPL", timeframe=W1, adjustment=SPLITS)
    assert [(bar.open, bar.close, bar.volume) for bar in week.bars] == [(50, 50, 6000)]


async def test_minutes_are_adjusted_from_midnight_in_new_york_on(history, bars):
    aapl = await history.symbol("AAPL")
    moments = [datetime(2024, 1, 3, 19, 59, tzinfo=NEW_YORK), datetime(2024, 1, 4, 4, 0, tzinfo=NEW_YORK)]
    await history.write(aapl, [Row(moments[0], close=100.0), Row(moments[1], close=50.0)], timeframe=MINUTE)
    await history.write(aapl, days("2024-01-03", [100.0]))
    await learn(history, aapl, split("2024-01-04", 1, 2), dividend("2024-01-04", 10.0))
    assert await closes(bars, timeframe=M1, adjustment=SPLITS) == ([50, 50], 1)
    assert await closes(bars, timeframe=M1, adjustment=BOTH) == ([40, 50], 2)
    assert await closes(bars, timeframe=H1, adjustment=BOTH) == ([40, 50], 2)


async def test_an_action_learned_later_is_not_applied_earlier_nor_one_withdrawn(history, bars):
    aapl = await history.symbol("AAPL")
    before = await history.write(aapl, days("2024-01-02", [100.0, 50.0]))
    learned = await learn(history, aapl, split("2024-01-03", 1, 2))
    corrected = await learn(history, aapl, split("2024-01-03", 1, 4), withdraw=True)
    for moment, close in ((before, 100), (learned, 50), (corrected, 25)):
        assert (await closes(bars, timeframe=D1, adjustment=SPLITS, as_of=to_time(moment)))[0] == [close, 50]


async def test_a_new_action_sends_the_series_again(history, bars):
    aapl, msft = await history.symbol("AAPL"), await history.symbol("MSFT")
    await history.write(msft, days("2024-01-02", [7.0]))
    await history.write(aapl, days("2024-01-02", [100.0, 50.0, 51.0]))
    fields = {"symbol_ids": [aapl, msft], "timeframe": D1, "adjustment": BOTH}
    old = await bars.streamed(**fields)
    since = old.receipt.as_of
    await learn(history, aapl, split("2024-01-03", 1, 2), dividend("2024-01-04", 5.0))
    changes = await bars.streamed(**fields, changed_since=since)
    assert [(one.symbol_id, one.replaces_all, len(one.close)) for one in changes.chunks] == [(aapl, True, 3)]
    assert applied(rows_of(old), changes) == rows_of(await bars.streamed(**fields))
    raw = await bars.streamed(**{**fields, "adjustment": 0}, changed_since=since)
    assert raw.chunks == []


async def test_a_corrected_close_before_a_dividend_sends_the_minutes_again(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, [Row(datetime(2024, 1, 2, 15, tzinfo=UTC), close=100.0)], timeframe=MINUTE)
    await history.write(aapl, days("2024-01-02", [100.0]))
    await learn(history, aapl, dividend("2024-01-03", 10.0))
    fields = {"symbol_ids": [aapl], "timeframe": M1, "adjustment": BOTH}
    old = await bars.streamed(**fields)
    await history.write(aapl, days("2024-01-02", [50.0]))
    changes = await bars.streamed(**fields, changed_since=old.receipt.as_of)
    assert (old.column("close"), changes.column("close")) == ([90.0], [80.0])
    assert changes.chunks[0].replaces_all


async def test_a_series_whose_bars_are_all_gone_is_replaced_by_nothing(history, bars):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, days("2024-01-02", [100.0]))
    fields = {"symbol_ids": [aapl], "timeframe": D1, "adjustment": SPLITS}
    old = await bars.streamed(**fields)
    await learn(history, aapl, split("2024-01-03", 1, 2))
    await history.write(aapl, delete=[day("2024-01-02").ts])
    changes = await bars.streamed(**fields, changed_since=old.receipt.as_of)
    assert [(one.replaces_all, len(one.close)) for one in changes.chunks] == [(True, 0)]
    assert applied(rows_of(old), changes) == {}


async def test_coins_have_no_actions(history, bars):
    coin = await history.symbol("BTC-USD", CRYPTO)
    await history.write(coin, days("2024-01-02", [100.0]))
    assert (await bars.streamed(symbol_ids=[coin], timeframe=D1, adjustment=BOTH)).column("close") == [100.0]


def _anything(chance, symbol_ids):
    """Returns a question with whatever goes together."""
    fields = {
        "symbol_ids": chance.sample(symbol_ids, chance.randint(1, len(symbol_ids))),
        "timeframe": chance.choice([M1, H1, D1, W1]),
        "adjustment": chance.choice([0, SPLITS, BOTH]),
        "hours": chance.choice([0, bars_pb2.HOURS_REGULAR]),
        "min_quality": chance.choice([0, 0.85]),
    }
    if chance.random() < 0.4:
        fields["start_time"] = at("2024-01-10")
    if chance.random() < 0.4:
        fields["end_time"] = at("2024-01-24")
    return fields


async def _something(chance, history, symbol_id):
    """Changes bars of days or minutes, or what is known of actions."""
    what = chance.random()
    if what < 0.3:
        one = chance.choice([split(f"2024-01-{chance.randint(5, 28):02}", 1, 2), dividend("2024-01-16", 0.5)])
        await learn(history, symbol_id, *([one] if chance.random() < 0.7 else []), withdraw=chance.random() < 0.5)
        return
    timeframe = chance.choice([MINUTE, D1])
    unit = timedelta(days=1) if timeframe == D1 else timedelta(minutes=1_111)
    first = datetime(2024, 1, 2, 15, tzinfo=UTC) if timeframe == MINUTE else datetime(2024, 1, 2, tzinfo=UTC)
    times = chance.sample([first + unit * n for n in range(28)], 8)
    gone = times[6:] if chance.random() < 0.5 else []
    put = [Row(ts, close=chance.randint(5, 9), flags=chance.choice([0, 2])) for ts in times[:6]]
    await history.write(symbol_id, put, gone, timeframe=timeframe)


async def test_what_changed_brings_any_question_up_to_date_whatever_happened_meanwhile(history, bars):
    chance = random.Random(18)
    symbol_ids = [await history.symbol("AAPL"), await history.symbol("BTC-USD", CRYPTO)]
    seen = []
    for _ in range(25):
        await _something(chance, history, chance.choice(symbol_ids))
        fields = _anything(chance, symbol_ids)
        seen.append((fields, await bars.streamed(**fields)))
        asked, old = chance.choice(seen)
        changes = await bars.streamed(**asked, changed_since=old.receipt.as_of)
        assert applied(rows_of(old), changes) == rows_of(await bars.streamed(**asked))
        again = await bars.streamed(**asked, as_of=old.receipt.as_of)
        assert [one.SerializeToString() for one in again.chunks] == [one.SerializeToString() for one in old.chunks]
    await history.close()
