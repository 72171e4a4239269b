"""Answers what is held and what is missing: GetCoverage and WatchSession."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from mdw.ingest.v1 import ingest_pb2
from services.ingest.calendar import calendar_of
from services.ingest.coverage import cover
from services.ingest.coverage_messages import coverage_terms, to_coverage, to_look, watch_terms
from services.ingest.resolving import resolve
from services.ingest.session_watch import SessionWatch
from services.kit import calls, paging
from services.kit.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.ingest.calendar import Sessions
    from services.ingest.store.coverage import CoverageStore
    from services.ingest.store.symbols import Symbol, SymbolStore
    from services.kit.paging import PageTokens

MAX_PAGE = 200


class Completeness:
    """Resolves symbols, reads what is known of their series, and accounts for it."""

    def __init__(self, *, symbols: SymbolStore, store: CoverageStore, tokens: PageTokens) -> None:
        self._symbols = symbols
        self._store = store
        self._tokens = tokens

    async def coverage(self, request: ingest_pb2.GetCoverageRequest) -> ingest_pb2.GetCoverageResponse:
        """Answers GetCoverage, a page of symbols by id."""
        terms = coverage_terms(request, await self._horizon())
        size = paging.page_size(request.page_size, maximum=MAX_PAGE)
        after = self._after(request)
        found = await resolve(self._symbols, terms.wanted, strict=True)
        rest = sorted(
            (symbol for symbol in found.symbols if symbol.symbol_id > after), key=lambda symbol: symbol.symbol_id
        )
        calendars, closed = await self._store.calendars(), await self._store.closed_days()
        answer = ingest_pb2.GetCoverageResponse()
        for facts in await self._store.read(rest[:size], terms.timeframe, terms.first, terms.end):
            calendar = calendars[calendar_of(facts.symbol.asset_class)]
            over = closed[calendar.calendar]
            await asyncio.sleep(0)  # an account takes a millisecond or two
            answer.series.append(to_coverage(cover(facts, calendar, terms.first, min(terms.end, over), over)))
        if len(rest) > size:
            last = [rest[size - 1].symbol_id]
            answer.next_page_token = self._tokens.make("GetCoverage", _filters(request), last)
        return answer

    async def watch(self, request: ingest_pb2.WatchSessionRequest) -> AsyncGenerator[ingest_pb2.WatchSessionResponse]:
        """Answers WatchSession."""
        terms = watch_terms(request, await self._horizon(), calls.current())
        found = await resolve(self._symbols, terms.wanted, strict=True)
        calendars = await self._trading(found.symbols, terms.day)
        if not calendars:
            raise InvalidArgument("session_date", f"is {request.session_date}, a day without a session for the symbols")
        waited = [symbol for symbol in found.symbols if symbol.symbol_id in calendars]
        closes = [
            _close(calendar, terms.day) for calendar in {one.calendar: one for one in calendars.values()}.values()
        ]
        watch = SessionWatch(self._store, calendars, timeframe=terms.timeframe, day=terms.day)
        async with aclosing(watch.looks(waited, terms.until)) as looks:
            async for look in looks:
                yield to_look(look, terms.day, closes)

    async def _horizon(self) -> int:
        return min(calendar.horizon for calendar in (await self._store.calendars()).values())

    def _after(self, request: ingest_pb2.GetCoverageRequest) -> int:
        position = self._tokens.read(request.page_token, "GetCoverage", _filters(request))
        return int(position[0] or 0) if position else 0

    async def _trading(self, symbols: list[Symbol], day: int) -> dict[int, Sessions]:
        """Returns the calendars of those symbols that trade on a day."""
        calendars = await self._store.calendars()
        own = {symbol.symbol_id: calendars[calendar_of(symbol.asset_class)] for symbol in symbols}
        return {symbol_id: calendar for symbol_id, calendar in own.items() if calendar.count(day, day + 1)}


def _close(calendar: Sessions, day: int) -> int:
    return int(calendar.close_ms[calendar.days.searchsorted(day)])


def _filters(request: ingest_pb2.GetCoverageRequest) -> bytes:
    """Returns what must be the same on every page."""
    same = ingest_pb2.GetCoverageRequest()
    same.CopyFrom(request)
    same.ClearField("page_token")
    same.ClearField("page_size")
    return same.SerializeToString(deterministic=True)
