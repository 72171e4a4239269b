"""A made-up market for load tests and benchmarks only: any number of tickers, all with the same bars."""

from __future__ import annotations

import warnings
from datetime import date, datetime, time, timedelta
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING

import exchange_calendars

from deploy.local.market import BaseBar, Listing, Series
from deploy.local.windows import NEW_YORK, instant_of, midnight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.local.market import Dividend, Split

SEED = 20_000_101
SESSION_MINUTES = 390
MINUTE = 60_000
OPENING = time(9, 30)
WEEK = timedelta(days=7)


class LoadMarket:
    """Tickers LOAD00000, LOAD00001, ... with one bar a session and 390 a session of minutes, `last` inclusive."""

    def __init__(self, tickers: int, first: date, last: date) -> None:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # the library's own, of pandas
            calendar = exchange_calendars.get_calendar("XNYS", start=first - WEEK, end=last + WEEK)
            self._sessions = [stamp.date() for stamp in calendar.sessions_in_range(str(first), str(last))]
        self.listings = [Listing(f"LOAD{index:05}", "stocks", row=_row(index)) for index in range(tickers)]
        self._names = {listing.ticker for listing in self.listings}

    @property
    def splits(self) -> Sequence[Split]:
        """None."""
        return ()

    @property
    def dividends(self) -> Sequence[Dividend]:
        """None."""
        return ()

    def find(self, ticker: str, timespan: str) -> Series | None:
        """Returns the bars that all tickers share."""
        if ticker not in self._names:
            return None
        return {"day": self._days, "minute": self._minutes}[timespan] if timespan in ("day", "minute") else None

    @cached_property
    def _days(self) -> Series:
        return Series(list(_walk(midnight(day, NEW_YORK) for day in self._sessions)))

    @cached_property
    def _minutes(self) -> Series:
        openings = (instant_of(datetime.combine(day, OPENING), NEW_YORK) for day in self._sessions)
        return Series(list(_walk(at + index * MINUTE for at in openings for index in range(SESSION_MINUTES))))


def _row(index: int) -> dict[str, str]:
    return {"name": f"Load test {index}", "type": "CS", "primary_exchange": "XNYS", "cik": ""}


def _walk(starts: Iterator[int]) -> Iterator[BaseBar]:
    random = Random(SEED)  # noqa: S311 - the same bars every time
    price = 100.0
    for start in starts:
        opening = price
        price = round(max(1.0, price * (1 + random.uniform(-0.005, 0.005))), 2)
        high = round(max(opening, price) + random.uniform(0, 0.2), 2)
        low = round(min(opening, price) - random.uniform(0, 0.2), 2)
        volume = random.randint(5_000, 50_000)
        yield BaseBar(start, opening, high, low, price, volume, round((high + low) / 2, 4), random.randint(50, 500))
