"""The registry of symbols: SymbolService as methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask

from mdw.symbols.v1 import symbols_pb2 as pb
from mdw_client import words
from mdw_client.calls import Call, Pages, Part, R
from mdw_client.errors import ConfigurationError
from mdw_client.methods import listing, operation

if TYPE_CHECKING:
    from datetime import date

    from mdw_client.words import Many, Word

_RPC = "/mdw.symbols.v1.SymbolService/"
Ticker = str | int
"""A ticker in any usual spelling, or a symbol_id."""
Tickers = Ticker | Iterable[Ticker]


def named(ticker: Ticker, asset_class: Word | None = None) -> dict[str, Any]:
    """Returns the fields with which a request names one symbol."""
    if isinstance(ticker, int):
        return {"symbol_id": ticker}
    return {"ticker": ticker, "asset_class": words.asset_class(asset_class)}


def chosen(tickers: Tickers | None) -> dict[str, Any]:
    """Names symbols by tickers or by symbol_ids; an empty list is never all of them."""
    if tickers is None:
        return {}
    every = [tickers] if isinstance(tickers, str | int) else list(tickers)
    if not every:
        raise ConfigurationError("tickers: the list is empty; for all active symbols say all_active=True")
    texts = [each for each in every if isinstance(each, str)]
    if texts and len(texts) < len(every):
        raise ConfigurationError("tickers: name all symbols by tickers or all by symbol_ids")
    return {"tickers": texts} if texts else {"symbol_ids": every}


class Symbols(Part[R]):
    """Instruments, under which tickers at which dates, and what is held of each."""

    @operation
    def create(
        self,
        ticker: str,
        asset_class: Word,
        *,
        name: str = "",
        exchange: str = "",
        type: str = "",  # noqa: A002 # the contract's word
        figi: str = "",
        list_date: str | date | None = None,
        delist_date: str | date | None = None,
        timeframes: Word | Iterable[Word] = (),
        inactive: bool = False,
        from_date: str | date | None = None,
        to_date: str | date | None = None,
        request_id: str | None = None,
    ) -> Call[pb.Symbol]:
        """Registers a symbol, active unless `inactive`; dates are those of its trading and of this ticker."""
        symbol = new_symbol(
            ticker,
            asset_class,
            name=name,
            exchange=exchange,
            type=type,
            figi=figi,
            list_date=list_date,
            delist_date=delist_date,
            timeframes=timeframes,
            inactive=inactive,
            from_date=from_date,
            to_date=to_date,
        )
        request = pb.CreateSymbolRequest(symbol=symbol, request_id=words.request_id(request_id))
        return Call(_RPC + "CreateSymbol", request, lambda answer: answer.symbol)

    @operation
    def import_(
        self, symbols: Iterable[pb.NewSymbol], *, validate_only: bool = False, request_id: str | None = None
    ) -> Call[pb.ImportSymbolsResponse]:
        """Registers up to 5,000 symbols, with a result a row."""
        request = pb.ImportSymbolsRequest(
            symbols=symbols, validate_only=validate_only, request_id=words.request_id(request_id)
        )
        return Call(_RPC + "ImportSymbols", request, lambda answer: answer)

    @operation
    def get(
        self, ticker: Ticker, asset_class: Word | None = None, *, date: str | date | None = None
    ) -> Call[pb.GetSymbolResponse]:
        """Returns the symbol that holds a ticker, or held it on a date; `found_under` says since and until when."""
        request = pb.GetSymbolRequest(**named(ticker, asset_class), date=words.day(date))
        return Call(_RPC + "GetSymbol", request, lambda answer: answer)

    @listing
    def list(
        self,
        asset_class: Word | None = None,
        *,
        active_only: bool = False,
        backfill_state: Word | None = None,
        search: str = "",
        listed_on: str | date | None = None,
        page_size: int = 1000,
    ) -> Pages[pb.Symbol]:
        """Iterates over symbols by asset class and ticker; `listed_on` gives the universe as it was."""
        request = pb.ListSymbolsRequest(
            asset_class=words.asset_class(asset_class),
            active_only=active_only,
            backfill_state=words.word(pb.BackfillState, backfill_state, "backfill_state", "BACKFILL_STATE_"),
            search=search,
            listed_on=words.day(listed_on, "listed_on"),
            page_size=page_size,
        )
        return Pages(_RPC + "ListSymbols", request, lambda answer: answer.symbols)

    @operation
    def update(self, symbol: pb.Symbol, fields: Many | None = None) -> Call[pb.Symbol]:
        """Changes a symbol's name, timeframes, exchange, type or dates; `fields` named and not set are cleared."""
        mask = FieldMask(paths=words.many(fields)) if fields is not None else None
        request = pb.UpdateSymbolRequest(symbol=symbol, update_mask=mask)
        return Call(_RPC + "UpdateSymbol", request, lambda answer: answer.symbol)

    @operation
    def activate(
        self,
        tickers: Many | None = None,
        asset_class: Word | None = None,
        *,
        matching: pb.SymbolFilter | None = None,
        validate_only: bool = False,
    ) -> Call[pb.ActivateSymbolsResponse]:
        """Makes symbols active, by a list or by a filter: schedules and "all active" take them."""
        chosen = _chosen(tickers, asset_class, matching)
        request = pb.ActivateSymbolsRequest(**chosen, validate_only=validate_only)
        return Call(_RPC + "ActivateSymbols", request, lambda answer: answer)

    @operation
    def deactivate(
        self,
        tickers: Many | None = None,
        asset_class: Word | None = None,
        *,
        matching: pb.SymbolFilter | None = None,
        validate_only: bool = False,
    ) -> Call[pb.DeactivateSymbolsResponse]:
        """Makes symbols inactive: they keep their history and schedules skip them."""
        chosen = _chosen(tickers, asset_class, matching)
        request = pb.DeactivateSymbolsRequest(**chosen, validate_only=validate_only)
        return Call(_RPC + "DeactivateSymbols", request, lambda answer: answer)

    @operation
    def delete(self, ticker: Ticker, asset_class: Word | None = None) -> Call[None]:
        """Deletes a symbol that never held a bar."""
        request = pb.DeleteSymbolRequest(symbol=pb.SymbolKey(**named(ticker, asset_class)))
        return Call(_RPC + "DeleteSymbol", request, lambda _: None)

    @operation
    def record_ticker_change(
        self, ticker: Ticker, new_ticker: str, from_date: str | date, asset_class: Word | None = None
    ) -> Call[pb.Symbol]:
        """Records that a symbol trades under another ticker from a date on."""
        request = pb.RecordTickerChangeRequest(
            symbol=pb.SymbolKey(**named(ticker, asset_class)),
            new_ticker=new_ticker,
            from_date=words.day(from_date, "from_date"),
        )
        return Call(_RPC + "RecordTickerChange", request, lambda answer: answer.symbol)

    @operation
    def statistics(self, ticker: Ticker, asset_class: Word | None = None) -> Call[pb.SymbolStatistics]:
        """Returns what is held of one symbol, a series each."""
        request = pb.GetSymbolStatisticsRequest(**named(ticker, asset_class))
        return Call(_RPC + "GetSymbolStatistics", request, lambda answer: answer.statistics)

    @listing
    def list_statistics(
        self, asset_class: Word | None = None, *, active_only: bool = False, page_size: int = 1000
    ) -> Pages[pb.SymbolStatistics]:
        """Iterates over what is held of every symbol."""
        request = pb.ListSymbolStatisticsRequest(
            asset_class=words.asset_class(asset_class), active_only=active_only, page_size=page_size
        )
        return Pages(_RPC + "ListSymbolStatistics", request, lambda answer: answer.statistics)

    @operation
    def registry_statistics(self, *, stalest: int | None = None) -> Call[pb.GetRegistryStatisticsResponse]:
        """Returns the figures of the whole registry, and names the stalest series (default 10)."""
        request = pb.GetRegistryStatisticsRequest(stalest=stalest)
        return Call(_RPC + "GetRegistryStatistics", request, lambda answer: answer)


def new_symbol(ticker: str, asset_class: Word, **fields: Any) -> pb.NewSymbol:
    """Makes a symbol to be registered; dates and timeframes as people write them."""
    for name in ("list_date", "delist_date", "from_date", "to_date"):
        if name in fields:
            fields[name] = words.day(fields[name], name)
    if "timeframes" in fields:
        fields["timeframes"] = words.timeframes(fields["timeframes"])
    try:
        return pb.NewSymbol(ticker=ticker, asset_class=words.asset_class(asset_class), **fields)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{ticker}: {error}") from error


def _chosen(tickers: Many | None, asset_class: Word | None, matching: pb.SymbolFilter | None) -> dict[str, Any]:
    """Names symbols by a list or by a filter: never all of them by leaving both out."""
    if (tickers is None) == (matching is None):
        raise ConfigurationError("name either tickers or matching=SymbolFilter(...); an empty filter means all")
    if matching is not None:
        return {"filter": matching}
    return {"symbols": [pb.SymbolKey(**named(ticker, asset_class)) for ticker in words.many(tickers)]}
