"""Plans what to ask the provider for, besides bars: in which slices, so that it takes few requests. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from services.ingest.corporate_actions import SUBJECTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

MOST_TICKERS = 100
"""Tickers in one request: an address stays below 2,000 characters."""

PAGE_ROWS = 5_000
"""The most actions that one request brings."""

# Actions a year: of one stock, and of the whole market.
_OF_ONE = {"splits": 0.06, "dividends": 3.0}
_OF_ALL = {"splits": 2_500, "dividends": 60_000}


@dataclass(frozen=True, slots=True)
class SyncSlice:
    """A slice: what is asked for, and of which tickers; none means all."""

    subject: str
    tickers: tuple[str, ...] = ()


def plan_actions(tickers: Iterable[Sequence[str]], first: date, last: date) -> list[SyncSlice]:
    """Plans splits and dividends from first to last; tickers come symbol by symbol, which are not torn apart.

    The whole market is asked for where that takes fewer requests than the symbols do.
    """
    years = max((last - first).days, 1) / 365.25
    batches = list(_batches(tickers))
    planned = []
    for subject in SUBJECTS:
        named = sum(ceil(len(batch) * _OF_ONE[subject] * years / PAGE_ROWS) for batch in batches)
        if batches and ceil(_OF_ALL[subject] * years / PAGE_ROWS) < named:
            planned.append(SyncSlice(subject))
        else:
            planned += [SyncSlice(subject, batch) for batch in batches]
    return planned


def _batches(tickers: Iterable[Sequence[str]]) -> Iterable[tuple[str, ...]]:
    batch: dict[str, None] = {}
    for own in tickers:
        if batch and len(batch.keys() | set(own)) > MOST_TICKERS:
            yield tuple(batch)
            batch = {}
        batch.update(dict.fromkeys(own))
    if batch:
        yield tuple(batch)
