"""What a series answers to a question, block by block, and the account of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import EVERY_DAY, Sessions, days_of_minutes
from services.ingest.quality import quality
from services.ingest.reading.blocks import Block, join
from services.ingest.reading.rollup import Roller, Windows
from services.ingest.store.bars import Span
from services.ingest.timeframes import DAY_MS, END_MS, FIRST_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.columns import IntArray
    from services.ingest.reading.adjust import Action, Adjuster
    from services.ingest.store.snapshots import Snapshot
    from services.ingest.store.symbols import Symbol
    from services.ingest.timeframes import Timeframe


# The contract's numbers of Adjustment.
RAW, SPLITS, SPLITS_AND_DIVIDENDS = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Says what is asked of each series; start inclusive, end exclusive, in milliseconds as the bars' ts."""

    timeframe: Timeframe
    snapshot: Snapshot
    start_ms: int = FIRST_MS
    end_ms: int = END_MS
    min_quality: float = 0.0
    regular: bool = False
    newest_first: bool = False
    adjustment: int = RAW

    @property
    def as_of_ms(self) -> int:
        return int(self.snapshot.as_of.timestamp() * 1000)

    @property
    def plain(self) -> bool:
        """Says whether the answer is the stored bars as they are."""
        return not (self.timeframe.derived or self.regular or self.min_quality > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """Puts a question to one symbol, with the actions that its answer is adjusted by."""

    question: Question
    symbol: Symbol
    sessions: Sessions
    actions: tuple[Action, ...] = ()

    def span(self, start_ms: int | None = None, end_ms: int | None = None) -> Span:
        """Returns the stored bars of the question's span, or of another one."""
        question = self.question
        return Span(
            symbol_id=self.symbol.symbol_id,
            timeframe=question.timeframe.stored,
            start_ms=question.start_ms if start_ms is None else start_ms,
            end_ms=question.end_ms if end_ms is None else end_ms,
        )

    def asking(self, question: Question) -> Inquiry:
        """Returns another question to the same symbol."""
        return replace(self, question=question)


@dataclass(slots=True)
class Account:
    """Counts what a series has in a span: stored bars by session, and those that were left out.

    A span may hold bars of a session whose regular hours it does not meet; such a session is not expected, nor present.
    """

    sessions: Sessions
    daily: bool
    start_ms: int = FIRST_MS
    end_ms: int = END_MS
    stored: int = 0
    filtered: int = 0
    actions: int = 0
    sessions_present: int = 0
    first_day: int | None = None
    last_day: int | None = None
    _edge: int | None = None

    def note(self, ts: IntArray) -> None:
        """Counts stored bars; each block must follow the one before, in either order of time."""
        if not len(ts):
            return
        days = ts // DAY_MS if self.daily else days_of_minutes(ts, self.sessions.calendar)
        days = days[np.concatenate([[True], days[1:] != days[:-1]])]
        first, last = int(min(days[0], days[-1])), int(max(days[0], days[-1]))
        self.stored += len(ts)
        new = days[days != self._edge] if self._edge is not None else days
        expected, end = self.sessions.days_within(self.start_ms, self.end_ms, daily=self.daily)
        self.sessions_present += self.sessions.held_of_distinct(new[(new >= expected) & (new < end)])
        self.first_day = first if self.first_day is None else min(first, self.first_day)
        self.last_day = last if self.last_day is None else max(last, self.last_day)
        self._edge = int(days[-1])

    def start_after(self, day: int | None) -> None:
        """Leaves a session out that an earlier page has counted."""
        self._edge = day

    def numbers(self) -> tuple[int | None, ...]:
        """Returns all that was counted, for `restore`."""
        counted = (self.stored, self.filtered, self.actions, self.sessions_present)
        return (*counted, self.first_day, self.last_day, self._edge)

    def restore(self, numbers: Sequence[int | None]) -> None:
        """Goes on from what another account has counted."""
        self.stored, self.filtered, self.actions, self.sessions_present = (number or 0 for number in numbers[:4])
        self.first_day, self.last_day, self._edge = numbers[4:]


class SeriesAnswer:
    """Turns the stored bars of one series into the bars that were asked for."""

    def __init__(self, inquiry: Inquiry, adjuster: Adjuster | None = None) -> None:
        question, sessions = inquiry.question, inquiry.sessions
        timeframe = question.timeframe
        self._question = question
        self._sessions = sessions
        self._adjuster = adjuster
        self._regular = question.regular and not timeframe.daily and sessions.calendar != EVERY_DAY
        self._windows = Windows(timeframe, sessions, regular=self._regular) if timeframe.derived else None
        self._roller = self._new_roller()
        self.account = Account(sessions, timeframe.daily, question.start_ms, question.end_ms)
        self.counted_ms = FIRST_MS - 1
        """Stored bars up to here are in the account already: they are read again for the window they lie in."""

    def push(self, block: Block) -> Block:
        """Takes the next stored bars, ascending within the block, and returns what they settle, ascending."""
        kept = self.keep(block)
        return kept if self._roller is None else self._roller.push(kept)

    def keep(self, block: Block) -> Block:
        """Counts stored bars and returns those that go into the answer, adjusted."""
        ts = block.bars.ts
        new = ts[np.searchsorted(ts, self.counted_ms, "right") :]
        self.account.note(new[::-1] if self._question.newest_first else new)
        if self._regular:
            block = block.take(self._sessions.regular(ts))
        if self._question.min_quality > 0:
            good = quality(block.flags) >= self._question.min_quality
            self.account.filtered += int((~good & (block.bars.ts > self.counted_ms)).sum())
            block = block.take(good)
        if self._adjuster is not None and len(block):
            self.account.actions = max(self.account.actions, self._adjuster.after(int(block.bars.ts[0])))
            block = self._adjuster.apply(block)
        return block

    def finish(self) -> Block:
        """Returns what was left open when there are no more stored bars."""
        return join([]) if self._roller is None else self._roller.finish()

    @property
    def unsettled(self) -> IntArray:
        """Returns the times of the bars that wait for the rest of their window."""
        return join([]).bars.ts if self._roller is None else self._roller.waiting

    def end_of(self, start_ms: int) -> int:
        """Returns the first instant after the bar that starts here."""
        return start_ms + 1 if self._windows is None else int(self._windows.ends(np.array([start_ms]))[0])

    def _new_roller(self) -> Roller | None:
        if self._windows is None:
            return None
        question = self._question
        end_ms = min(question.end_ms, question.as_of_ms)
        return Roller(self._windows, start_ms=question.start_ms, end_ms=end_ms, newest_first=question.newest_first)
