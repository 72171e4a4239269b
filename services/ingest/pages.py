"""Decodes the provider's pages of bars into columns, in one pass; odd ones row by row, so that nothing is lost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from math import inf, isfinite, isnan, nan
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from services.ingest.columns import NO_TIME, Columns, no_bars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_NO_COUNT = -1
_MOST_TRADES = 2**31 - 1
# Beyond what any calendar knows, and far from where arithmetic on times would wrap around.
_FARTHEST_MS = 2.0**52
_NOT_A_TIME = float(NO_TIME)


class Row(msgspec.Struct, gc=False):
    """One bar as it is sent; what is missing is as Columns has it."""

    o: float = nan
    h: float = nan
    l: float = nan  # noqa: E741 - the provider's name
    c: float = nan
    v: float = nan
    vw: float = nan
    t: int = NO_TIME
    n: int = _NO_COUNT


class Head(msgspec.Struct):
    """What a page says besides its bars."""

    status: str = ""
    ticker: str = ""
    adjusted: bool | None = None
    next_url: str | None = None
    error: str | None = None
    message: str | None = None


class _Page(Head):
    results: list[Row] | None = None


class _RawPage(Head):
    results: list[msgspec.Raw] | None = None


_FIELDS = tuple(Row.__struct_fields__)
_values = attrgetter(*_FIELDS)
_page = msgspec.json.Decoder(_Page)
_raw_page = msgspec.json.Decoder(_RawPage)
_head = msgspec.json.Decoder(Head)


class GroupedRow(Row, gc=False):
    """One bar of a day of the whole market."""

    T: str = ""


class _GroupedPage(Head):
    results: list[GroupedRow] | None = None


_grouped_page = msgspec.json.Decoder(_GroupedPage)


class PageError(Exception):
    """A body that is no page: cut, not JSON, or of another shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """A page of bars in the provider's order; ts as sent, in milliseconds."""

    head: Head
    bars: Columns
    body: bytes

    def raw(self, positions: Sequence[int]) -> list[str]:
        """Returns the JSON text of the bars at these positions, exactly as it came."""
        if not len(positions):
            return []
        rows = _raw_page.decode(self.body).results or []
        return [bytes(rows[position]).decode("utf-8", "replace") for position in positions]


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """A day of the whole market: bars with their tickers, in the provider's order; ts as sent, in milliseconds."""

    page: Page
    tickers: list[str]

    @property
    def bars(self) -> Columns:
        return self.page.bars


def decode_grouped(body: bytes) -> Grouped:
    """Decodes a day of the whole market; raises PageError."""
    try:
        page = _grouped_page.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        loose = decode_page(body)
        found = [_loads(bytes(raw)) for raw in _raw_page.decode(body).results or []]
        return Grouped(loose, [str(one.get("T") or "") for one in found])
    rows = page.results or []
    flat = np.fromiter(chain.from_iterable(map(_values, rows)), np.float64, len(rows) * len(_FIELDS))
    return Grouped(Page(page, _to_columns(flat), body), [row.T for row in rows])


def decode_head(body: bytes) -> Head:
    """Returns what a body says of itself; an empty head if it is none of the provider's."""
    try:
        return _head.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Head()


def decode_page(body: bytes) -> Page:
    """Decodes a page; raises PageError."""
    try:
        page = _page.decode(body)
    except msgspec.ValidationError:
        return _decode_row_by_row(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PageError(f"no JSON: {error}") from error
    rows = page.results or []
    flat = np.fromiter(chain.from_iterable(map(_values, rows)), np.float64, len(rows) * len(_FIELDS))
    return Page(page, _to_columns(flat), body)


def _decode_row_by_row(body: bytes) -> Page:
    """Decodes a page in which some bar has a value of another type: there, that value is missing."""
    try:
        page = _raw_page.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PageError(f"not a page: {error}") from error
    rows = [_loose_values(bytes(raw)) for raw in page.results or []]
    flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * len(_FIELDS))
    return Page(page, _to_columns(flat), body)


def _loads(raw: bytes) -> dict[str, Any]:
    try:
        found: Any = json.loads(raw.decode("utf-8", "replace"))
    except ValueError:  # a number of thousands of digits
        found = None
    return found if isinstance(found, dict) else {}


def _loose_values(raw: bytes) -> list[float]:
    row = _loads(raw)
    return [_number(row.get(name), default) for name, default in zip(_FIELDS, Row.__struct_defaults__, strict=True)]


def _number(value: Any, default: float) -> float:
    """Reads a number of any size; an infinite time or count is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float(default)
    try:
        number = float(value)
    except OverflowError:
        number = inf if value > 0 else -inf
    return number if isnan(default) or isfinite(number) else float(default)


def _to_columns(flat: NDArray[np.float64]) -> Columns:
    if not len(flat):
        return no_bars()
    table = np.ascontiguousarray(flat.reshape(-1, len(_FIELDS)).T)
    opens, high, low, close, volume, vwap, times, counts = table
    ts = np.full(len(times), NO_TIME, np.int64)
    known = (times != _NOT_A_TIME) & (times == np.floor(times))
    ts[known] = np.clip(times[known], -_FARTHEST_MS, _FARTHEST_MS).astype(np.int64)
    countable = (counts >= 0) & (counts <= _MOST_TRADES)
    trade_count = np.where(countable, counts, _NO_COUNT).astype(np.int64)
    return Columns(ts, opens, high, low, close, volume, np.where(np.isfinite(vwap), vwap, nan), trade_count)
