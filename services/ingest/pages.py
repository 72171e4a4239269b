"""Decodes the provider's pages of bars into columns, in one pass; odd ones row by row, so that nothing is lost."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from itertools import chain
from math import inf, isfinite, isnan, nan
from operator import attrgetter
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from services.ingest.columns import NO_TIME, Columns, no_bars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from services.ingest.columns import FloatArray

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
# What a page of plain bars is made of.
_RESULTS = b'"results":['
_NAME = re.compile(rb'"([a-z]+)":')
_NUMERALS = b"0123456789.-"
_TO_LINES = bytes.maketrans(b'}"', b"\n ")
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
    regular = _decode_regular(body)
    if regular is not None:
        return regular
    try:
        page = _page.decode(body)
    except msgspec.ValidationError:
        return _decode_row_by_row(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PageError(f"no JSON: {error}") from error
    rows = page.results or []
    flat = np.fromiter(chain.from_iterable(map(_values, rows)), np.float64, len(rows) * len(_FIELDS))
    return Page(page, _to_columns(flat), body)


def _decode_regular(body: bytes) -> Page | None:
    """Decodes a page whose bars all have the same fields in the same order, in half the time; None for any other page.

    A number that JSON would spell otherwise (01, 1.) counts as what it says.
    """
    start, end = body.find(_RESULTS) + len(_RESULTS), body.rfind(b"]")
    if not len(_RESULTS) <= start < end:
        return None
    rows = body[start:end]
    names = _names_of_all(rows)
    if names is None:
        return None
    try:
        page = _page.decode(body[:start] + body[end:])
        table = _read_table(rows, names)
    except (msgspec.DecodeError, UnicodeDecodeError, pl.exceptions.PolarsError):
        return None
    values = {name: table[name].to_numpy() for name in names}
    if page.results != [] or not all(np.isfinite(column).all() for column in values.values()):
        return None
    missing = zip(_FIELDS, Row.__struct_defaults__, strict=True)
    return Page(page, _of_values({name: np.full(len(table), float(one)) for name, one in missing} | values), body)


def _names_of_all(rows: bytes) -> list[str] | None:
    """Returns the fields of the bars; None unless all have the same ones, in one order, with nothing but numbers."""
    without = rows.translate(None, _NUMERALS)
    first = without[: without.find(b"}") + 1]
    names = [name.decode() for name in _NAME.findall(first)]
    if not first or first != b"{" + b",".join(b'"%s":' % name.encode() for name in names) + b"}":
        return None
    if not set(names) <= set(_FIELDS) or len(set(names)) < len(names):
        return None
    count = (len(without) + 1) // (len(first) + 1)
    return names if without + b"," == (first + b",") * count else None


def _read_table(rows: bytes, names: Sequence[str]) -> pl.DataFrame:
    """Reads bars as lines of a CSV file; raises PolarsError.

    The comma after a bar begins the next line. A quote becomes a space, so that a digit in a name makes two numbers of
    one.
    """
    lines = b"," + rows.translate(_TO_LINES, b"{:" + ascii_lowercase.encode())
    schema = {"": pl.String, **dict.fromkeys(names, pl.Float64)}
    return pl.read_csv(io.BytesIO(lines), has_header=False, schema=schema)


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
    return _of_values(dict(zip(_FIELDS, np.ascontiguousarray(flat.reshape(-1, len(_FIELDS)).T), strict=True)))


def _of_values(values: dict[str, FloatArray]) -> Columns:
    """Returns bars of their fields as sent."""
    times, counts, vwap = values["t"], values["n"], values["vw"]
    known = (times != _NOT_A_TIME) & (times == np.floor(times))
    ts = np.where(known, np.clip(times, -_FARTHEST_MS, _FARTHEST_MS).astype(np.int64), NO_TIME)
    countable = (counts >= 0) & (counts <= _MOST_TRADES)
    trade_count = np.where(countable, counts, _NO_COUNT).astype(np.int64)
    vwap = np.where(np.isfinite(vwap), vwap, nan)
    return Columns(ts, values["o"], values["h"], values["l"], values["c"], values["v"], vwap, trade_count)
