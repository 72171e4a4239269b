"""Answers questions about bars: puts together stores, calendars and the ways to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.ingest.reading.answers import Account, calendar_of
from services.ingest.reading.blocks import join
from services.ingest.reading.changes import ChangedSeries, ChangeStream, spans_to_compare
from services.ingest.reading.pages import read_page
from services.ingest.reading.series import Series
from services.ingest.reading.streams import Stream
from services.ingest.store import sessions
from services.ingest.store.bars import reading
from services.ingest.store.changes import changes_between
from services.ingest.store.figures import FigureStore
from services.ingest.store.latest import latest
from services.ingest.store.snapshots import Snapshots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.ingest.calendar import Sessions
    from services.ingest.reading.answers import Question
    from services.ingest.reading.blocks import Block
    from services.ingest.reading.pages import Page, Position
    from services.ingest.reading.pump import Pump
    from services.ingest.reading.receipts import Receipt
    from services.ingest.store.snapshots import Snapshot
    from services.ingest.store.symbols import Symbol
    from services.kit.db import Database


class Reader:
    """Reads bars as of an instant; each answer leaves its account in the receipt it is given."""

    def __init__(self, db: Database, streams: Database) -> None:
        """Takes a pool for calls and one for streams, which hold a connection for long."""
        self._db = db
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

    async def snapshot(self, as_of: datetime | None) -> Snapshot:
        """Returns what is seen at an instant, or now."""
        return await (self._snapshots.newest() if as_of is None else self._snapshots.at(as_of))

    async def page(
        self, question: Question, symbol: Symbol, receipt: Receipt, *, position: Position | None, size: int
    ) -> Page:
        """Returns a page of one symbol's answer."""
        page = await read_page(
            self._db, question, symbol.symbol_id, self.calendar(symbol), position=position, size=size
        )
        receipt.add_bars(page.bars.bars.ts)
        receipt.add_account(symbol, page.account, bars=len(page.bars), expected=page.sessions_expected)
        return page

    async def stream(self, question: Question, symbols: Sequence[Symbol], receipt: Receipt, *, last: int) -> Pump[Any]:
        """Returns what sends the answers of many symbols; with `last`, of each only the newest so many bars."""
        written = await self._figures.written(_ids(symbols), question.timeframe.stored)
        series = [
            Series(
                question,
                symbol,
                self.calendar(symbol),
                receipt,
                last=last,
                known_empty=symbol.symbol_id not in written,
            )
            for symbol in symbols
        ]
        return Stream(self._streams, series, receipt)

    async def changes(self, old: Question, new: Question, symbols: Sequence[Symbol], receipt: Receipt) -> Pump[Any]:
        """Returns what sends the differences between the answers to a question as of two instants."""
        stored = new.timeframe.stored
        written = await self._figures.written(_ids(symbols), stored)
        changes = await changes_between(self._db, old.snapshot, new.snapshot, _ids(symbols), stored)
        series = []
        for symbol in symbols:
            spans = spans_to_compare(old, new, written.get(symbol.symbol_id), changes.of(symbol.symbol_id))
            if spans:
                series.append(ChangedSeries(old, new, symbol, self.calendar(symbol), spans))
            else:
                receipt.add_compared(symbol, bars=0)
        return ChangeStream(self._streams, series, receipt)

    async def latest(self, question: Question, symbols: Sequence[Symbol], receipt: Receipt) -> list[Block]:
        """Returns the newest stored bar of each symbol, as a block of one bar or none."""
        async with reading(self._db) as connection:
            found = await latest(connection, _ids(symbols), question.timeframe.number, question.snapshot)
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


def _ids(symbols: Sequence[Symbol]) -> list[int]:
    return [symbol.symbol_id for symbol in symbols]
