"""Which ticker a symbol holds from which date to which: both inclusive, and one ticker a day."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.kit.tickers import Spelling

EVER = date(1900, 1, 1)
"""Where the first day under a ticker is not known."""

DAY = timedelta(days=1)


class SpanError(ValueError):
    """A change does not fit the dates that are known; the message is the rule that it breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A ticker and the days on which it is held; to_date is None while that goes on."""

    ticker: str
    provider_ticker: str
    from_date: date
    to_date: date | None = None
    other_symbol_ids: tuple[int, ...] = field(default=(), compare=False)
    """Those that hold the ticker at other dates, oldest first."""

    @property
    def end(self) -> date:
        return self.to_date or date.max

    def covers(self, day: date) -> bool:
        return self.from_date <= day <= self.end

    def overlaps(self, other: Span) -> bool:
        return self.from_date <= other.end and other.from_date <= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A span and whose it is."""

    symbol_id: int
    asset_class: int
    span: Span

    def describe(self) -> str:
        """Says who holds the ticker from when to when."""
        until = f"to {self.span.to_date}" if self.span.to_date else "on"
        return f"symbol {self.symbol_id} holds {self.span.ticker} from {self.span.from_date} {until}"


def holders(found: Iterable[Holding], today: date, on: date | None = None) -> list[Holding]:
    """Returns whose the tickers were on a date; without one whose they are, else the last ones that held them."""
    found = list(found)
    covering = [holding for holding in found if holding.span.covers(on or today)]
    if on or covering:
        return _one_a_symbol(covering)
    latest: dict[tuple[int, str], Holding] = {}
    for holding in sorted(found, key=lambda each: each.span.from_date):
        latest[holding.asset_class, holding.span.ticker] = holding
    return _one_a_symbol(latest.values())


def _one_a_symbol(found: Iterable[Holding]) -> list[Holding]:
    by_symbol = {holding.symbol_id: holding for holding in found}
    return [by_symbol[symbol_id] for symbol_id in sorted(by_symbol)]


def change(spans: list[Span], new: Spelling, from_date: date) -> list[Span]:
    """Returns a symbol's spans once it trades as `new` from a date on; spans are oldest first. Raises SpanError.

    Says the same again: nothing changes. Says another date for a change that is known: that change is moved. Says
    another ticker for a date on which a span begins: that span is renamed.
    """
    at = next((index for index, span in enumerate(spans) if span.covers(from_date)), None)
    if at is None:
        raise SpanError(
            f"is not between {spans[0].from_date} and {spans[-1].to_date or 'now'}, the dates that are known"
        )
    before, span, after = spans[:at], spans[at], spans[at + 1 :]
    if span.ticker == new.ticker:
        return _begin_later(before, span, from_date) + after
    if after and after[0].ticker == new.ticker and span.to_date == after[0].from_date - DAY:
        return [*before, *_until(span, from_date), replace(after[0], from_date=from_date), *after[1:]]
    begun = Span(ticker=new.ticker, provider_ticker=new.provider_ticker, from_date=from_date, to_date=span.to_date)
    return [*before, *_until(span, from_date), begun, *after]


def _begin_later(before: list[Span], span: Span, from_date: date) -> list[Span]:
    if span.from_date == from_date:
        return [*before, span]
    if not before or before[-1].to_date != span.from_date - DAY:
        raise SpanError(f"is later than {span.from_date}, since when the symbol has held this ticker")
    return [*before[:-1], replace(before[-1], to_date=from_date - DAY), replace(span, from_date=from_date)]


def _until(span: Span, day: date) -> list[Span]:
    """Returns a span cut before a day: nothing if it begins there."""
    return [replace(span, to_date=day - DAY)] if span.from_date < day else []


def end(spans: list[Span], was: date | None, now: date | None) -> list[Span]:
    """Returns a symbol's spans once its last day of trading is another; raises SpanError.

    The last span ends with the listing. One that was ended for another reason is left alone.
    """
    *before, last = spans
    if last.to_date not in (None, was):
        return spans
    if now and now < last.from_date:
        raise SpanError(f"is before {last.from_date}, the first day under {last.ticker}")
    return [*before, replace(last, to_date=now)]


def present(spans: Iterable[Span], today: date) -> Span:
    """Returns the span of today, else the last before, else the first to come."""
    return min(spans, key=lambda span: (span.from_date > today, abs(today - span.from_date)))


def clash(new: Span, asset_class: int, found: Iterable[Holding]) -> tuple[Holding | None, bool]:
    """Returns who holds a ticker that is to be registered, on some of its days, and whether that is the same symbol.

    It is the same symbol if it is of the class and holds the ticker as long: the first day may be better known.
    """
    taken = sorted(found, key=lambda holding: holding.span.from_date)
    for holding in taken:
        if holding.asset_class == asset_class and holding.span.to_date == new.to_date:
            return holding, True
    return (taken[-1], False) if taken else (None, False)
