"""Accounts for an answer: what it holds, what it lacks, and why it is empty."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.ingest.columns import IntArray
    from services.ingest.reading.answers import Account, Question
    from services.ingest.store.figures import Days, Figures
    from services.ingest.store.snapshots import Snapshot
    from services.ingest.store.symbols import Symbol


_SUMS = ("sessions_expected", "sessions_missing", "bars_filtered", "actions_applied")


class Empty(IntEnum):
    """Says why an answer has no bars; the numbers are those of the contract."""

    NEVER_INGESTED = 1
    OUTSIDE_COVERAGE = 2
    OUTSIDE_PLAN = 3
    FILTERED = 4
    NO_BARS = 5
    UNCHANGED = 6


@dataclass(slots=True)
class Receipt:
    """Adds up the accounts of an answer's series."""

    snapshot: Snapshot
    bars: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    sessions_expected: int | None = None
    sessions_missing: int | None = None
    bars_filtered: int | None = None
    actions_applied: int | None = None
    sessions_suspect: int | None = None
    """These stay unknown where an answer holds only what changed."""
    symbol_ids: list[int] = field(default_factory=list)
    silent: list[tuple[Symbol, Account]] = field(default_factory=list)
    """Series without bars in the answer, of which is still to be said why."""
    empty: list[tuple[Symbol, Empty]] = field(default_factory=list)

    @property
    def empty_reason(self) -> Empty | None:
        """Returns why there are no bars at all; of several reasons the commonest."""
        reasons = [reason for _, reason in self.empty]
        return (
            max(set(reasons), key=lambda reason: (reasons.count(reason), -reason))
            if reasons and not self.bars
            else None
        )

    def add_bars(self, ts: IntArray) -> None:
        """Counts bars that go out, in any order."""
        if len(ts):
            first, last = int(ts.min()), int(ts.max())
            self.bars += len(ts)
            self.first_ms = first if self.first_ms is None else min(first, self.first_ms)
            self.last_ms = last if self.last_ms is None else max(last, self.last_ms)

    def add_account(self, symbol: Symbol, account: Account, *, bars: int, expected: int) -> None:
        """Counts what a series should hold and does; `bars` are those that went out."""
        if not bars:
            self.silent.append((symbol, account))
        self.symbol_ids.append(symbol.symbol_id)
        self.sessions_expected = (self.sessions_expected or 0) + expected
        self.sessions_missing = (self.sessions_missing or 0) + max(expected - account.sessions_present, 0)
        self.bars_filtered = (self.bars_filtered or 0) + account.filtered
        self.actions_applied = (self.actions_applied or 0) + account.actions

    def add(self, other: Receipt) -> None:
        """Counts what the receipt of one series holds."""
        self.bars += other.bars
        for edge in (other.first_ms, other.last_ms):
            if edge is not None:
                self.first_ms = edge if self.first_ms is None else min(edge, self.first_ms)
                self.last_ms = edge if self.last_ms is None else max(edge, self.last_ms)
        for name in _SUMS:
            value = getattr(other, name)
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + value)
        self.symbol_ids += other.symbol_ids
        self.silent += other.silent

    def add_compared(self, symbol: Symbol, *, bars: int) -> None:
        """Counts a series of which only what changed was sent; `bars` counts those that are gone, too."""
        self.symbol_ids.append(symbol.symbol_id)
        if not bars:
            self.empty.append((symbol, Empty.UNCHANGED))

    def explain(self, question: Question, figures: Mapping[int, Figures]) -> None:
        """Says of each series without bars why it has none, by the figures of these series."""
        for symbol, account in self.silent:
            self.empty.append((symbol, why_empty(question, account, figures.get(symbol.symbol_id))))
        self.silent = []


def why_empty(question: Question, account: Account, figures: Figures | None) -> Empty:
    """Returns why a series has no bars to answer with, as far as is known now."""
    if account.stored:
        return Empty.FILTERED
    if figures is None or not (figures.asked or figures.outside_plan or figures.bars):
        return Empty.NEVER_INGESTED
    sessions = account.sessions
    first, end = sessions.days_within(question.start_ms, question.end_ms, daily=question.timeframe.daily)
    if not sessions.count(first, end):
        return Empty.OUTSIDE_COVERAGE
    if _meets(figures.asked, first, end):
        return Empty.NO_BARS
    return Empty.OUTSIDE_PLAN if _meets(figures.outside_plan, first, end) else Empty.OUTSIDE_COVERAGE


def _meets(ranges: Days, first: int, end: int) -> bool:
    return any(start < end and first < stop for start, stop in ranges)
