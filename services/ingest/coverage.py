"""Coverage of a series: which sessions of a span are held, and for each that is not, why.

Days are numbered from 1970-01-01; ranges of days are (first, end), end exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.timeframes import MINUTE, MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from services.ingest.calendar import Sessions
    from services.ingest.columns import BoolArray, IntArray
    from services.ingest.planner import Ranges
    from services.ingest.store.symbols import Symbol


class Why(IntEnum):
    """Says why a session is not held; the numbers are those of the contract."""

    NEVER_ASKED = 1
    IN_PROGRESS = 2
    OUTSIDE_PLAN = 3
    BEFORE_LISTING = 4
    AFTER_DELISTING = 5
    BEFORE_FIRST_BAR = 6
    SUSPECT = 7
    GIVEN_UP = 8
    FAILED = 9
    DELETED = 10
    NO_BARS = 11
    NOT_CLOSED = 12


UNEXPECTED = frozenset({Why.BEFORE_LISTING, Why.AFTER_DELISTING, Why.BEFORE_FIRST_BAR})
"""Nobody expects bars of such sessions."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A run of sessions that came empty or thin; next_ask_time is None once it is given up."""

    first: int
    end: int
    asks: int
    next_ask_time: datetime | None
    gave_up_reason: str


@dataclass(frozen=True, slots=True)
class OpenWork:
    """Days that an unfinished slice will bring, and why it waits, if it does."""

    first: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What is kept of a series: days that were asked for, failed, lie outside the plan or were deleted."""

    asked: Ranges = ()
    failed: Ranges = ()
    outside_plan: Ranges = ()
    deleted: Ranges = ()
    last_error: str = ""
    first_bar: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a series over a span.

    `listed` are the days on which it has a ticker; `present` are days with a bar, and of minutes `regular` says how
    many bars of each lie in regular hours.
    """

    symbol: Symbol
    timeframe: int
    listed: Ranges
    ledger: Ledger
    suspects: Sequence[Suspect] = ()
    open_work: Sequence[OpenWork] = ()
    present: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    regular: IntArray = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Hole:
    """A run of sessions with one reason; first and last are days with a session."""

    first: int
    last: int
    sessions: int
    why: Why
    detail: str = ""
    asks: int | None = None
    next_ask_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a series holds of a span. `holes` are sessions without a bar, `doubtful` ones whose bars may be too few.

    `expected` leaves out the sessions of UNEXPECTED; `regular_share` is of minutes only.
    """

    symbol: Symbol
    timeframe: int
    expected: int
    present: int
    holes: Sequence[Hole]
    doubtful: Sequence[Hole]
    regular_share: float | None

    @property
    def missing(self) -> int:
        return sum(hole.sessions for hole in self.holes if hole.why not in UNEXPECTED)

    @property
    def complete(self) -> bool:
        return not self.missing and not self.doubtful


def cover(facts: Facts, calendar: Sessions, first: int, end: int, closed: int) -> Coverage:
    """Accounts for the sessions from first to end; `closed` is the first day whose session is not over."""
    at, stop = np.searchsorted(calendar.days, [first, max(first, end)])
    days = calendar.days[at:stop]
    held = np.isin(days, facts.present)
    marks = _Marks(days)
    _mark_missing(marks, facts, closed)
    missing = marks.holes(~held)
    unexpected = np.isin(marks.why(), list(UNEXPECTED))
    expected: BoolArray = held | ~unexpected
    return Coverage(
        symbol=facts.symbol,
        timeframe=facts.timeframe,
        expected=int(expected.sum()),
        present=int(held.sum()),
        holes=missing,
        doubtful=_doubts(facts, days).holes(held),
        regular_share=_regular_share(facts, calendar, slice(int(at), int(stop)), expected),
    )


def _mark_missing(marks: _Marks, facts: Facts, closed: int) -> None:
    """Marks all sessions with why they might be missing; a later mark replaces an earlier one."""
    ledger = facts.ledger
    marks.put(Why.NEVER_ASKED)
    marks.put_all(Why.OUTSIDE_PLAN, ledger.outside_plan)
    marks.put_all(Why.NO_BARS, ledger.asked)
    if ledger.first_bar is not None:
        marks.put_all(Why.BEFORE_FIRST_BAR, [(first, min(end, ledger.first_bar)) for first, end in ledger.asked])
    marks.put_all(Why.FAILED, ledger.failed, ledger.last_error)
    _mark_suspects(marks, facts, given_up=True)
    marks.put_all(Why.DELETED, ledger.deleted)
    _mark_open(marks, facts)
    _mark_suspects(marks, facts, given_up=False)
    if facts.listed:
        marks.put(Why.BEFORE_LISTING, end=min(first for first, _ in facts.listed))
        marks.put(Why.AFTER_DELISTING, max(end for _, end in facts.listed))
    marks.put(Why.NOT_CLOSED, closed)


def _doubts(facts: Facts, days: IntArray) -> _Marks:
    """Marks sessions that hold bars, but perhaps not all."""
    marks = _Marks(days)
    if facts.timeframe == MINUTE:
        marks.put(Why.NEVER_ASKED)
        _mark_open(marks, facts)
        marks.put_all(None, facts.ledger.asked)
        _mark_suspects(marks, facts, given_up=True)
        _mark_suspects(marks, facts, given_up=False)
    return marks


def _mark_open(marks: _Marks, facts: Facts) -> None:
    for work in facts.open_work:
        marks.put(Why.IN_PROGRESS, work.first, work.end, work.reason)


def _mark_suspects(marks: _Marks, facts: Facts, *, given_up: bool) -> None:
    for one in facts.suspects:
        if bool(one.gave_up_reason) == given_up:
            why = Why.GIVEN_UP if given_up else Why.SUSPECT
            marks.put(why, one.first, one.end, one.gave_up_reason, one)


def _regular_share(facts: Facts, calendar: Sessions, at: slice, expected: BoolArray) -> float | None:
    """Returns which share of the minutes of regular hours has a bar."""
    if facts.timeframe != MINUTE:
        return None
    days = calendar.days[at][expected]
    minutes = ((calendar.close_ms[at] - calendar.open_ms[at]) // MINUTE_MS)[expected]
    bars = facts.regular[np.isin(facts.present, days)]
    return float(bars.sum() / minutes.sum()) if len(days) else None


class _Marks:
    """A story for each of some days: why it is missing, and what is known of that; runs of one story are one hole."""

    def __init__(self, days: IntArray) -> None:
        self._days = days
        self._marked = np.zeros(len(days), np.int64)
        self._stories: list[Hole | None] = [None]

    def why(self) -> IntArray:
        """Returns the reason of each day, 0 for none."""
        reasons = np.array([story.why if story else 0 for story in self._stories], np.int64)
        found: IntArray = reasons[self._marked]
        return found

    def put(
        self,
        why: Why | None,
        first: int | None = None,
        end: int | None = None,
        detail: str = "",
        suspect: Suspect | None = None,
    ) -> None:
        """Marks the days from first to end, open where they are None; without a reason, takes the marks away."""
        asks, next_time = (suspect.asks, suspect.next_ask_time) if suspect else (None, None)
        story = Hole(0, 0, 0, why, detail, asks, next_time) if why else None
        if story not in self._stories[-1:]:
            self._stories.append(story)
        start, stop = (None if day is None else int(np.searchsorted(self._days, day)) for day in (first, end))
        self._marked[start:stop] = len(self._stories) - 1

    def put_all(self, why: Why | None, spans: Iterable[tuple[int, int]], detail: str = "") -> None:
        for first, end in spans:
            if first < end:
                self.put(why, first, end, detail)

    def holes(self, chosen: BoolArray) -> list[Hole]:
        """Returns the runs of marked days among the chosen ones, ascending."""
        label = np.where(chosen, self._marked, 0)
        starts = np.flatnonzero(np.diff(label, prepend=-1)).tolist()
        found = []
        for start, stop in pairwise([*starts, len(label)]):
            story = self._stories[label[start]]
            if story is not None:
                first, last = int(self._days[start]), int(self._days[stop - 1])
                found.append(replace(story, first=first, last=last, sessions=stop - start))
        return found
