"""Serves bars: the contract of mdw.ingest.v1.BarService on top of services/ingest/reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.ingest.reading.answers import Account, Question, calendar_of
from services.ingest.reading.blocks import join
from services.ingest.reading.messages import to_bars, to_opening, to_receipt, to_unresolved
from services.ingest.reading.pages import Position, read_page
from services.ingest.reading.questions import Terms, known, stored_timeframe_of, terms_of, time_of
from services.ingest.reading.receipts import Receipt
from services.ingest.reading.series import Series
from services.ingest.reading.streams import Stream
from services.ingest.resolving import Wanted, resolve, resolve_one
from services.ingest.store import sessions
from services.ingest.store.bars import reading
from services.ingest.store.figures import FigureStore
from services.ingest.store.latest import latest
from services.ingest.store.snapshots import Snapshot, Snapshots
from services.ingest.store.symbols import SymbolStore
from services.ingest.timeframes import END_MS, FIRST_MS
from services.kit import checks
from services.kit.errors import InvalidArgument
from services.kit.paging import PageTokens, page_size
from services.kit.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from services.ingest.calendar import Sessions
    from services.ingest.store.symbols import Symbol
    from services.kit.db import Database

DEFAULT_PAGE, MAX_PAGE = 1_000, 10_000
MAX_LATEST = 1_000
MAX_LAST = 1_000_000
# A span that may hold more bars than this is for StreamBars, which sends a hundred times as many a second.
MAX_LISTED = 1_000_000
_LIST = "ListBars"


@dataclass(frozen=True, slots=True)
class _Start:
    """Says where a page starts: in which symbol and snapshot, and where in the series."""

    symbol: Symbol
    snapshot: Snapshot
    position: Position | None


class BarServicer(bars_pb2_grpc.BarServiceServicer):
    """Implements mdw.ingest.v1.BarService."""

    def __init__(self, db: Database, streams: Database, tokens: PageTokens) -> None:
        """Takes a pool for calls and one for streams, which hold a connection for long."""
        self._db = db
        self._streams = streams
        self._tokens = tokens
        self._symbols = SymbolStore(db)
        self._snapshots = Snapshots(db)
        self._figures = FigureStore(db)
        self._calendars: dict[str, Sessions] = {}

    async def prepare(self) -> None:
        """Reads the calendars, which change with a migration only."""
        self._calendars = await sessions.load(self._db)

    @scopes("bars.read")
    async def ListBars(self, request: bars_pb2.ListBarsRequest, context: Any) -> bars_pb2.ListBarsResponse:
        terms = terms_of(request, self._horizon)
        order = known("order", request.order, bars_pb2.Order)
        size = page_size(request.page_size, default=DEFAULT_PAGE, maximum=MAX_PAGE)
        start = await self._start(request, terms)
        calendar = self._calendars[calendar_of(start.symbol.asset_class)]
        _check_width(terms, calendar)
        question = _question(terms, start.snapshot, newest_first=order == bars_pb2.ORDER_TIME_DESC)
        page = await read_page(self._db, question, start.symbol.symbol_id, calendar, position=start.position, size=size)
        receipt = Receipt(start.snapshot)
        receipt.add_bars(page.bars.bars.ts)
        receipt.add_account(start.symbol, page.account, bars=len(page.bars), expected=page.sessions_expected)
        await self._explain(receipt, question)
        return bars_pb2.ListBarsResponse(
            bars=await to_bars(page.bars, terms.timeframe, calendar.calendar),
            next_page_token=self._next_token(request, start, page.next),
            symbol_id=start.symbol.symbol_id,
            as_of=checks.timestamp(start.snapshot.as_of),
            receipt=to_receipt(receipt),
        )

    @scopes("bars.read")
    async def StreamBars(
        self,
        request: bars_pb2.StreamBarsRequest,
        context: Any,
    ) -> AsyncIterator[bars_pb2.StreamBarsResponse]:
        terms = terms_of(request, self._horizon)
        last = checks.integer("last", request.last, minimum=0, maximum=MAX_LAST)
        found = await resolve(self._symbols, _wanted(request), strict=request.strict)
        snapshot = await self._snapshot(terms.as_of)
        question, receipt = _question(terms, snapshot, newest_first=False), Receipt(snapshot)
        yield to_opening(found.unresolved, snapshot)
        stream = Stream(self._streams, snapshot, await self._series(question, found.symbols, receipt, last), receipt)
        async with stream.messages() as messages:
            async for message in messages:
                yield cast("bars_pb2.StreamBarsResponse", message)  # its bytes: the kit writes them as they are
        await self._explain(receipt, question)
        yield bars_pb2.StreamBarsResponse(receipt=to_receipt(receipt))

    @scopes("bars.read")
    async def GetLatestBars(
        self,
        request: bars_pb2.GetLatestBarsRequest,
        context: Any,
    ) -> bars_pb2.GetLatestBarsResponse:
        timeframe = stored_timeframe_of(request.timeframe)
        as_of = time_of(request, "as_of")
        wanted = Wanted(tickers=request.tickers, asset_class=request.asset_class, symbol_ids=request.symbol_ids)
        if not (request.tickers or request.symbol_ids):
            raise InvalidArgument("tickers", "needs tickers or symbol_ids")
        found = await resolve(self._symbols, wanted, strict=request.strict, maximum=MAX_LATEST)
        snapshot = await self._snapshot(as_of)
        async with reading(self._db) as connection:
            symbol_ids = [symbol.symbol_id for symbol in found.symbols]
            newest = await latest(connection, symbol_ids, timeframe.number, snapshot)
        answer = bars_pb2.GetLatestBarsResponse(unresolved=[to_unresolved(one) for one in found.unresolved])
        question, receipt = Question(timeframe=timeframe, snapshot=snapshot), Receipt(snapshot)
        for symbol in found.symbols:
            calendar = self._calendars[calendar_of(symbol.asset_class)]
            account, block = Account(calendar, timeframe.daily), newest.get(symbol.symbol_id, join([]))
            receipt.add_account(symbol, account, bars=len(block), expected=0)
            receipt.add_bars(block.bars.ts)
            bars = await to_bars(block, timeframe, calendar.calendar)
            answer.bars.add(symbol_id=symbol.symbol_id, ticker=symbol.ticker, bar=bars[0] if bars else None)
        await self._explain(receipt, question)
        answer.receipt.CopyFrom(to_receipt(receipt))
        return answer

    @property
    def _horizon(self) -> int:
        return min(calendar.horizon for calendar in self._calendars.values())

    async def _start(self, request: bars_pb2.ListBarsRequest, terms: Terms) -> _Start:
        """Returns where a request begins: anew, or where its token says, in the symbol and as_of of the first page."""
        last = self._tokens.read(request.page_token, _LIST, _filters(request))
        if last is None:
            symbol = await resolve_one(self._symbols, request.ticker, request.asset_class, request.symbol_id)
            return _Start(symbol, await self._snapshot(terms.as_of), None)
        as_of, symbol_id, next_ms, edge_day = cast("tuple[int, int, int, int | None]", last)
        symbol = await resolve_one(self._symbols, "", 0, symbol_id)
        snapshot = await self._snapshots.at(checks.from_micros(as_of))
        return _Start(symbol, snapshot, Position(next_ms, edge_day))

    async def _snapshot(self, as_of: datetime | None) -> Snapshot:
        return await (self._snapshots.newest() if as_of is None else self._snapshots.at(as_of))

    def _next_token(self, request: bars_pb2.ListBarsRequest, start: _Start, position: Position | None) -> str:
        if position is None:
            return ""
        as_of = checks.micros(start.snapshot.as_of)
        last = (as_of, start.symbol.symbol_id, position.next_ms, position.edge_day)
        return self._tokens.make(_LIST, _filters(request), last)

    async def _series(self, question: Question, symbols: Sequence[Symbol], receipt: Receipt, last: int) -> list[Series]:
        written = await self._figures.written([one.symbol_id for one in symbols], question.timeframe.stored)
        return [
            Series(
                question,
                symbol,
                self._calendars[calendar_of(symbol.asset_class)],
                receipt,
                last=last,
                known_empty=symbol.symbol_id not in written,
            )
            for symbol in symbols
        ]

    async def _explain(self, receipt: Receipt, question: Question) -> None:
        """Adds to a receipt why some series have no bars."""
        if receipt.silent:
            symbol_ids = [symbol.symbol_id for symbol, _ in receipt.silent]
            receipt.explain(question, await self._figures.read(symbol_ids, question.timeframe.stored))


def _question(terms: Terms, snapshot: Snapshot, *, newest_first: bool) -> Question:
    return Question(
        timeframe=terms.timeframe,
        start_ms=terms.start_ms,
        end_ms=terms.end_ms,
        snapshot=snapshot,
        min_quality=terms.min_quality,
        regular=terms.regular,
        newest_first=newest_first,
    )


def _wanted(request: bars_pb2.StreamBarsRequest) -> Wanted:
    return Wanted(
        tickers=request.tickers,
        asset_class=request.asset_class,
        symbol_ids=request.symbol_ids,
        all_active=request.all_active,
    )


def _filters(request: bars_pb2.ListBarsRequest) -> bytes:
    """Returns all that must be the same on every page."""
    same = bars_pb2.ListBarsRequest()
    same.CopyFrom(request)
    same.ClearField("page_token")
    same.ClearField("page_size")
    return same.SerializeToString(deterministic=True)


def _check_width(terms: Terms, calendar: Sessions) -> None:
    """Refuses a span, given from end to end, that is too wide to be paged through."""
    if terms.start_ms == FIRST_MS or terms.end_ms == END_MS or terms.timeframe.daily:
        return
    first, end = calendar.days_within(terms.start_ms, terms.end_ms, daily=False)
    most = calendar.count(first, end) * (24 * 60 * 60_000 // terms.timeframe.length_ms)
    if most > MAX_LISTED:
        raise InvalidArgument(
            "end_time",
            f"the span may hold {most:,} bars of {terms.timeframe.name}, more than ListBars pages through "
            f"({MAX_LISTED:,}): use StreamBars, or a shorter span",
        )
