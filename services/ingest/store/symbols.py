"""What ingest knows of the registry: which symbols hold or held which tickers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg

    from services.kit.db import Database

BY_TICKERS = """
SELECT symbol_id, asset_class, ticker, provider_ticker, from_date, to_date, active, timeframes, list_date, delist_date
FROM symbols.ticker_spans
WHERE symbol_id IN (SELECT symbol_id FROM symbols.ticker_spans WHERE ticker = ANY($1))
ORDER BY symbol_id, from_date
"""

BY_IDS = """
SELECT symbol_id, asset_class, ticker, provider_ticker, from_date, to_date, active, timeframes, list_date, delist_date
FROM symbols.ticker_spans
WHERE symbol_id = ANY($1)
ORDER BY symbol_id, from_date
"""

ACTIVE = """
SELECT symbol_id, asset_class, ticker, provider_ticker, from_date, to_date, active, timeframes, list_date, delist_date
FROM symbols.ticker_spans
WHERE active
  AND ($1::smallint IS NULL OR asset_class = $1)
ORDER BY symbol_id, from_date
"""

# Where statistics are from a time with hardly a row, the planner would read the whole registry once for each symbol.
MANY = "SET LOCAL enable_nestloop = off"
FEW_SYMBOLS = 100


@dataclass(frozen=True, slots=True)
class TickerSpan:
    """Says which ticker a symbol holds from one date to another, both inclusive; to_date is None while it does."""

    asset_class: int
    ticker: str
    provider_ticker: str
    from_date: date
    to_date: date | None


@dataclass(frozen=True, slots=True)
class Symbol:
    """Holds a symbol with all its tickers, oldest first."""

    symbol_id: int
    active: bool
    timeframes: tuple[int, ...]
    list_date: date | None
    delist_date: date | None
    spans: tuple[TickerSpan, ...]

    @property
    def asset_class(self) -> int:
        return self.spans[-1].asset_class

    @property
    def ticker(self) -> str:
        """Returns the present ticker, or the last one."""
        return self.spans[-1].ticker

    def held_until(self, asset_class: int, ticker: str) -> date | None:
        """Returns the last date at which it holds this ticker (date.max while it does), None if it never did."""
        ends = [
            span.to_date or date.max for span in self.spans if (span.asset_class, span.ticker) == (asset_class, ticker)
        ]
        return max(ends, default=None)


class SymbolStore:
    """Reads the registry by its view."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def by_tickers(self, tickers: Sequence[str]) -> list[Symbol]:
        """Returns every symbol that holds or held one of these tickers, as the registry spells them."""
        return _symbols(await self._read(BY_TICKERS, tickers, many=len(tickers) > FEW_SYMBOLS))

    async def by_ids(self, symbol_ids: Sequence[int]) -> list[Symbol]:
        """Returns those of these symbols that there are, by symbol_id."""
        return _symbols(await self._read(BY_IDS, symbol_ids, many=len(symbol_ids) > FEW_SYMBOLS))

    async def active(self, asset_class: int | None = None) -> list[Symbol]:
        """Returns all active symbols, of one class or of all, by symbol_id."""
        return _symbols(await self._read(ACTIVE, asset_class, many=True))

    async def _read(self, sql: str, argument: object, *, many: bool) -> list[asyncpg.Record]:
        if not many:
            return await self._db.fetch(sql, argument)
        async with self._db.reading() as conn:
            await conn.execute(MANY)
            return await conn.fetch(sql, argument)


def _symbols(rows: Iterable[asyncpg.Record]) -> list[Symbol]:
    return [_symbol(list(group)) for _, group in groupby(rows, key=lambda row: row["symbol_id"])]


def _symbol(rows: list[asyncpg.Record]) -> Symbol:
    spans = tuple(
        TickerSpan(row["asset_class"], row["ticker"], row["provider_ticker"], row["from_date"], row["to_date"])
        for row in rows
    )
    first = rows[0]
    timeframes = tuple(first["timeframes"])
    return Symbol(first["symbol_id"], first["active"], timeframes, first["list_date"], first["delist_date"], spans)
