"""Serves bars: the contract of mdw.ingest.v1.BarService on top of services/ingest/reading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.ingest.reading.answers import Question
from services.ingest.reading.messages import to_bars, to_opening, to_receipt, to_unresolved
from services.ingest.reading.pages import Position
from services.ingest.reading.questions import Terms, known, stored_timeframe_of, terms_of, time_of
from services.ingest.reading.receipts import Receipt
from services.ingest.resolving import Resolution, Unresolved, Wanted, resolve, resolve_one
from services.ingest.timeframes import END_MS, FIRST_MS
from services.kit import checks
from services.kit.errors import InvalidArgument
from services.kit.paging import page_size
from services.kit.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from services.ingest.calendar import Sessions
    from services.ingest.reading.reader import Reader
    from services.ingest.store.snapshots import Snapshot
    from services.ingest.store.symbols import Symbol, SymbolStore
    from services.kit.paging import PageTokens

DEFAULT_PAGE, MAX_PAGE = 1_000, 10_000
MAX_LATEST = 1_000
MAX_LAST = 1_000_000
# A span that may hold more bars than this is for StreamBars, which sends a hundred times as many a second.
MAX_LISTED = 1_000_000
_DAY_MINUTES_MS = 24 * 60 * 60_000
_LIST = "ListBars"


@dataclass(frozen=True, slots=True)
class _Start:
    """Says where a page starts: in which symbol and snapshot, and where in the series."""

    symbol: Symbol
    snapshot: Snapshot
    position: Position | None


class BarServicer(bars_pb2_grpc.BarServiceServicer):
    """Implements mdw.ingest.v1.BarService."""

    def __init__(self, reader: Reader, symbols: SymbolStore, tokens: PageTokens) -> None:
        self._reader = reader
        self._symbols = symbols
        self._tokens = tokens

    @scopes("bars.read")
    async def ListBars(self, request: bars_pb2.ListBarsRequest, context: Any) -> bars_pb2.ListBarsResponse:
        terms = terms_of(request, self._reader.horizon)
        order = known("order", request.order, bars_pb2.Order)
        size = page_size(request.page_size, default=DEFAULT_PAGE, maximum=MAX_PAGE)
        start = await self._start(request, terms)
        calendar, receipt = self._reader.calendar(start.symbol), Receipt(start.snapshot)
        _check_width(terms, calendar)
        question = _question(terms, start.snapshot, newest_first=order == bars_pb2.ORDER_TIME_DESC)
        page = await self._reader.page(question, start.symbol, receipt, position=start.position, size=size)
        await self._account(receipt, question, [start.symbol])
        return bars_pb2.ListBarsResponse(
            bars=await to_bars(page.bars, terms.timeframe, calendar.calendar),
            next_page_token=self._next_token(request, start, page.next),
            symbol_id=start.symbol.symbol_id,
            as_of=checks.timestamp(start.snapshot.as_of),
            receipt=to_receipt(receipt),
        )

    @scopes("bars.read")
    async def StreamBars(
        self, request: bars_pb2.StreamBarsRequest, context: Any
    ) -> AsyncIterator[bars_pb2.StreamBarsResponse]:
        terms = terms_of(request, self._reader.horizon)
        last = checks.integer("last", request.last, minimum=0, maximum=MAX_LAST)
        found = await resolve(self._symbols, _wanted(request), strict=request.strict)
        snapshot = await self._reader.snapshot(terms.as_of)
        since = await self._since(request, snapshot)
        question, receipt = _question(terms, snapshot, newest_first=False), Receipt(snapshot)
        await self._leave_out_purged(found, question, strict=request.strict)
        if since is None:
            pump = await self._reader.stream(question, found.symbols, receipt, last=last)
        else:
            pump = await self._reader.changes(replace(question, snapshot=since), question, found.symbols, receipt)
        yield to_opening(found.unresolved, snapshot)
        async with pump.messages() as messages:
            async for message in messages:
                yield cast("bars_pb2.StreamBarsResponse", message)  # its bytes: the kit writes them as they are
        await self._account(receipt, question, found.symbols)
        yield bars_pb2.StreamBarsResponse(receipt=to_receipt(receipt))

    @scopes("bars.read")
    async def GetLatestBars(
        self, request: bars_pb2.GetLatestBarsRequest, context: Any
    ) -> bars_pb2.GetLatestBarsResponse:
        timeframe = stored_timeframe_of(request.timeframe)
        as_of = time_of(request, "as_of")
        if not (request.tickers or request.symbol_ids):
            raise InvalidArgument("tickers", "needs tickers or symbol_ids")
        wanted = Wanted(tickers=request.tickers, asset_class=request.asset_class, symbol_ids=request.symbol_ids)
        found = await resolve(self._symbols, wanted, strict=request.strict, maximum=MAX_LATEST)
        question = Question(timeframe=timeframe, snapshot=await self._reader.snapshot(as_of))
        receipt = Receipt(question.snapshot)
        blocks = await self._reader.latest(question, found.symbols, receipt)
        await self._account(receipt, question, found.symbols)
        answer = bars_pb2.GetLatestBarsResponse(
            unresolved=[to_unresolved(one) for one in found.unresolved], receipt=to_receipt(receipt)
        )
        for symbol, block in zip(found.symbols, blocks, strict=True):
            bars = await to_bars(block, timeframe, self._reader.calendar(symbol).calendar)
            answer.bars.add(symbol_id=symbol.symbol_id, ticker=symbol.ticker, bar=bars[0] if bars else None)
        return answer

    async def _start(self, request: bars_pb2.ListBarsRequest, terms: Terms) -> _Start:
        """Returns where a request begins: anew, or where its token says, in the symbol and as_of of the first page."""
        last = self._tokens.read(request.page_token, _LIST, _filters(request))
        if last is None:
            symbol = await resolve_one(self._symbols, request.ticker, request.asset_class, request.symbol_id)
            return _Start(symbol, await self._reader.snapshot(terms.as_of), None)
        as_of, symbol_id, next_ms, edge_day = cast("tuple[int, int, int, int | None]", last)
        symbol = await resolve_one(self._symbols, "", 0, symbol_id)
        snapshot = await self._reader.snapshot(checks.from_micros(as_of))
        return _Start(symbol, snapshot, Position(next_ms, edge_day))

    def _next_token(self, request: bars_pb2.ListBarsRequest, start: _Start, position: Position | None) -> str:
        if position is None:
            return ""
        as_of = checks.micros(start.snapshot.as_of)
        last = (as_of, start.symbol.symbol_id, position.next_ms, position.edge_day)
        return self._tokens.make(_LIST, _filters(request), last)

    async def _leave_out_purged(self, found: Resolution, question: Question, *, strict: bool) -> None:
        """Lists symbols as unresolved that cannot be answered any more; raises for one alone, or with strict."""
        purged = await self._reader.purged(question, found.symbols)
        if purged and (strict or len(purged) == len(found.symbols)):
            raise next(iter(purged.values()))
        found.unresolved += [Unresolved("", symbol_id, error) for symbol_id, error in purged.items()]
        found.symbols = [symbol for symbol in found.symbols if symbol.symbol_id not in purged]

    async def _account(self, receipt: Receipt, question: Question, symbols: Sequence[Symbol]) -> None:
        """Completes the receipt of an answer, unless bars were purged while it was read."""
        await self._reader.check_purged(question, symbols)
        await self._reader.explain(receipt, question)
        await self._reader.count_suspects(receipt, question, symbols)

    async def _since(self, request: bars_pb2.StreamBarsRequest, snapshot: Snapshot) -> Snapshot | None:
        """Returns the snapshot to compare with, None if all is asked for."""
        moment = time_of(request, "changed_since")
        if moment is None:
            return None
        if request.last:
            raise InvalidArgument("last", "does not go with changed_since: the newest bars then were others")
        if moment > snapshot.as_of:
            raise InvalidArgument("changed_since", "is later than as_of, or than the newest write")
        return await self._reader.snapshot(moment)


def _question(terms: Terms, snapshot: Snapshot, *, newest_first: bool) -> Question:
    return Question(
        timeframe=terms.timeframe,
        start_ms=terms.start_ms,
        end_ms=terms.end_ms,
        snapshot=snapshot,
        min_quality=terms.min_quality,
        regular=terms.regular,
        newest_first=newest_first,
        adjustment=terms.adjustment,
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
    most = calendar.count(first, end) * (_DAY_MINUTES_MS // terms.timeframe.length_ms)
    if most > MAX_LISTED:
        raise InvalidArgument(
            "end_time",
            f"the span may hold {most:,} bars of {terms.timeframe.name}, more than ListBars pages through "
            f"({MAX_LISTED:,}): use StreamBars, or a shorter span",
        )
