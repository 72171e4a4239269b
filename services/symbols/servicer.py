"""mdw.symbols.v1.SymbolService: the registry of symbols and their statistics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mdw.symbols.v1 import symbols_pb2, symbols_pb2_grpc
from services.kit import calls, checks
from services.kit.errors import InvalidArgument
from services.kit.paging import page_size
from services.kit.scopes import scopes
from services.symbols import requests
from services.symbols.convert import to_found_under, to_import, to_registry, to_statistics, to_symbol
from services.symbols.store.registry import Repeatable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from services.kit.paging import PageTokens
    from services.symbols.store.lookups import Symbols
    from services.symbols.store.registry import Registry
    from services.symbols.store.rows import NewSymbol, Outcome, Symbol
    from services.symbols.store.statistics import Statistics

DEFAULT_STALEST = 10


class SymbolServicer(symbols_pb2_grpc.SymbolServiceServicer):
    """mdw.symbols.v1.SymbolService, in the order of the proto."""

    def __init__(self, *, symbols: Symbols, registry: Registry, statistics: Statistics, tokens: PageTokens) -> None:
        self._symbols = symbols
        self._registry = registry
        self._statistics = statistics
        self._tokens = tokens

    @scopes("symbols.write")
    async def CreateSymbol(
        self, request: symbols_pb2.CreateSymbolRequest, context: Any
    ) -> symbols_pb2.CreateSymbolResponse:
        new = requests.new_symbol(request.symbol, "symbol.")

        def encode(symbol: Symbol) -> bytes:
            return _body(symbols_pb2.CreateSymbolResponse(symbol=to_symbol(symbol)))

        answer = await self._registry.create(calls.current(), _repeatable(request), new, encode)
        return symbols_pb2.CreateSymbolResponse.FromString(answer)

    @scopes("symbols.write")
    async def ImportSymbols(
        self, request: symbols_pb2.ImportSymbolsRequest, context: Any
    ) -> symbols_pb2.ImportSymbolsResponse:
        requests.limit_rows(request.symbols, "symbols")
        # Thousands of rows take a tenth of a second to check, in which other calls go on.
        wanted, refused = await asyncio.to_thread(_rows, request)
        tickers = [row.ticker for row in request.symbols]
        if request.validate_only:
            return to_import(tickers, refused, await self._registry.plan_import(wanted))

        def encode(outcomes: Mapping[int, Outcome]) -> bytes:
            return _body(to_import(tickers, refused, outcomes))

        answer = await self._registry.import_all(calls.current(), _repeatable(request), wanted, encode)
        return symbols_pb2.ImportSymbolsResponse.FromString(answer)

    @scopes("symbols.read")
    async def GetSymbol(self, request: symbols_pb2.GetSymbolRequest, context: Any) -> symbols_pb2.GetSymbolResponse:
        key = requests.key(request.ticker, request.asset_class, request.symbol_id)
        symbol, found = await self._symbols.get(key, requests.day(request.date, "date"))
        return symbols_pb2.GetSymbolResponse(symbol=to_symbol(symbol), found_under=to_found_under(symbol, found))

    @scopes("symbols.read")
    async def ListSymbols(
        self, request: symbols_pb2.ListSymbolsRequest, context: Any
    ) -> symbols_pb2.ListSymbolsResponse:
        chosen, size = requests.listing(request), page_size(request.page_size)
        filters = _filters(request)
        after = self._tokens.read(request.page_token, "ListSymbols", filters)
        symbols, last = await self._symbols.page(chosen, after, size)
        answer = symbols_pb2.ListSymbolsResponse(symbols=map(to_symbol, symbols))
        if last:
            answer.next_page_token = self._tokens.make("ListSymbols", filters, last)
        return answer

    @scopes("symbols.write")
    async def UpdateSymbol(
        self, request: symbols_pb2.UpdateSymbolRequest, context: Any
    ) -> symbols_pb2.UpdateSymbolResponse:
        named, changed = request.symbol, requests.changed(request)
        # A symbol that was read is sent back whole: its id says which it is.
        ticker = "" if named.symbol_id else named.ticker
        key = requests.key(ticker, named.asset_class, named.symbol_id, "symbol.")
        symbol = await self._registry.update(calls.current(), key, changed)
        return symbols_pb2.UpdateSymbolResponse(symbol=to_symbol(symbol))

    @scopes("symbols.write")
    async def ActivateSymbols(
        self, request: symbols_pb2.ActivateSymbolsRequest, context: Any
    ) -> symbols_pb2.ActivateSymbolsResponse:
        matched, changed = await self._set_active(request, active=True)
        return symbols_pb2.ActivateSymbolsResponse(matched=matched, changed=changed)

    @scopes("symbols.write")
    async def DeactivateSymbols(
        self, request: symbols_pb2.DeactivateSymbolsRequest, context: Any
    ) -> symbols_pb2.DeactivateSymbolsResponse:
        matched, changed = await self._set_active(request, active=False)
        return symbols_pb2.DeactivateSymbolsResponse(matched=matched, changed=changed)

    @scopes("symbols.write")
    async def DeleteSymbol(
        self, request: symbols_pb2.DeleteSymbolRequest, context: Any
    ) -> symbols_pb2.DeleteSymbolResponse:
        await self._registry.delete(calls.current(), requests.symbol_key(request.symbol))
        return symbols_pb2.DeleteSymbolResponse()

    @scopes("symbols.write")
    async def RecordTickerChange(
        self, request: symbols_pb2.RecordTickerChangeRequest, context: Any
    ) -> symbols_pb2.RecordTickerChangeResponse:
        key = requests.symbol_key(request.symbol)
        new = requests.spell_each(request.new_ticker, "new_ticker")
        from_date = requests.required_day(request.from_date, "from_date")
        symbol = await self._registry.change_ticker(calls.current(), key, new, from_date)
        return symbols_pb2.RecordTickerChangeResponse(symbol=to_symbol(symbol))

    @scopes("symbols.read")
    async def GetSymbolStatistics(
        self, request: symbols_pb2.GetSymbolStatisticsRequest, context: Any
    ) -> symbols_pb2.GetSymbolStatisticsResponse:
        key = requests.key(request.ticker, request.asset_class, request.symbol_id)
        return symbols_pb2.GetSymbolStatisticsResponse(statistics=to_statistics(await self._statistics.one(key)))

    @scopes("symbols.read")
    async def ListSymbolStatistics(
        self, request: symbols_pb2.ListSymbolStatisticsRequest, context: Any
    ) -> symbols_pb2.ListSymbolStatisticsResponse:
        asset_class, size = requests.optional_class(request.asset_class), page_size(request.page_size)
        filters = _filters(request)
        after = self._tokens.read(request.page_token, "ListSymbolStatistics", filters)
        figures, last = await self._statistics.page(asset_class, after, size, active_only=request.active_only)
        answer = symbols_pb2.ListSymbolStatisticsResponse(statistics=map(to_statistics, figures))
        if last:
            answer.next_page_token = self._tokens.make("ListSymbolStatistics", filters, last)
        return answer

    @scopes("symbols.read")
    async def GetRegistryStatistics(
        self, request: symbols_pb2.GetRegistryStatisticsRequest, context: Any
    ) -> symbols_pb2.GetRegistryStatisticsResponse:
        stalest = request.stalest if request.HasField("stalest") else DEFAULT_STALEST
        checks.integer("stalest", stalest, minimum=0, maximum=requests.MAX_STALEST)
        return to_registry(await self._statistics.registry(stalest))

    async def _set_active(
        self, request: symbols_pb2.ActivateSymbolsRequest | symbols_pb2.DeactivateSymbolsRequest, *, active: bool
    ) -> tuple[int, int]:
        chosen = requests.chosen(request)
        if request.validate_only:
            return await self._registry.plan_active(chosen, active=active)
        return await self._registry.set_active(calls.current(), chosen, active=active)


def _rows(request: symbols_pb2.ImportSymbolsRequest) -> tuple[dict[int, NewSymbol], dict[int, InvalidArgument]]:
    """Returns the rows that keep all rules, and what is wrong with the others, by position."""
    wanted: dict[int, NewSymbol] = {}
    refused: dict[int, InvalidArgument] = {}
    for n, row in enumerate(request.symbols):
        try:
            wanted[n] = requests.new_symbol(row)
        except InvalidArgument as error:
            refused[n] = error
    return wanted, refused


def _repeatable(request: symbols_pb2.CreateSymbolRequest | symbols_pb2.ImportSymbolsRequest) -> Repeatable:
    return Repeatable(request_id=request.request_id, body=_body(request))


def _body(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _filters(request: symbols_pb2.ListSymbolsRequest | symbols_pb2.ListSymbolStatisticsRequest) -> bytes:
    """Returns the request without its page: what a page token belongs to."""
    filters = type(request).FromString(request.SerializeToString())
    filters.page_size, filters.page_token = 0, ""
    return _body(filters)
