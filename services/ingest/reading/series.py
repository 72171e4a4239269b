"""One series of a stream: how far it has come, and the messages that wait to go out."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mdw.ingest.v1 import bars_pb2
from services.ingest.reading.adjusting import adjuster_for
from services.ingest.reading.answers import SeriesAnswer
from services.ingest.reading.blocks import Block, join
from services.ingest.reading.marks import Standing
from services.ingest.reading.messages import to_receipt
from services.ingest.reading.receipts import Receipt
from services.ingest.reading.wire import CHUNK, chunk
from services.ingest.store import bars
from services.ingest.timeframes import DAY_MS, FIRST_MS, MINUTE_MS

if TYPE_CHECKING:
    from services.ingest.columns import IntArray
    from services.ingest.reading.adjust import Adjuster
    from services.ingest.reading.answers import Inquiry
    from services.ingest.reading.marks import Marks
    from services.ingest.store.bars import Span
    from services.kit.db import Connection


class Series:
    """Answers a question for one symbol; may stop after any block and go on later from there."""

    def __init__(
        self, inquiry: Inquiry, *, last: int = 0, replaces_all: bool = False, marks: Marks | None = None
    ) -> None:
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
        self._marks = marks
        self._gone_on = marks.of(inquiry.symbol.symbol_id) if marks else None
        self._sent_ms = FIRST_MS - 1
        if self._gone_on:
            self._go_on(self._gone_on)

    @property
    def symbol_id(self) -> int:
        return self.inquiry.symbol.symbol_id

    @property
    def span(self) -> Span:
        """Returns what is still to be read."""
        return self.inquiry.span(start_ms=self._next_ms)

    async def prepare(self, connection: Connection) -> None:
        """Finds out, once, by what bars are adjusted and where the last ones begin; few of them are read at once."""
        if self._prepared:
            return
        self._adjuster = await adjuster_for(connection, self.inquiry)
        self.answer = self._new_answer()
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
        before = self._standing()
        self._next_ms = int(block.bars.ts[-1]) + 1
        self._hold(self.answer.push(block), before)

    def finish(self) -> None:
        """Puts the rest into the outbox when there are no more stored bars."""
        if not self._finished:
            self._finished = True
            self._hold(self.answer.finish())

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
            self.answer = self._new_answer()

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

    def _new_answer(self) -> SeriesAnswer:
        answer = SeriesAnswer(self.inquiry, self._adjuster)
        if self._gone_on:
            answer.account.restore(self._gone_on.account)
            answer.counted_ms = self._gone_on.counted_ms
        return answer

    def _go_on(self, standing: Standing) -> None:
        """Takes the answer up where another stream of it was cut off."""
        self._last = 0
        self._sent_ms, self._next_ms = standing.sent_ms, standing.next_ms
        self.inquiry = self.inquiry.asking(replace(self.inquiry.question, start_ms=standing.start_ms))
        self.receipt.bars, self.receipt.first_ms = standing.bars, standing.first_ms
        self.receipt.last_ms = standing.last_ms

    def _standing(self) -> Standing:
        """Returns from where all can be had again that is settled from now on."""
        waiting = self.answer.unsettled
        return Standing(
            sent_ms=self._sent_ms,
            start_ms=self.inquiry.question.start_ms,
            next_ms=int(waiting[0]) if len(waiting) else self._next_ms,
            counted_ms=max(self._next_ms - 1, self.answer.counted_ms),
            account=self.answer.account.numbers(),
            bars=self.receipt.bars,
            first_ms=self.receipt.first_ms,
            last_ms=self.receipt.last_ms,
        )

    def _mark(self, before: Standing, sent_ms: int) -> bytes:
        """Returns the token behind a message: it ends in what was settled after `before`, since less was held then."""
        if self._marks is None:
            return b""
        inquiry = self.inquiry
        as_of = inquiry.question.snapshot.as_of
        token = self._marks.make(as_of, inquiry.symbol.symbol_id, replace(before, sent_ms=sent_ms))
        return bars_pb2.StreamBarsResponse(resume_token=token).SerializeToString()

    def _hold(self, settled: Block, before: Standing | None = None) -> None:
        """Keeps answered bars until they fill a message, or puts all of them out if none follow (before is None)."""
        self.receipt.add_bars(settled.bars.ts)
        whole = before is not None
        self._held.append(settled.take(slice(int(np.searchsorted(settled.bars.ts, self._sent_ms, "right")), None)))
        if whole and sum(map(len, self._held)) < CHUNK:
            return
        ready = join(self._held)
        cut = len(ready) - len(ready) % CHUNK if whole else len(ready)
        self._held = [ready.take(slice(cut, None))]
        for start in range(0, cut, CHUNK):
            part = ready.take(slice(start, min(start + CHUNK, cut)))
            behind = self._mark(before, int(part.bars.ts[-1])) if before else b""
            self.outbox.append(chunk(self._head(), part) + behind)
        if not whole and self._replaces_all:
            self.outbox.append(self._head().SerializeToString())

    def _head(self) -> bars_pb2.StreamBarsResponse:
        symbol, replaces_all = self.inquiry.symbol, self._replaces_all
        self._replaces_all = False
        return bars_pb2.StreamBarsResponse(symbol_id=symbol.symbol_id, ticker=symbol.ticker, replaces_all=replaces_all)
