"""One series of a stream: how far it has come, and the messages that wait to go out."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from mdw.ingest.v1 import bars_pb2
from services.ingest.reading.adjusting import adjuster_for
from services.ingest.reading.answers import SeriesAnswer
from services.ingest.reading.blocks import Block, join
from services.ingest.reading.messages import to_receipt
from services.ingest.reading.receipts import Receipt
from services.ingest.reading.wire import CHUNK, chunk
from services.ingest.store import bars
from services.ingest.timeframes import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    from services.ingest.columns import IntArray
    from services.ingest.reading.adjust import Adjuster
    from services.ingest.reading.answers import Inquiry
    from services.ingest.store.bars import Span
    from services.kit.db import Connection


class Series:
    """Answers a question for one symbol; may stop after any block and go on later from there."""

    def __init__(self, inquiry: Inquiry, *, last: int = 0, replaces_all: bool = False) -> None:
        """With `last`, the answer is the newest so many bars, oldest first; with `replaces_all`, it says so."""
        self.inquiry = inquiry
        self.answer = SeriesAnswer(inquiry)
        self.known_empty = False
        self.most = bars.FEW + 1
        """At most so many bars are stored now, as far as is known."""
        self.copied = False
        self.done = False
        self.outbox: deque[bytes] = deque()
        self.receipt = Receipt(inquiry.question.snapshot)
        self._last = last
        self._alone = not replaces_all
        self._replaces_all = replaces_all
        self._prepared = False
        self._adjuster: Adjuster | None = None
        self._next_ms = inquiry.question.start_ms
        self._finished = False
        self._held: list[Block] = []

    @property
    def span(self) -> Span:
        """Returns what is still to be read."""
        return self.inquiry.span(start_ms=self._next_ms)

    async def prepare(self, connection: Connection) -> None:
        """Finds out, once, by what bars are adjusted and where the last ones begin; few of them are read at once."""
        if self._prepared:
            return
        self._adjuster = await adjuster_for(connection, self.inquiry)
        self.answer = SeriesAnswer(self.inquiry, self._adjuster)
        question = self.inquiry.question
        if self._last and question.plain and self._last <= CHUNK:
            rows = await bars.read(connection, self.span, question.snapshot, limit=self._last, newest_first=True)
            rows = rows.take(slice(None, None, -1))
            self._begin_at(rows.bars.ts)
            self.push(rows)
            self.copied = True
        elif self._last:
            self._begin_at(await self._start_of_last(connection))
        elif min(self.most, self._room()) <= bars.FEW:
            await self._read_few(connection)
        self._prepared = True

    async def _read_few(self, connection: Connection) -> None:
        """Reads all bars at once, unless there are more after all: once there may have been more than now."""
        rows = await bars.read(connection, self.span, self.inquiry.question.snapshot, limit=bars.FEW + 1)
        if len(rows) <= bars.FEW:
            self.push(rows)
            self.copied = True

    def _room(self) -> int:
        """Returns how many stored bars the span has room for."""
        question = self.inquiry.question
        length_ms = DAY_MS if question.timeframe.daily else MINUTE_MS
        return (question.end_ms - question.start_ms) // length_ms + 1

    def push(self, block: Block) -> None:
        """Takes the next stored bars and puts what fills a message into the outbox."""
        if not len(block):
            return
        self._next_ms = int(block.bars.ts[-1]) + 1
        self._hold(self.answer.push(block))

    def finish(self) -> None:
        """Puts the rest into the outbox when there are no more stored bars."""
        if not self._finished:
            self._finished = True
            self._hold(self.answer.finish(), whole=False)

    def close(self, expected: int) -> None:
        """Completes the account by the sessions that the answer should hold, and puts it behind the last bars."""
        self.done = True
        self.receipt.add_account(self.inquiry.symbol, self.answer.account, bars=self.receipt.bars, expected=expected)
        if not (self._alone and self.receipt.bars):
            return
        behind = bars_pb2.StreamBarsResponse(symbol_receipt=to_receipt(self.receipt)).SerializeToString()
        # A message's fields may come in any order, so that bytes behind it belong to it.
        last = self.outbox.pop() if self.outbox else self._head().SerializeToString()
        self.outbox.append(last + behind)

    def _begin_at(self, ts: IntArray) -> None:
        """Lets the question begin with the first of these bars."""
        if len(ts):
            # A window that the span cuts begins before the span, whose bars there were not asked for.
            self._next_ms = max(int(ts[0]), self.inquiry.question.start_ms)
            self.inquiry = self.inquiry.asking(replace(self.inquiry.question, start_ms=self._next_ms))
            self.answer = SeriesAnswer(self.inquiry, self._adjuster)

    async def _start_of_last(self, connection: Connection) -> IntArray:
        """Reads backward until there are enough bars; returns the times of the newest ones, empty where all count."""
        question, span = replace(self.inquiry.question, newest_first=True), self.span
        backward, missing, exhausted = SeriesAnswer(self.inquiry.asking(question)), self._last, False
        while not exhausted:
            rows = await bars.read(connection, span, question.snapshot, limit=CHUNK, newest_first=True)
            rows = rows.take(slice(None, None, -1))
            exhausted = len(rows) < CHUNK
            for settled in (backward.push(rows), *([backward.finish()] if exhausted else [])):
                if len(settled) >= missing:
                    return settled.bars.ts[len(settled) - missing :]
                missing -= len(settled)
            span = replace(span, end_ms=int(rows.bars.ts[0])) if len(rows) else span
        return join([]).bars.ts

    def _hold(self, settled: Block, *, whole: bool = True) -> None:
        """Keeps answered bars until they fill a message (whole), or puts all of them out."""
        self.receipt.add_bars(settled.bars.ts)
        self._held.append(settled)
        if whole and sum(map(len, self._held)) < CHUNK:
            return
        ready = join(self._held)
        cut = len(ready) - len(ready) % CHUNK if whole else len(ready)
        self._held = [ready.take(slice(cut, None))]
        for start in range(0, cut, CHUNK):
            self.outbox.append(chunk(self._head(), ready.take(slice(start, min(start + CHUNK, cut)))))
        if not whole and self._replaces_all:
            self.outbox.append(self._head().SerializeToString())

    def _head(self) -> bars_pb2.StreamBarsResponse:
        symbol, replaces_all = self.inquiry.symbol, self._replaces_all
        self._replaces_all = False
        return bars_pb2.StreamBarsResponse(symbol_id=symbol.symbol_id, ticker=symbol.ticker, replaces_all=replaces_all)
