"""The bars, listings and splits that the replay serves, rendered once in Polygon's spelling."""

from __future__ import annotations

import csv
import gzip
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from deploy.local.windows import NEW_YORK, instant_of, session_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BARS_FOLDER = Path(__file__).parent / "bars"
ALWAYS = (date.min, date.max)
VALUES = ("open", "high", "low", "close", "volume")
TIMESPAN_OF_FILE = {"1d": "day", "1m": "minute"}


@dataclass(frozen=True, slots=True)
class BaseBar:
    """One recorded bar; `start` in milliseconds since 1970, volume weighted price and trades where known."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float | None = None
    trades: int | None = None


@dataclass(frozen=True)
class Split:
    """From `execution_date` on, `split_from` shares are `split_to`."""

    ticker: str
    execution_date: date
    split_from: float
    split_to: float


@dataclass(frozen=True)
class Dividend:
    """A share that is held before `ex_date` gets `cash`, in US dollars; frequency a year, 0 for once."""

    ticker: str
    ex_date: date
    cash: float
    frequency: int
    type: str


@dataclass(frozen=True)
class Series:
    """The base bars of one listing in one timespan, ascending."""

    bars: Sequence[BaseBar]
    splits: Sequence[Split] = ()

    @cached_property
    def starts(self) -> list[int]:
        """The bars' starts, for bisection."""
        return [bar.start for bar in self.bars]

    @cached_property
    def adjusted_bars(self) -> list[BaseBar]:
        """The bars on the basis of the newest split."""
        return list(_adjust(self.bars, self.splits))

    @cached_property
    def _raw(self) -> list[bytes]:
        return [render(bar) for bar in self.bars]

    @cached_property
    def _adjusted(self) -> list[bytes]:
        return [render(bar) for bar in self.adjusted_bars] if self.splits else self._raw

    def rendered(self, *, adjusted: bool) -> list[bytes]:
        """Returns every bar as JSON, in the order of the bars."""
        return self._adjusted if adjusted else self._raw

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Returns the indexes [first, last) of the bars that start within [start, end], both inclusive."""
        return bisect_left(self.starts, start), bisect_right(self.starts, end)


@dataclass(frozen=True)
class Listing:
    """One ticker and the dates, both inclusive, on which it was this company's."""

    ticker: str
    market: str
    first_date: date = date.min
    last_date: date = date.max
    row: dict[str, str] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)


class Market(Protocol):
    """What the replay asks: listings, splits, and one series by ticker and base timespan."""

    @property
    def listings(self) -> Sequence[Listing]:
        """Every ticker, with its dates."""

    @property
    def splits(self) -> Sequence[Split]:
        """The splits known today."""

    @property
    def dividends(self) -> Sequence[Dividend]:
        """The dividends known today."""

    def find(self, ticker: str, timespan: str) -> Series | None:
        """Returns a ticker's base bars ("minute" or "day"), or None if there are none."""


class RecordedMarket:
    """The recorded bars of a folder; `today` hides splits and dividends of its future."""

    def __init__(self, folder: Path = BARS_FOLDER, *, today: date = date.max) -> None:
        self.splits = [split for split in read_splits(folder) if split.execution_date <= today]
        self.dividends = [one for one in read_dividends(folder) if one.ex_date <= today]
        bars = _read_bars(folder)
        self.listings = [self._listing(row, bars) for row in _read_csv(folder / "tickers.csv")]
        self._by_ticker = {listing.ticker: listing for listing in self.listings}

    def find(self, ticker: str, timespan: str) -> Series | None:
        """Returns a ticker's base bars, or None if there are none; tickers are case-sensitive."""
        listing = self._by_ticker.get(ticker)
        return listing.series.get(timespan) if listing else None

    def _listing(self, row: dict[str, str], bars: dict[tuple[str, str], list[BaseBar]]) -> Listing:
        first, last = (
            date.fromisoformat(row[name]) if row[name] else limit
            for name, limit in zip(("first_date", "last_date"), ALWAYS, strict=True)
        )
        listing = Listing(row["ticker"], row["market"], first, last, row)
        splits = [split for split in self.splits if split.ticker == row["ticker"]]
        for timespan in TIMESPAN_OF_FILE.values():
            own = [
                bar for bar in bars.get((row["file_ticker"], timespan), ()) if first <= session_of(bar.start) <= last
            ]
            if own:
                listing.series[timespan] = Series(own, splits)
        return listing


def number(value: float) -> str:
    """Spells a number as Polygon mostly does: whole ones without a fraction."""
    return str(int(value)) if value == int(value) else repr(value)


def render(bar: BaseBar) -> bytes:
    """Returns a bar as JSON, with the keys in the order that recordings show."""
    vwap = f'"vw":{number(bar.vwap)},' if bar.vwap is not None else ""
    trades = f',"n":{bar.trades}' if bar.trades is not None else ""
    return (
        f'{{"v":{number(bar.volume)},{vwap}"o":{number(bar.open)},"c":{number(bar.close)},"h":{number(bar.high)},'
        f'"l":{number(bar.low)},"t":{bar.start}{trades}}}'
    ).encode()


def read_splits(folder: Path) -> Iterator[Split]:
    """Reads splits.csv."""
    for row in _read_csv(folder / "splits.csv"):
        day = date.fromisoformat(row["execution_date"])
        yield Split(row["ticker"], day, float(row["split_from"]), float(row["split_to"]))


def read_dividends(folder: Path) -> Iterator[Dividend]:
    """Reads dividends.csv."""
    for row in _read_csv(folder / "dividends.csv"):
        day, cash = date.fromisoformat(row["ex_dividend_date"]), float(row["cash_amount"])
        yield Dividend(row["ticker"], day, cash, int(row["frequency"]), row["dividend_type"])


def _adjust(bars: Iterable[BaseBar], splits: Sequence[Split]) -> Iterator[BaseBar]:
    for bar in bars:
        day = session_of(bar.start)
        factor = prod(split.split_from / split.split_to for split in splits if day < split.execution_date)
        yield BaseBar(
            bar.start,
            open=round(bar.open * factor, 4),
            high=round(bar.high * factor, 4),
            low=round(bar.low * factor, 4),
            close=round(bar.close * factor, 4),
            volume=round(bar.volume / factor, 6),
            vwap=None if bar.vwap is None else round(bar.vwap * factor, 4),
            trades=bar.trades,
        )


def _read_csv(path: Path) -> Iterator[dict[str, str]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    yield from csv.DictReader(content.decode().splitlines())


def _read_bars(folder: Path) -> dict[tuple[str, str], list[BaseBar]]:
    bars: dict[tuple[str, str], list[BaseBar]] = {}
    for path in sorted(folder.glob("*.csv.gz")):
        for row in _read_csv(path):
            series = bars.setdefault((row["ticker"], TIMESPAN_OF_FILE[row["timeframe"]]), [])
            opening, high, low, close, volume = (float(row[name]) for name in VALUES)
            series.append(BaseBar(_start(row), opening, high, low, close, volume))
    for series in bars.values():
        series.sort(key=lambda bar: bar.start)
    return bars


def _start(row: dict[str, str]) -> int:
    """Returns a row's instant: crypto days are UTC, all else is New York wall-clock time."""
    zone = UTC if row["asset_class"] == "crypto" else NEW_YORK
    return instant_of(datetime.fromisoformat(row["start"]), zone)
