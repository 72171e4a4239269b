"""Answers questions about bars: puts together stores, calendars and the ways to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.ingest.calendar import calendar_of
from services.ingest.reading.adjusting import actions_for
from services.ingest.reading.answers import RAW, SPLITS_AND_DIVIDENDS, Account, Inquiry
from services.ingest.reading.blocks import join
from services.ingest.reading.changes import ChangedSeries, ChangeStream, may_be_adjusted_otherwise, spans_to_compare
from services.ingest.reading.pages import read_page
from services.ingest.reading.series import Series
from services.ingest.reading.streams import AnswerStream
from services.ingest.store import sessions
from services.ingest.store.actions import known_actions
from services.ingest.store.changes import changes_between
from services.ingest.store.figures import FigureStore
from services.ingest.store.latest import latest
from services.ingest.store.purges import purged_since
from services.ingest.store.snapshots import Snapshots
from services.ingest.store.sources import View
from services.ingest.store.suspects import suspect_days
from services.ingest.timeframes import DAY, DAY_MS
from services.kit.errors import FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from services.ingest.calendar import Sessions
    from services.ingest.reading.answers import Question
    from services.ingest.reading.blocks import Block
    from services.ingest.reading.marks import Marks
    from services.ingest.reading.pages import Page, Position
    from services.ingest.reading.pump import Pump
    from services.ingest.reading.receipts import Receipt
    from services.ingest.store.actions import KnownActions
    from services.ingest.store.snapshots import Snapshot
    from services.ingest.store.sources import Sources
    from services.ingest.store.symbols import Symbol
    from services.kit.db import Database
    from services.kit.errors import MdwError


class Reader:
    """Reads bars as of an instant; each answer leaves its account in the receipt it is given."""

    def __init__(self, db: Database, calls: Sources, streams: Sources) -> None:
        """Takes the primary, where all but bars is read, and the pools for bars: streams hold a connection for long."""
        self._db = db
        self._calls = calls
        self._streams = streams
        self._snapshots = Snapshots(db)
        self._figures = FigureStore(db)
        self._calendars: dict[str, Sessions] = {}

    async def prepare(self) -> None:
        """Reads the calendars, which change with a migration only."""
        self._calendars = await sessions.load(self._db)

    @property
    def horizon(self) -> int:
        """Returns the first day that a calendar does not know."""
        return min(calendar.horizon for calendar in self._calendars.values())

    def calendar(self, symbol: Symbol) -> Sessions:
        """Returns the sessions that a symbol trades in."""
        return self._calendars[calendar_of(symbol.asset_class)]

    async def snapshot(self, as_of: datetime | None, symbols: Sequence[Symbol] = ()) -> Snapshot:
        """Returns what is seen at an instant, or now, once it can be seen of these symbols wherever their bars are."""
        snapshot = await (self._snapshots.newest() if as_of is None else self._snapshots.at(as_of))
        await self._snapshots.settle(snapshot, _ids(symbols))
        return snapshot

    async def page(
        self, question: Question, symbol: Symbol, receipt: Receipt, *, position: Position | None, size: int
    ) -> Page:
        """Returns a page of one symbol's answer."""
        known = await self._known_actions(question, [symbol])
        inquiry = self._inquiry(question, symbol, known)
        page = await self._calls.read(
            question.snapshot,
            lambda connection: read_page(connection, inquiry, position=position, size=size),
            symbol_id=symbol.symbol_id,
        )
        receipt.add_bars(page.bars.bars.ts)
        receipt.add_account(symbol, page.account, bars=len(page.bars), expected=page.sessions_expected)
        return page

    async def stream(
        self, question: Question, symbols: Sequence[Symbol], receipt: Receipt, *, last: int, marks: Marks
    ) -> Pump[Any]:
        """Returns what sends the answers of many symbols; with `last`, of each only the newest so many bars."""
        written = await self._figures.written(_ids(symbols), question.timeframe.stored)
        known = await self._known_actions(question, symbols)

        def series() -> Iterator[Series]:
            for symbol in symbols:
                one = Series(self._inquiry(question, symbol, known), last=last, marks=marks)
                figures = written.get(symbol.symbol_id)
                one.known_empty, one.most = figures is None, figures.bars if figures else 0
                yield one

        return AnswerStream(View(self._streams, question.snapshot), series(), receipt)

    async def changes(self, old: Question, new: Question, symbols: Sequence[Symbol], receipt: Receipt) -> Pump[Any]:
        """Returns what sends the differences between the answers to a question as of two instants."""
        ids, stored = _ids(symbols), new.timeframe.stored
        written = await self._figures.written(ids, stored)
        days = written if stored == DAY else await self._figures.written(ids, DAY)
        known = await self._known_actions(new, symbols)
        changes = await changes_between(self._db, old.snapshot, new.snapshot, ids, stored)
        purged = await self.purged(old, symbols)

        def series() -> Iterator[ChangedSeries]:
            for symbol in symbols:
                symbol_id = symbol.symbol_id
                before, now = self._inquiry(old, symbol, known), self._inquiry(new, symbol, known)
                spans = spans_to_compare(old, new, written.get(symbol_id), changes.of(symbol_id))
                otherwise = symbol_id in purged or may_be_adjusted_otherwise(before, now, days.get(symbol_id))
                if symbol_id in written and (spans or otherwise):
                    yield ChangedSeries(before, now, receipt, spans, anew=symbol_id in purged)
                else:
                    receipt.add_compared(symbol, bars=0)

        return ChangeStream(View(self._streams, new.snapshot), series(), receipt)

    async def purged(self, question: Question, symbols: Sequence[Symbol]) -> dict[int, MdwError]:
        """Returns, by symbol_id, the error of each symbol whose bars of the span are not as they were: purged since."""
        found = await purged_since(
            self._db, _ids(symbols), question.timeframe.stored, _days(question), question.snapshot.as_of
        )
        return {
            symbol.symbol_id: _purged(symbol, found[symbol.symbol_id])
            for symbol in symbols
            if symbol.symbol_id in found
        }

    async def check_purged(self, question: Question, symbols: Sequence[Symbol]) -> None:
        """Raises AS_OF_PURGED if bars were purged that an answer just read should have had."""
        for error in (await self.purged(question, symbols)).values():
            raise error

    async def _known_actions(self, question: Question, symbols: Sequence[Symbol]) -> KnownActions | None:
        if question.adjustment == RAW:
            return None
        dividends = question.adjustment == SPLITS_AND_DIVIDENDS
        return await known_actions(self._db, _ids(symbols), dividends=dividends)

    def _inquiry(self, question: Question, symbol: Symbol, known: KnownActions | None) -> Inquiry:
        actions = actions_for(question, symbol.symbol_id, known)
        return Inquiry(question=question, symbol=symbol, sessions=self.calendar(symbol), actions=actions)

    async def latest(self, question: Question, symbols: Sequence[Symbol], receipt: Receipt) -> list[Block]:
        """Returns the newest stored bar of each symbol, as a block of one bar or none."""
        snapshot, timeframe = question.snapshot, question.timeframe.number
        written = await self._figures.written(_ids(symbols), timeframe)
        found = await self._calls.read(snapshot, lambda connection: latest(connection, written, timeframe, snapshot))
        blocks = [found.get(symbol.symbol_id, join([])) for symbol in symbols]
        for symbol, block in zip(symbols, blocks, strict=True):
            receipt.add_bars(block.bars.ts)
            account = Account(self.calendar(symbol), question.timeframe.daily)
            receipt.add_account(symbol, account, bars=len(block), expected=0)
        return blocks

    async def explain(self, receipt: Receipt, question: Question) -> None:
        """Adds to a receipt why some symbols have no bars."""
        if receipt.silent:
            symbols = [symbol for symbol, _ in receipt.silent]
            receipt.explain(question, await self._figures.read(_ids(symbols), question.timeframe.stored))

    async def count_suspects(self, receipt: Receipt, question: Question, symbols: Sequence[Symbol]) -> None:
        """Adds to a receipt how many sessions of the span the provider is asked for again, as of today."""
        runs = await suspect_days(self._db, _ids(symbols), question.timeframe.stored)
        calendars = {symbol.symbol_id: self.calendar(symbol) for symbol in symbols} if runs else {}
        receipt.sessions_suspect = sum(_suspect(question, calendars[symbol_id], run) for symbol_id, *run in runs)


def _days(question: Question) -> tuple[int, int]:
    """Returns the days, end exclusive, that a question's bars may belong to, whatever their market's midnight."""
    beyond = 0 if question.timeframe.daily else 1
    return question.start_ms // DAY_MS - beyond, -(-question.end_ms // DAY_MS) + beyond


def _suspect(question: Question, calendar: Sessions, run: Sequence[int]) -> int:
    first, end = calendar.days_within(question.start_ms, question.end_ms, daily=question.timeframe.daily)
    return calendar.count(max(first, run[0]), min(end, run[1]))


def _purged(symbol: Symbol, moment: datetime) -> MdwError:
    until = f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
    message = f"bars of {symbol.ticker} in this span were purged: ask as of {until} or later"
    return FailedPrecondition("AS_OF_PURGED", message, as_of=until, symbol_id=str(symbol.symbol_id))


def _ids(symbols: Sequence[Symbol]) -> list[int]:
    return [symbol.symbol_id for symbol in symbols]
