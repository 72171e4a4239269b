"""Serves bars: the contract of mdw.ingest.v1.BarService on top of services/ingest/reading."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.ingest.reading.answers import Question
from services.ingest.reading.listing import Place, list_bars
from services.ingest.reading.marks import Marks
from services.ingest.reading.messages import to_bars, to_opening, to_receipt, to_unresolved, trailer
from services.ingest.reading.pages import Position
from services.ingest.reading.questions import Terms, known, stored_timeframe_of, terms_of, time_of
from services.ingest.reading.receipts import Receipt
from services.ingest.resolving import Resolution, Unresolved, Wanted, resolve
from services.ingest.timeframes import DAY_MS, END_MS, FIRST_MS
from services.kit import calls, checks
from services.kit.errors import InvalidArgument
from services.kit.paging import page_size
from services.kit.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from services.ingest.reading.blocks import Block
    from services.ingest.reading.reader import Reader
    from services.ingest.store.snapshots import Snapshot
    from services.ingest.store.symbols import Symbol, SymbolStore
    from services.ingest.timeframes import Timeframe
    from services.kit.paging import PageTokens

DEFAULT_PAGE, MAX_PAGE = 1_000, 10_000
MAX_LATEST = 1_000
MAX_LAST = 1_000_000
# A span that may hold more bars than this is for StreamBars, which sends a hundred times as many a second.
MAX_LISTED = 1_000_000
_LIST = "ListBars"


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
        wanted, (as_of, place) = _wanted_in_list(request), self._place(request)
        if place and (request.ticker or request.symbol_id):
            wanted = Wanted(symbol_ids=[place.symbol_id])
        found = await resolve(self._symbols, wanted, strict=request.strict)
        self._check_width(terms, found.symbols)
        # What the first page has waited for need not be waited for again.
        snapshot = await self._reader.snapshot(as_of or terms.as_of, () if as_of else found.symbols)
        question = _question(terms, snapshot, newest_first=order == bars_pb2.ORDER_TIME_DESC)
        await self._leave_out_purged(found, question, strict=request.strict)
        receipt = Receipt(snapshot)
        listed = await list_bars(self._reader, question, found.symbols, receipt, place=place, size=size)
        await self._account(receipt, question, listed.symbols)
        answer = bars_pb2.ListBarsResponse(
            next_page_token=self._next_token(request, snapshot, listed.next),
            symbol_id=found.symbols[0].symbol_id if request.ticker or request.symbol_id else 0,
            as_of=checks.timestamp(snapshot.as_of),
            receipt=_signed_off(receipt),
            unresolved=[to_unresolved(one) for one in found.unresolved],
        )
        for symbol, block in listed.blocks:
            answer.bars.extend(await self._messages(symbol, block, terms.timeframe))
        return answer

    @scopes("bars.read")
    async def StreamBars(
        self, request: bars_pb2.StreamBarsRequest, context: Any
    ) -> AsyncIterator[bars_pb2.StreamBarsResponse]:
        terms = terms_of(request, self._reader.horizon)
        last = checks.integer("last", request.last, minimum=0, maximum=MAX_LAST)
        marks = Marks(self._tokens, request)
        found = await resolve(self._symbols, _wanted(request), strict=request.strict)
        marks.check(symbol.symbol_id for symbol in found.symbols)
        snapshot = await self._reader.snapshot(marks.as_of or terms.as_of, found.symbols)
        since = await self._since(request, snapshot)
        question, receipt = _question(terms, snapshot, newest_first=False), Receipt(snapshot)
        await self._leave_out_purged(found, question, strict=request.strict)
        if since is None:
            pump = await self._reader.stream(question, found.symbols, receipt, last=last, marks=marks)
        else:
            pump = await self._reader.changes(replace(question, snapshot=since), question, found.symbols, receipt)
        yield to_opening(found, snapshot)
        async with pump.messages() as messages:
            async for message in messages:
                yield cast("bars_pb2.StreamBarsResponse", message)  # its bytes: the kit writes them as they are
        await self._account(receipt, question, found.symbols)
        yield bars_pb2.StreamBarsResponse(receipt=_signed_off(receipt))

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
        question = Question(timeframe=timeframe, snapshot=await self._reader.snapshot(as_of, found.symbols))
        receipt = Receipt(question.snapshot)
        blocks = await self._reader.latest(question, found.symbols, receipt)
        await self._account(receipt, question, found.symbols)
        answer = bars_pb2.GetLatestBarsResponse(
            unresolved=[to_unresolved(one) for one in found.unresolved], receipt=_signed_off(receipt)
        )
        for symbol, block in zip(found.symbols, blocks, strict=True):
            bars = await self._messages(symbol, block, timeframe)
            answer.bars.add(symbol_id=symbol.symbol_id, ticker=symbol.ticker, bar=bars[0] if bars else None)
        return answer

    async def _messages(self, symbol: Symbol, block: Block, timeframe: Timeframe) -> list[bars_pb2.Bar]:
        return await to_bars(block, timeframe, self._reader.calendar(symbol).calendar, symbol.symbol_id)

    def _place(self, request: bars_pb2.ListBarsRequest) -> tuple[datetime | None, Place | None]:
        """Returns the as_of and the place of a page token, None where there is no token."""
        last = self._tokens.read(request.page_token, _LIST, _filters(request))
        if last is None:
            return None, None
        as_of, symbol_id, next_ms, edge_day = cast("tuple[int, int, int | None, int | None]", last)
        position = None if next_ms is None else Position(next_ms, edge_day)
        return checks.from_micros(as_of), Place(symbol_id, position)

    def _next_token(self, request: bars_pb2.ListBarsRequest, snapshot: Snapshot, place: Place | None) -> str:
        if place is None:
            return ""
        next_ms, edge_day = (place.position.next_ms, place.position.edge_day) if place.position else (None, None)
        last = (checks.micros(snapshot.as_of), place.symbol_id, next_ms, edge_day)
        return self._tokens.make(_LIST, _filters(request), last)

    def _check_width(self, terms: Terms, symbols: Sequence[Symbol]) -> None:
        """Refuses a span, given from end to end, that is too wide to be paged through."""
        if terms.start_ms == FIRST_MS or terms.end_ms == END_MS or terms.timeframe.daily:
            return
        per_day = DAY_MS // terms.timeframe.length_ms
        most = 0
        for calendar, number in Counter(map(self._reader.calendar, symbols)).items():
            first, end = calendar.days_within(terms.start_ms, terms.end_ms, daily=False)
            most += calendar.count(first, end) * per_day * number
        if most > MAX_LISTED:
            raise InvalidArgument(
                "end_time",
                f"the span may hold {most:,} bars of {terms.timeframe.name}, more than ListBars pages through "
                f"({MAX_LISTED:,}): use StreamBars, or a shorter span",
            )

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


def _signed_off(receipt: Receipt) -> bars_pb2.Receipt:
    """Returns a receipt for the answer, and repeats it in the call's trailers."""
    message, call = to_receipt(receipt), calls.present()
    if call is not None:
        call.trailers = (trailer(message),)
    return message


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


def _wanted_in_list(request: bars_pb2.ListBarsRequest) -> Wanted:
    single = [bool(request.ticker), bool(request.symbol_id)]
    several = [bool(request.tickers), bool(request.symbol_ids), request.all_active]
    class_alone = bool(request.asset_class) and not any((*single, *several))
    if sum(single) + sum(several) + class_alone != 1:
        raise InvalidArgument(
            "ticker", "needs one of ticker, symbol_id, tickers, symbol_ids, asset_class alone, or all_active"
        )
    return Wanted(
        tickers=[request.ticker] if request.ticker else request.tickers,
        asset_class=request.asset_class,
        symbol_ids=[request.symbol_id] if request.symbol_id else request.symbol_ids,
        all_active=request.all_active,
        tickers_field="ticker" if request.ticker else "tickers",
    )


def _filters(request: bars_pb2.ListBarsRequest) -> bytes:
    """Returns all that must be the same on every page."""
    same = bars_pb2.ListBarsRequest()
    same.CopyFrom(request)
    same.ClearField("page_token")
    same.ClearField("page_size")
    return same.SerializeToString(deterministic=True)
