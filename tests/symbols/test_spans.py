"""Which ticker a symbol holds when."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.tickers import ETF, STOCK, Spelling
from services.symbols.spans import EVER, Holding, Span, SpanError, change, end, holders

TODAY = date(2026, 1, 2)
JUNE_9 = date(2022, 6, 9)
FB, META, METV = (Spelling(STOCK, ticker, ticker) for ticker in ("FB", "META", "METV"))


def span(ticker: str, from_date: date = EVER, to_date: date | None = None) -> Span:
    return Span(ticker=ticker, provider_ticker=ticker, from_date=from_date, to_date=to_date)


def holding(symbol_id: int, asset_class: int, held: Span) -> Holding:
    return Holding(symbol_id=symbol_id, asset_class=asset_class, span=held)


META_SPANS = [span("FB", date(2012, 5, 18), date(2022, 6, 8)), span("META", JUNE_9)]
META_ETF = holding(1, ETF, span("META", EVER, date(2022, 1, 28)))
META_STOCK = holding(2, STOCK, META_SPANS[1])


def test_a_bare_ticker_means_its_present_holder():
    """META is the stock now, whoever held it before."""
    assert holders([META_ETF, META_STOCK], TODAY) == [META_STOCK]


def test_a_ticker_at_a_date_means_who_held_it_then():
    """META in 2021 was the ETF; in March 2022 nobody's."""
    assert holders([META_ETF, META_STOCK], TODAY, date(2021, 7, 1)) == [META_ETF]
    assert holders([META_ETF, META_STOCK], TODAY, date(2022, 3, 1)) == []


def test_a_ticker_that_nobody_holds_means_its_last_holder():
    """FB finds Meta, and of two former holders the later one."""
    older = holding(3, STOCK, span("FB", EVER, date(2012, 1, 1)))
    assert holders([holding(2, STOCK, META_SPANS[0]), older], TODAY) == [holding(2, STOCK, META_SPANS[0])]


def test_former_holders_of_two_classes_are_two_candidates():
    """A class each: nobody can say which was meant."""
    stock = holding(2, STOCK, span("X", EVER, date(2001, 1, 1)))
    fund = holding(4, ETF, span("X", date(2010, 1, 1), date(2012, 1, 1)))
    assert holders([fund, stock], TODAY) == [stock, fund]


def test_a_change_cuts_the_span_it_falls_into():
    """FB until the day before, META from the day on."""
    assert change([span("FB")], META, JUNE_9) == [span("FB", EVER, date(2022, 6, 8)), span("META", JUNE_9)]


def test_the_same_change_again_changes_nothing():
    """A fact that is known is no news."""
    assert change(META_SPANS, META, JUNE_9) == META_SPANS


@pytest.mark.parametrize("day", [date(2022, 6, 11), date(2022, 6, 2)])
def test_another_date_moves_the_change(day):
    """The day of a change can be put right, in both directions."""
    moved = change(META_SPANS, META, day)
    assert moved == [span("FB", date(2012, 5, 18), day - timedelta(days=1)), span("META", day)]


def test_another_ticker_for_the_same_day_renames():
    """A mistaken ticker can be put right; so can the one held first."""
    assert change(META_SPANS, METV, JUNE_9) == [META_SPANS[0], span("METV", JUNE_9)]
    assert change([span("META")], FB, EVER) == [span("FB")]


def test_a_change_in_a_closed_span_keeps_its_end():
    """A symbol that is delisted stays so."""
    closed = [span("A", EVER, date(2010, 1, 1))]
    assert change(closed, FB, date(2005, 1, 1))[-1] == span("FB", date(2005, 1, 1), date(2010, 1, 1))


def test_dates_outside_of_what_is_known_are_refused():
    """Before the first day and after the last no ticker can change."""
    with pytest.raises(SpanError, match="2012-05-18 and now"):
        change(META_SPANS, METV, date(2012, 5, 17))
    with pytest.raises(SpanError, match="2010-01-01"):
        change([span("A", EVER, date(2010, 1, 1))], FB, date(2010, 1, 2))


def test_a_ticker_held_already_cannot_begin_later_without_another_before():
    """Nobody would know what it was called until then."""
    with pytest.raises(SpanError, match="since when"):
        change([span("META")], META, JUNE_9)


def test_the_last_span_ends_with_the_listing():
    """It is closed, moved and opened again with the last day of trading."""
    day = date(2024, 1, 5)
    closed = end(META_SPANS, None, day)
    assert closed == [META_SPANS[0], span("META", JUNE_9, day)]
    assert end(closed, day, None) == META_SPANS
    with pytest.raises(SpanError, match="2022-06-09"):
        end(META_SPANS, None, date(2022, 6, 8))


def test_a_span_ended_for_another_reason_stays():
    """A ticker given up before the end of the listing is not taken up again."""
    closed = [span("A", EVER, date(2010, 1, 1))]
    assert end(closed, date(2012, 1, 1), None) == closed


days = st.integers(0, 60).map(lambda day: date(2020, 1, 1) + timedelta(days=day))
changes = st.lists(st.tuples(st.sampled_from([FB, META, METV]), days), max_size=12)


@given(changes, st.one_of(st.none(), days))
def test_spans_never_overlap_nor_leave_a_gap(said, last_day):
    """Whatever is told in whatever order: each day has one ticker, and what was said last holds."""
    first = span("FB", date(2020, 1, 1), last_day)
    spans = [first]
    for new, day in said:
        try:
            spans = change(spans, new, day)
        except SpanError:
            continue
        assert next(each for each in spans if each.covers(day)).ticker == new.ticker
        assert change(spans, new, day) == spans
    assert (spans[0].from_date, spans[-1].to_date) == (first.from_date, last_day)
    assert all(one.to_date == other.from_date - timedelta(days=1) for one, other in pairwise(spans))
    assert all(each.from_date <= each.end for each in spans)
