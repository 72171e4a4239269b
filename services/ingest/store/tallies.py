"""Adds up what a part of many series does, and says it to the function that ends the part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from services.ingest.calendar import date_of
from services.ingest.columns import NO_TIME, inside
from services.ingest.slices import runs_without
from services.ingest.store.instants import from_ms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from numpy.typing import NDArray

    from services.ingest.batches import Batch
    from services.ingest.columns import BoolArray, Columns, IntArray
    from services.ingest.merge import Held, Outcome

_NO_TIMES = np.empty(0, np.int64)


@dataclass(slots=True)
class Tally:
    """What a part adds to its series, an element each, and in all."""

    inserted: IntArray
    validated: IntArray
    first: IntArray
    last: IntArray
    changed: BoolArray
    tails: list[bytes | None]
    updated: int = 0
    unchanged: int = 0
    touched: list[int] = field(default_factory=list)
    superseded: dict[int, int] = field(default_factory=dict)
    pieces: list[tuple[Held, IntArray]] = field(default_factory=list)
    """Bars to be inserted, and whose they are."""
    inserted_times: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    """Whose bars were inserted, and their times."""
    stored: dict[int, IntArray] = field(default_factory=dict)
    """Times of the bars that a series held in the span before, by its position."""

    @classmethod
    def of(cls, count: int) -> Tally:
        none, never = np.zeros(count, np.int64), np.full(count, NO_TIME)
        return cls(none, none.copy(), never, never.copy(), np.zeros(count, np.bool_), [None] * count)

    def add(self, at: int, symbol_id: int, outcome: Outcome) -> None:
        """Adds what an answer changed in a series."""
        new = outcome.inserted
        self.inserted[at] += len(new)
        self.validated[at] += outcome.validated
        self.updated += outcome.updated
        self.unchanged += outcome.unchanged
        self.tails[at] = outcome.tail if outcome.tail is not None else self.tails[at]
        if outcome.touched:
            self.changed[at] = True
            self.touched += outcome.touched
        if len(new):
            first, last = int(new.bars.ts[0]), int(new.bars.ts[-1])
            self.first[at] = first if self.first[at] == NO_TIME else min(first, self.first[at])
            self.last[at] = max(last, self.last[at])
            self.pieces.append((new, np.full(len(new), symbol_id)))

    def lose(self, day: int, count: int) -> None:
        """Adds bars of a day that later answers know otherwise."""
        if count:
            self.superseded[day] = self.superseded.get(day, 0) + count


def superseded(bars: Columns, own: Held, later: Sequence[tuple[int, int]]) -> int:
    """Counts the bars that later answers know otherwise."""
    old = bars.take(np.flatnonzero(inside(bars.ts, later)))
    at = np.searchsorted(own.bars.ts, old.ts)
    known = at < len(own)
    known[known] = own.bars.ts[at[known]] == old.ts[known]
    same = old.take(np.flatnonzero(known)).same_values(own.bars.take(at[known]))
    return len(old) - int(same.sum())


def answered(part: Batch) -> tuple[IntArray, IntArray]:
    """Returns for each series the first day that it is answered for, and the session after the last one."""
    days, known = part.span.days(part.bars.ts), part.sessions.days
    filled = np.diff(part.starts) > 0
    first = np.full(len(part.symbol_ids), part.first_day)
    end = first.copy()
    first[filled] = days[part.starts[:-1][filled]]
    last = days[part.starts[1:][filled] - 1] + 1
    at = np.searchsorted(known, last)
    end[filled] = np.where(at < len(known), known[np.minimum(at, len(known) - 1)], last)
    if part.whole:
        end[~filled] = part.span.session_from(part.end_day)
    return first, end


def ending(part: Batch, tally: Tally, new_rejects: list[int]) -> tuple[Any, ...]:
    """Returns what ends a part, from the third argument of ingest.end_many on to the last but four."""
    first, end = answered(part)
    sessions, minutes = _sessions(part, tally)
    return (
        part.timeframe,
        part.sessions.calendar,
        part.symbol_ids.tolist(),
        _once(tally.inserted),
        _once(tally.validated),
        _once(np.array(new_rejects, np.int64)),
        _once(sessions),
        _once(tally.changed),
        [None if ms == NO_TIME else from_ms(ms) for ms in _once(tally.first)],
        [None if ms == NO_TIME else from_ms(ms) for ms in _once(tally.last)],
        tally.tails,
        [date_of(day) for day in _once(first)],
        [date_of(day) for day in _once(end)],
        *minutes,
        tally.updated,
        tally.unchanged,
        len(part.rejects),
        *((from_ms(min(tally.touched)), from_ms(max(tally.touched))) if tally.touched else (None, None)),
        part.fetch_time,
        from_ms(part.span.start_ms),
        from_ms(part.span.end_ms),
        part.partial,
        *_empty_runs(part, tally, first, end),
    )


def _once(values: NDArray[np.generic]) -> list[Any]:
    """Returns one value that stands for all where they are the same: making lists of them is what takes time."""
    same = len(values) > 0 and bool((values == values[0]).all())
    one_or_all: list[Any] = (values[:1] if same else values).tolist()
    return one_or_all


def _empty_runs(part: Batch, tally: Tally, first: IntArray, end: IntArray) -> tuple[list[int], list[date], list[date]]:
    """Returns the runs of answered sessions without a daily bar: whose, first and last dates; of minutes none."""
    if not part.span.daily:
        return [], [], []
    known, days = part.sessions.days, part.span.days(part.bars.ts)
    begins, stops = np.searchsorted(known, first), np.searchsorted(known, end)
    filled = np.diff(np.concatenate([[0], np.cumsum(np.isin(days, known))])[part.starts])
    whose, firsts, lasts = [], [], []
    for at in np.flatnonzero(stops - begins > filled).tolist():
        said = days[part.starts[at] : part.starts[at + 1]]
        held = np.concatenate([said, part.span.days(tally.stored.get(at, _NO_TIMES))])
        runs = runs_without(known[begins[at] : stops[at]], held)
        whose += [int(part.symbol_ids[at])] * len(runs)
        firsts += [date_of(run[0]) for run in runs]
        lasts += [date_of(run[1]) for run in runs]
    return whose, firsts, lasts


def _sessions(part: Batch, tally: Tally) -> tuple[IntArray, tuple[list[Any], ...]]:
    """Returns the sessions that daily bars add to each series; or of minutes series, days, bars and regular ones."""
    count = len(part.symbol_ids)
    if not tally.inserted_times:
        return np.zeros(count, np.int64), ([], [], [], [])
    owners = np.searchsorted(part.symbol_ids, np.concatenate([whose for whose, _ in tally.inserted_times]))
    ts = np.concatenate([times for _, times in tally.inserted_times])
    days = part.span.days(ts)
    if part.span.daily:
        held = np.isin(days, part.sessions.days)
        return np.bincount(owners[held], minlength=count), ([], [], [], [])
    pairs, at = np.unique(np.stack([owners, days]), axis=1, return_inverse=True)
    at = at.reshape(-1)
    regular = np.bincount(at, weights=part.sessions.regular(ts), minlength=pairs.shape[1]).astype(np.int64)
    bars = np.bincount(at, minlength=pairs.shape[1])
    whose, dates = part.symbol_ids[pairs[0]].tolist(), [date_of(day) for day in pairs[1].tolist()]
    return np.zeros(count, np.int64), (whose, dates, bars.tolist(), regular.tolist())
