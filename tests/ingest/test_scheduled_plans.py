"""What the schedule plans of a series: pure, without a database."""

from __future__ import annotations

from datetime import date

from services.ingest.calendar import day_of
from services.ingest.planner import OpenSlice, Series, TickerSpan
from services.ingest.scheduled_plans import Waiting, plan_scheduled, spans_to_ask
from tests.ingest.backfilling import DAY, MINUTE, STOCK

DAYS = [day_of(date(2018, 1, 1)) + number for number in range(60)]


def minutes_of_a_stock(**fields):
    span = TickerSpan(DAYS[0], DAYS[-1] + 1, "A")
    return Series(
        symbol_id=1, asset_class=STOCK, ticker="A", timeframe=fields.pop("timeframe", MINUTE), tickers=[span], **fields
    )


def test_a_slice_that_takes_many_requests_is_not_made_longer_nor_waited_for():
    large = OpenSlice(9, DAYS[0], DAYS[55])
    found = plan_scheduled(minutes_of_a_stock(open_slices=[large]), DAYS, DAYS[-1] + 1)
    assert (found.plan.shared, [one.first for one in found.plan.slices]) == ([], [DAYS[-3]])


def test_what_was_deleted_is_not_fetched_again():
    found = plan_scheduled(minutes_of_a_stock(deleted=((DAYS[-2], DAYS[-1]),)), DAYS, DAYS[-1] + 1)
    assert [(one.first, one.last) for one in found.plan.slices] == [(DAYS[-3], DAYS[-3]), (DAYS[-1], DAYS[-1])]


def test_a_slice_of_another_ticker_is_not_made_longer():
    other = Waiting(9, "B", DAYS[0], DAYS[57])
    open_slice = OpenSlice(9, DAYS[0], DAYS[57])
    found = plan_scheduled(minutes_of_a_stock(open_slices=[open_slice]), DAYS, DAYS[-1] + 1, waiting=[other])
    assert (found.lengthened, len(found.plan.slices)) == ({}, 1)


def test_sessions_in_doubt_are_asked_for_together_where_one_request_brings_them():
    assert spans_to_ask([(10, 11), (40, 42), (5_000, 5_001)], STOCK, DAY) == [(10, 5_001)]
    assert spans_to_ask([(40, 42), (10, 11), (5_000, 5_001)], STOCK, MINUTE) == [(10, 42), (5_000, 5_001)]
