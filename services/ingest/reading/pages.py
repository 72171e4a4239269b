"""Reads pages of one series' answer, and says which sessions an answer should hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.reading.adjusting import adjuster_for
from services.ingest.reading.answers import SeriesAnswer
from services.ingest.reading.blocks import Block, join
from services.ingest.store import bars
from services.ingest.timeframes import END_MS, FIRST_MS, MINUTE_MS

if TYPE_CHECKING:
    from services.ingest.reading.adjust import Adjuster
    from services.ingest.reading.answers import Account, Inquiry
    from services.kit.db import Connection

# A page that must read more stored bars than this ends early, with a token: it would hold too much memory.
MAX_STORED = 200_000
_MIN_BATCH, _MAX_BATCH = 1_000, 50_000
_FILTERED_RATIO = 5


@dataclass(frozen=True, slots=True)
class Position:
    """Says where a page begins: stored bars from (newest first: before) next_ms; edge_day is counted already."""

    next_ms: int
    edge_day: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """Holds bars in the order asked for, where the next page begins, and the account of this one."""

    bars: Block
    next: Position | None
    account: Account
    sessions_expected: int


async def read_page(connection: Connection, inquiry: Inquiry, *, position: Position | None, size: int) -> Page:
    """Returns at most `size` bars; fewer with a next position where too many stored bars had to be read."""
    pages = _Reading(inquiry, position, await adjuster_for(connection, inquiry))
    exhausted = await pages.collect(connection, size)
    answer, next_ms = pages.cut(size, exhausted=exhausted)
    account = pages.account(next_ms)
    first, end = pages.counted_days(account, last=next_ms is None)
    expected = await expected_sessions(connection, inquiry, account, first=first, end=end)
    newest_first = inquiry.question.newest_first
    if newest_first:
        answer = answer.take(slice(None, None, -1))
    if next_ms is None:
        return Page(answer, None, account, expected)
    edge = account.first_day if newest_first else account.last_day
    return Page(answer, Position(next_ms, pages.edge if edge is None else edge), account, expected)


class _Reading:
    """Holds what one page has read so far."""

    def __init__(self, inquiry: Inquiry, position: Position | None, adjuster: Adjuster | None) -> None:
        self._inquiry = inquiry
        self._question = inquiry.question
        self._adjuster = adjuster
        self._answer = SeriesAnswer(inquiry, adjuster)
        self._stored: list[Block] = []
        self._settled: list[Block] = []
        self.edge = position.edge_day if position else None
        if position is None:
            self._span = inquiry.span()
        elif self._question.newest_first:
            self._span = inquiry.span(end_ms=position.next_ms)
        else:
            self._span = inquiry.span(start_ms=position.next_ms)

    async def collect(self, connection: Connection, size: int) -> bool:
        """Reads stored bars until they settle more than a page; says whether there are no more."""
        question, batch = self._question, self._batch(size)
        while sum(map(len, self._stored)) < MAX_STORED and sum(map(len, self._settled)) <= size:
            rows = await bars.read(
                connection, self._span, question.snapshot, limit=batch, newest_first=question.newest_first
            )
            if question.newest_first:
                rows = rows.take(slice(None, None, -1))
            self._stored.append(rows)
            self._settled.append(self._answer.push(rows))
            if len(rows) < batch:
                self._settled.append(self._answer.finish())
                return True
            self._move(rows)
        return False

    def cut(self, size: int, *, exhausted: bool) -> tuple[Block, int | None]:
        """Returns the page's bars, ascending, and where the stored bars of the next page begin."""
        newest_first = self._question.newest_first
        answer = join(self._settled[::-1] if newest_first else self._settled)
        if len(answer) <= size:
            return answer, None if exhausted else self._first_unsettled()
        if newest_first:
            answer = answer.take(slice(-size, None))
            return answer, int(answer.bars.ts[0])
        answer = answer.take(slice(0, size))
        return answer, self._answer.end_of(int(answer.bars.ts[-1]))

    def account(self, next_ms: int | None) -> Account:
        """Counts the stored bars of the page again, without those that were read beyond its end."""
        counting = SeriesAnswer(self._inquiry, self._adjuster)
        counting.account.start_after(self.edge)
        for block in self._stored:
            ts = block.bars.ts
            if next_ms is not None:
                block = block.take(np.flatnonzero(ts >= next_ms if self._question.newest_first else ts < next_ms))  # noqa: PLW2901
            counting.keep(block)
        return counting.account

    def counted_days(self, account: Account, *, last: bool) -> tuple[int | None, int | None]:
        """Returns the days between which a page accounts for all sessions, None where the span's end is an end."""
        if self._question.newest_first:
            return None if last else account.first_day, self.edge
        first = None if self.edge is None else self.edge + 1
        if last:
            return first, None
        return first, first if account.last_day is None else account.last_day + 1

    def _batch(self, size: int) -> int:
        if self._question.plain:
            return size + 1
        timeframe = self._question.timeframe
        ratio = timeframe.length_ms // MINUTE_MS if timeframe.derived and not timeframe.daily else _FILTERED_RATIO
        return min(max((size + 1) * ratio, _MIN_BATCH), _MAX_BATCH)

    def _move(self, rows: Block) -> None:
        if self._question.newest_first:
            self._span = replace(self._span, end_ms=int(rows.bars.ts[0]))
        else:
            self._span = replace(self._span, start_ms=int(rows.bars.ts[-1]) + 1)

    def _first_unsettled(self) -> int:
        """Returns where to go on where the page ends before it is full: no window is cut in two."""
        waiting = self._answer.unsettled
        if self._question.newest_first:
            return int(waiting[-1]) + 1 if len(waiting) else self._span.end_ms
        return int(waiting[0]) if len(waiting) else self._span.start_ms


async def expected_sessions(
    connection: Connection, inquiry: Inquiry, account: Account, *, first: int | None = None, end: int | None = None
) -> int:
    """Counts the sessions of an answer that lie between the series' first and last bar, held or missing.

    Days are limits that are known already, None where the question's span ends: there the series is asked whether it
    goes on beyond, unless the answer reaches that end anyway.
    """
    question, sessions = inquiry.question, inquiry.sessions
    span_first, span_end = sessions.days_within(question.start_ms, question.end_ms, daily=question.timeframe.daily)
    beyond = _Beyond(connection, inquiry)
    if account.first_day is None or account.last_day is None:
        if (first is None and not await beyond.before()) or (end is None and not await beyond.after()):
            return 0
        first, end = span_first if first is None else first, span_end if end is None else end
        return sessions.count(max(first, span_first), min(end, span_end))
    if first is None:
        reaches = not sessions.count(span_first, account.first_day) or await beyond.before()
        first = span_first if reaches else account.first_day
    if end is None:
        reaches = not sessions.count(account.last_day + 1, span_end) or await beyond.after()
        end = span_end if reaches else account.last_day + 1
    return sessions.count(max(first, span_first), min(end, span_end))


class _Beyond:
    """Says whether a series has bars outside a question's span."""

    def __init__(self, connection: Connection, inquiry: Inquiry) -> None:
        self._connection = connection
        self._inquiry = inquiry

    async def before(self) -> bool:
        start_ms = self._inquiry.question.start_ms
        return start_ms > FIRST_MS and await self._any(FIRST_MS, start_ms, newest_first=True)

    async def after(self) -> bool:
        end_ms = self._inquiry.question.end_ms
        return end_ms < END_MS and await self._any(end_ms, END_MS, newest_first=False)

    async def _any(self, start_ms: int, end_ms: int, *, newest_first: bool) -> bool:
        span, snapshot = self._inquiry.span(start_ms, end_ms), self._inquiry.question.snapshot
        return len(await bars.read(self._connection, span, snapshot, limit=1, newest_first=newest_first)) > 0
