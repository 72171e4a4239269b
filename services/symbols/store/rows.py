"""What the registry's tables and ingest's figures hold, as the service knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.kit.errors import InvalidArgument

DAILY = 7
"""The timeframe that is kept fresh where nothing else is said: a number of mdw.type.v1.Timeframe."""

if TYPE_CHECKING:
    from datetime import date, datetime

    from services.kit.tickers import Spelling
    from services.symbols.spans import Holding, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is said of a symbol besides its tickers; '' and None where unknown."""

    name: str = ""
    exchange: str = ""
    type: str = ""
    figi: str = ""
    list_date: date | None = None
    delist_date: date | None = None
    timeframes: tuple[int, ...] = (DAILY,)

    def check(self, prefix: str) -> None:
        """Raises InvalidArgument if the symbol would be delisted before it is listed."""
        if self.list_date and self.delist_date and self.delist_date < self.list_date:
            raise InvalidArgument(prefix + "delist_date", f"is before {self.list_date}, the list_date")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSymbol:
    """A symbol to be registered, with its first span."""

    asset_class: int
    span: Span
    details: Details
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesState:
    """How far the work on one series has come; state is a number of mdw.symbols.v1.BackfillState."""

    timeframe: int
    state: int
    last_error: str
    last_success_time: datetime | None
    watermark: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """A row of the registry, its spans oldest first, its series by timeframe."""

    symbol_id: int
    asset_class: int
    details: Details
    active: bool
    spans: tuple[Span, ...]
    present: Span
    series: tuple[SeriesState, ...]
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Names a symbol: by all that a typed ticker may mean, or by its id."""

    text: str = ""
    readings: tuple[Spelling, ...] = ()
    symbol_id: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """The symbol that a key names, and the span of the ticker by which it was found."""

    symbol_id: int
    span: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Chooses symbols; None and '' choose all. Text is what a ticker begins with or a name contains, in any case."""

    asset_class: int | None = None
    active_only: bool = False
    state: int | None = None
    search: str = ""
    listed_on: date | None = None
    exchange: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a row of an import: created, unless it existed, or was taken by another symbol or row."""

    symbol_id: int = 0
    existed: bool = False
    taken_by: Holding | None = None
    taken_by_row: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFigures:
    """What is held of one series; ordinals number the sessions of its calendar, None without bars."""

    state: SeriesState
    bars: int
    first_ts: datetime | None
    last_ts: datetime | None
    validated: int
    rejected: int
    sessions_present: int
    first_ordinal: int | None
    last_ordinal: int | None
    closed_ordinal: int | None

    @property
    def sessions_expected(self) -> int:
        """Sessions from the first bar's to the last bar's."""
        if self.first_ordinal is None or self.last_ordinal is None:
            return 0
        return max(self.last_ordinal - self.first_ordinal + 1, 0)

    @property
    def sessions_behind(self) -> int | None:
        """Sessions closed since the last bar's; None without bars."""
        if self.last_ordinal is None or self.closed_ordinal is None:
            return None
        return max(self.closed_ordinal - self.last_ordinal, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolFigures:
    """What is held of one symbol."""

    symbol_id: int
    asset_class: int
    ticker: str
    series: tuple[SeriesFigures, ...]
