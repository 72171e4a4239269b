"""Serves bars: the contract of mdw.ingest.v1.BarService on top of services/ingest/reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.ingest.reading.answers import Question, calendar_of
from services.ingest.reading.messages import to_bars, to_receipt
from services.ingest.reading.pages import Position, read_page
from services.ingest.reading.questions import Terms, known, terms_of
from services.ingest.reading.receipts import Receipt, why_empty
from services.ingest.resolving import resolve_one
from services.ingest.store import sessions
from services.ingest.store.bars import END_MS, FIRST_MS
from services.ingest.store.figures import FigureStore
from services.ingest.store.snapshots import Snapshot, Snapshots
from services.ingest.store.symbols import SymbolStore
from services.kit import checks
from services.kit.errors import InvalidArgument, Unimplemented
from services.kit.paging import PageTokens, page_size
from services.kit.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.ingest.calendar import Sessions
    from services.ingest.reading.pages import Page
    from services.ingest.store.symbols import Symbol
    from services.kit.db import Database

DEFAULT_PAGE, MAX_PAGE = 1_000, 10_000
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

    def __init__(self, db: Database, tokens: PageTokens) -> None:
        self._db = db
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
        return bars_pb2.ListBarsResponse(
            bars=await to_bars(page.bars, terms.timeframe, calendar.calendar),
            next_page_token=self._next_token(request, start, page.next),
            symbol_id=start.symbol.symbol_id,
            as_of=checks.timestamp(start.snapshot.as_of),
            receipt=to_receipt(await self._receipt(question, start, page)),
        )

    @scopes("bars.read")
    async def StreamBars(
        self,
        request: bars_pb2.StreamBarsRequest,
        context: Any,
    ) -> AsyncIterator[bars_pb2.StreamBarsResponse]:
        raise Unimplemented("METHOD_UNKNOWN", "bars are not streamed yet")
        yield bars_pb2.StreamBarsResponse()

    @scopes("bars.read")
    async def GetLatestBars(
        self,
        request: bars_pb2.GetLatestBarsRequest,
        context: Any,
    ) -> bars_pb2.GetLatestBarsResponse:
        raise Unimplemented("METHOD_UNKNOWN", "newest bars are not served yet")

    @property
    def _horizon(self) -> int:
        return min(calendar.horizon for calendar in self._calendars.values())

    async def _start(self, request: bars_pb2.ListBarsRequest, terms: Terms) -> _Start:
        """Returns where a request begins: anew, or where its token says, in the symbol and as_of of the first page."""
        last = self._tokens.read(request.page_token, _LIST, _filters(request))
        if last is None:
            symbol = await resolve_one(self._symbols, request.ticker, request.asset_class, request.symbol_id)
            return _Start(symbol, await self._snapshot(terms), None)
        as_of, symbol_id, next_ms, edge_day = cast("tuple[int, int, int, int | None]", last)
        symbol = await resolve_one(self._symbols, "", 0, symbol_id)
        snapshot = await self._snapshots.at(checks.from_micros(as_of))
        return _Start(symbol, snapshot, Position(next_ms, edge_day))

    async def _snapshot(self, terms: Terms) -> Snapshot:
        return await (self._snapshots.newest() if terms.as_of is None else self._snapshots.at(terms.as_of))

    def _next_token(self, request: bars_pb2.ListBarsRequest, start: _Start, position: Position | None) -> str:
        if position is None:
            return ""
        as_of = checks.micros(start.snapshot.as_of)
        last = (as_of, start.symbol.symbol_id, position.next_ms, position.edge_day)
        return self._tokens.make(_LIST, _filters(request), last)

    async def _receipt(self, question: Question, start: _Start, page: Page) -> Receipt:
        receipt = Receipt(start.snapshot)
        receipt.add_bars(page.bars.bars.ts)
        receipt.add_account(start.symbol, page.account, page.sessions_expected)
        if not len(page.bars):
            figures = await self._figures.read([start.symbol.symbol_id], question.timeframe.stored)
            why = why_empty(question, page.account, figures.get(start.symbol.symbol_id))
            receipt.empty.append((start.symbol, why))
        return receipt


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
