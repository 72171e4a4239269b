"""Sends what differs between the answers at two instants: bars added or changed, and the times of those gone."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from mdw.ingest.v1 import bars_pb2
from services.ingest.calendar import days_of_minutes, start_of_day, weekday
from services.ingest.reading.adjust import DIVIDEND
from services.ingest.reading.adjusting import adjuster_for
from services.ingest.reading.answers import SeriesAnswer
from services.ingest.reading.blocks import Block, join
from services.ingest.reading.series import Series
from services.ingest.reading.streams import Stream
from services.ingest.reading.wire import CHUNK, chunk
from services.ingest.store import bars
from services.ingest.store.instants import to_ms
from services.ingest.timeframes import DAY_MS, WEEK_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.ingest.columns import IntArray
    from services.ingest.reading.adjust import Adjuster
    from services.ingest.reading.answers import Inquiry, Question
    from services.ingest.reading.receipts import Receipt
    from services.ingest.store.figures import Written
    from services.ingest.store.sources import View
    from services.kit.db import Connection

# Both answers of a piece are held in memory: so many days of minutes, or all days there are.
_PIECE_DAYS = {False: 60, True: 1_000_000}
_MOST_ROWS = 100_000


class ChangedSeries:
    """Compares two answers of one symbol, piece by piece; where their adjustments differ, the new one is sent whole."""

    def __init__(
        self,
        old: Inquiry,
        new: Inquiry,
        receipt: Receipt,
        spans: Iterable[tuple[int, int]],
        *,
        anew: bool = False,
    ) -> None:
        """Takes the same question as of two instants, and the spans in which stored bars may differ.

        `anew` says that the old answer cannot be had any more.
        """
        self.symbol = new.symbol
        self.whole = Series(new, replaces_all=True) if anew else None
        self.bars = 0
        self._old = old
        self._new = new
        self._receipt = receipt
        self._adjusters: tuple[Adjuster | None, Adjuster | None] | None = None
        self._pieces = deque(self._cut(spans))
        self._outbox: deque[bytes] = deque()

    @property
    def outbox(self) -> deque[bytes]:
        return self._outbox if self.whole is None else self.whole.outbox

    @property
    def symbol_id(self) -> int:
        return self.symbol.symbol_id

    async def prepare(self, connection: Connection) -> None:
        """Finds out, once, whether bars are adjusted otherwise than before."""
        if self._adjusters is not None or self.whole is not None:
            return
        old, new = await adjuster_for(connection, self._old), await adjuster_for(connection, self._new)
        if old is new or (old is not None and new is not None and old.same_as(new)):
            self._adjusters = old, new
        else:
            self.whole = Series(self._new, replaces_all=True)

    async def compare(self, connection: Connection) -> bool:
        """Compares the next piece and puts what differs into the outbox; says whether there was one."""
        if not self._pieces or self._adjusters is None:
            return False
        piece = self._pieces[0]
        old = await _answer(connection, self._old, self._adjusters[0], piece)
        new = await _answer(connection, self._new, self._adjusters[1], piece)
        self._pieces.popleft()
        added, deleted = difference(old, new)
        self.bars += len(added) + len(deleted)
        self._receipt.add_bars(added.bars.ts)
        self._put(added, deleted)
        return True

    def _put(self, added: Block, deleted: IntArray) -> None:
        head = bars_pb2.StreamBarsResponse(symbol_id=self.symbol.symbol_id, ticker=self.symbol.ticker)
        for start in range(0, max(len(added), len(deleted)), CHUNK):
            part = slice(start, start + CHUNK)
            self._outbox.append(chunk(head, added.take(part), deleted[part]))

    def _cut(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Returns the pieces that the spans touch, each of whole days, and of whole weeks for weeks."""
        daily, calendar = self._new.question.timeframe.daily, self._new.sessions.calendar
        width = _PIECE_DAYS[daily]
        pieces: dict[int, tuple[int, int]] = {}
        for first, end in (self._days(span) for span in spans):
            for number in range(first // width, (end - 1) // width + 1):
                low, high = max(first, number * width), min(end, (number + 1) * width)
                known = pieces.get(number, (low, high))
                pieces[number] = (min(known[0], low), max(known[1], high))
        return [
            (low * DAY_MS, high * DAY_MS) if daily else (start_of_day(low, calendar), start_of_day(high, calendar))
            for _, (low, high) in sorted(pieces.items())
        ]

    def _days(self, span: tuple[int, int]) -> tuple[int, int]:
        """Returns the days, end exclusive, of all windows that bars of a span may lie in."""
        times = np.array(span, np.int64)
        timeframe = self._new.question.timeframe
        if not timeframe.daily:
            first, last = days_of_minutes(times, self._new.sessions.calendar).tolist()
            return first, last + 1
        first, last = (times // DAY_MS).tolist()
        if timeframe.derived:
            first, last = first - weekday(first), last - weekday(last) + 6
        return first, last + 1


class ChangeStream(Stream[ChangedSeries]):
    """Sends the differences of many series."""

    def __init__(self, view: View, series: Iterable[ChangedSeries], receipt: Receipt) -> None:
        super().__init__(view, series, receipt)
        self._compared = receipt

    async def answer(self, connection: Connection, series: ChangedSeries) -> None:
        await series.prepare(connection)
        if series.whole is not None:
            await self.send_whole(connection, series.whole)
            return
        while await series.compare(connection):
            await self.send(series)
        self._compared.add_compared(series.symbol, bars=series.bars)


async def _answer(connection: Connection, inquiry: Inquiry, adjuster: Adjuster | None, piece: tuple[int, int]) -> Block:
    question = inquiry.question
    span = inquiry.span(max(piece[0], question.start_ms), min(piece[1], question.end_ms))
    answer = SeriesAnswer(inquiry, adjuster)
    rows = await bars.read(connection, span, question.snapshot, limit=_MOST_ROWS)
    return join([answer.push(rows), answer.finish()])


def spans_to_compare(
    old: Question, new: Question, written: Written | None, changed: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Returns where a series' answers may differ: where it was written, and where a window was open at the old time."""
    if written is None or new.snapshot.as_of == old.snapshot.as_of:
        return []
    untouched = old.snapshot.sees(written.write_id)
    spans = [] if untouched else list(changed)
    if new.timeframe.derived:
        # A window of at most a week that was partial then may have ended since, with the same bars.
        still_open = old.as_of_ms - WEEK_MS
        if not untouched or (written.last_ts and to_ms(written.last_ts) >= still_open):
            spans.append((still_open, old.as_of_ms))
    return spans


def may_be_adjusted_otherwise(old: Inquiry, new: Inquiry, days: Written | None) -> bool:
    """Says whether the same bars may be adjusted otherwise: by other actions, or other closes before dividends."""
    if old.actions != new.actions:
        return True
    dividends = any(action.kind == DIVIDEND for action in new.actions)
    return dividends and days is not None and not old.question.snapshot.sees(days.write_id)


def difference(old: Block, new: Block) -> tuple[Block, IntArray]:
    """Returns the bars of a new answer that the old one has not, or has otherwise, and the times of those now gone."""
    at = np.minimum(np.searchsorted(old.bars.ts, new.bars.ts), max(len(old) - 1, 0))
    if not len(old):
        return new, old.bars.ts
    before = old.take(at)
    same = (before.bars.ts == new.bars.ts) & before.bars.same_values(new.bars) & (before.flags == new.flags)
    gone = old.bars.ts[~np.isin(old.bars.ts, new.bars.ts, assume_unique=True)]
    return new.take(~same), gone
