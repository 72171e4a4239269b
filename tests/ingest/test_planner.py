"""Planning a series: exactly the sessions that are missing, each once, under the ticker of its day."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.calendar import day_of
from services.ingest.planner import (
    MISSING,
    REFETCH,
    OpenSlice,
    Plan,
    Series,
    Slice,
    TickerSpan,
    estimated_bars,
    estimated_seconds,
    intersect,
    plan_series,
    subtract,
)
from services.ingest.timeframes import DAY, MINUTE

STOCK, CRYPTO = 1, 3
DAYS = [day for day in range(200) if day % 7 not in (2, 3) and day % 31 != 11]

ranges = st.lists(st.tuples(st.integers(0, 210), st.integers(0, 40)).map(lambda x: (x[0], x[0] + x[1])), max_size=5)


@st.composite
def cuts(draw):
    """Ticker spans that follow each other, with or without days between."""
    spans, start = [], draw(st.integers(-50, 60))
    for number in range(draw(st.integers(1, 4))):
        end = start + draw(st.integers(1, 90))
        spans.append(TickerSpan(start, end, f"T{number}"))
        start = end + draw(st.sampled_from([0, 0, 1, 9]))
    return spans


spans = st.tuples(st.integers(0, 200), st.integers(0, 200))
open_slices = ranges.map(lambda found: [OpenSlice(i, *one) for i, one in enumerate(found) if one[0] < one[1]])


def series(**fields):
    defaults = {"tickers": [TickerSpan(-10_000, 1_000_000, "T")], "timeframe": DAY, "asset_class": STOCK}
    return Series(symbol_id=1, ticker="T", **{**defaults, **fields})


def sessions_in(found):
    return {day for first, end in found for day in DAYS if first <= day < end}


def sessions_of(plan):
    return [day for planned in plan.slices for day in DAYS if planned.first <= day <= planned.last]


@given(st.tuples(ranges, ranges, ranges), cuts(), open_slices, spans)
def test_slices_cover_exactly_the_missing_sessions_and_each_once(given_up_or_held, tickers, open_, span):
    asked, outside, deleted = given_up_or_held
    known = {"asked": tuple(asked), "outside_plan": tuple(outside), "deleted": tuple(deleted)}
    plan = plan_series(series(**known, tickers=tickers, open_slices=open_), MISSING, DAYS, *span)
    wanted = sessions_in([span]) & sessions_in([(one.first, one.end) for one in tickers])
    missing = wanted - sessions_in(asked) - sessions_in(outside) - sessions_in(deleted)
    planned = sessions_of(plan)
    shared = sessions_in([(one.first, one.end) for one in open_ if one.slice_id in plan.shared])
    assert len(planned) == len(set(planned))
    assert set(planned) == missing - sessions_in([(one.first, one.end) for one in open_])
    assert set(planned) | (shared & missing) == missing
    assert plan.sessions_held == len((wanted & sessions_in(asked)) - sessions_in(deleted))


@given(ranges, ranges, cuts(), spans)
def test_a_refetch_covers_all_sessions_whatever_is_known(asked, deleted, tickers, span):
    known = series(asked=tuple(asked), deleted=tuple(deleted), outside_plan=tuple(asked), tickers=tickers)
    plan = plan_series(known, REFETCH, DAYS, *span)
    assert set(sessions_of(plan)) == sessions_in([span]) & sessions_in([(one.first, one.end) for one in tickers])


@given(ranges, cuts())
def test_each_slice_lies_within_one_ticker_and_begins_and_ends_with_a_session(asked, tickers):
    plan = plan_series(series(asked=tuple(asked), tickers=tickers), MISSING, DAYS, 0, 200)
    spans = {one.provider_ticker: one for one in tickers}
    for planned in plan.slices:
        span = spans[planned.provider_ticker]
        assert span.first <= planned.first <= planned.last < span.end
        assert planned.first in DAYS
        assert planned.last in DAYS
        assert planned.sessions == len([day for day in DAYS if planned.first <= day <= planned.last])


@given(ranges, cuts())
def test_neighbouring_slices_have_a_session_or_a_change_of_ticker_between_them(asked, tickers):
    plan = plan_series(series(asked=tuple(asked), tickers=tickers), MISSING, DAYS, 0, 200)
    for before, after in zip(plan.slices, plan.slices[1:], strict=False):
        between = [day for day in DAYS if before.last < day < after.first]
        assert between or before.provider_ticker != after.provider_ticker


@given(ranges, ranges)
def test_set_arithmetic_agrees_with_sets(left, right):
    left, right = disjoint(left), disjoint(right)
    assert points(intersect(left, right)) == points(left) & points(right)
    assert points(subtract(left, right)) == points(left) - points(right)


def disjoint(found):
    days = sorted(points(found))
    starts = [day for day in days if day - 1 not in days]
    return [(start, next(day for day in range(start, 400) if day not in days)) for start in starts]


def points(found):
    return {day for first, end in found for day in range(first, end)}


@pytest.mark.parametrize(
    ("known", "reasons"),
    [
        ({"asked": ((0, 200),)}, ["held"]),
        ({"deleted": ((0, 100),)}, ["deleted"]),
        ({"outside_plan": ((0, 50),), "deleted": ((60, 70),)}, ["outside the plan", "deleted"]),
        ({"tickers": [TickerSpan(100, 300, "T")]}, ["no ticker of the symbol is known"]),
    ],
)
def test_what_is_not_planned_is_said_with_its_reason(known, reasons):
    plan = plan_series(series(**known), MISSING, DAYS, 0, 200)
    assert [one.reason for one in plan.skipped] == reasons


def test_a_span_without_a_session_is_said_so():
    plan = plan_series(series(), MISSING, DAYS, 2, 4)
    assert (plan.slices, [one.reason for one in plan.skipped]) == ([], ["no closed session in the span"])


def test_a_day_is_one_bar_and_a_coin_has_a_bar_every_minute():
    assert estimated_bars(STOCK, DAY, 10) == 10
    assert estimated_bars(STOCK, MINUTE, 10) == 6_000
    assert estimated_bars(CRYPTO, MINUTE, 10) == 14_400


def test_a_request_brings_fifty_thousand_bars_and_a_slice_takes_one_at_least():
    assert Slice(1, STOCK, DAY, "T", 0, 9, 8).requests == 1
    assert Slice(1, CRYPTO, MINUTE, "T", 0, 69, 70).requests == 3


def test_nothing_is_expected_before_the_listing_but_it_is_asked_for():
    (planned,) = plan_series(series(listed=100), MISSING, DAYS, 0, 200).slices
    assert (planned.first, planned.last) == (DAYS[0], DAYS[-1])
    assert planned.bars == len([day for day in DAYS if day >= 100])
    (before,) = plan_series(series(listed=300), MISSING, DAYS, 0, 200).slices
    assert (before.bars, before.requests) == (0, 1)


def test_the_limit_of_requests_decides_how_long_it_takes():
    assert estimated_seconds(5, 5, requests_per_minute=5) < 5
    assert estimated_seconds(15, 15, requests_per_minute=5) == pytest.approx(124)
    assert estimated_seconds(100, 0, requests_per_minute=0) == pytest.approx(30)
    assert estimated_seconds(100, 0, requests_per_minute=0, workers=2) == pytest.approx(15)


def test_plans_add_up():
    plan, other = (plan_series(series(), MISSING, DAYS, first, first + 50) for first in (0, 100))
    total = Plan()
    total.add(plan)
    total.add(other)
    assert total.bars == plan.bars + other.bars
    assert total.requests == 2
    assert total.bytes == total.bars * 140


def test_days_are_numbered_from_1970():
    first = day_of(date(2024, 1, 2))
    days = [first + n for n in range(3)]
    plan = plan_series(series(), MISSING, days, first, first + 3)
    assert date(1970, 1, 1) + timedelta(days=plan.slices[0].first) == date(2024, 1, 2)
