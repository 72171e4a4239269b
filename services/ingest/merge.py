"""Lays an answer over the bars that are stored: the newest answer wins, whatever the order in which answers come.

For any time, what is stored in the end is the bar of the newest answer that had one; it is flagged ABSENT when a newer
answer covered that time and had none. Everything here is a pure function of its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.columns import Columns, concatenate, inside
from services.ingest.quality import (
    ABSENT,
    WINDOW,
    Context,
    FlagArray,
    context_after,
    encode_tail,
    judge,
    validated,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from services.ingest.columns import BoolArray, IntArray
    from services.ingest.quality import Split


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Bars as stored, ascending, with their flags."""

    bars: Columns
    flags: FlagArray

    def __len__(self) -> int:
        return len(self.flags)

    @property
    def absent(self) -> BoolArray:
        absent: BoolArray = (self.flags & ABSENT) != 0
        return absent

    def take(self, positions: NDArray[np.intp] | slice) -> Held:
        """Returns the bars at these positions."""
        return Held(self.bars.take(positions), self.flags[positions])


@dataclass(frozen=True, slots=True, eq=False)
class Neighbourhood:
    """What is stored of a span: the WINDOW bars before it, its own, and the WINDOW bars that follow.

    origins says of each own bar that is ABSENT when the newest answer that held its values was fetched; microseconds.
    """

    before: Held
    own: Held
    after: Held
    origins: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the provider said of a span: possible bars, ascending, each time once; fetched at fetch_us, microseconds.

    newer holds the spans (start inclusive, end exclusive; milliseconds) in which a later answer is stored already,
    bare those of them whose source carries no vwap; partial says that this one's source carries none.
    """

    bars: Columns
    fetch_us: int
    newer: Sequence[tuple[int, int]] = ()
    bare: Sequence[tuple[int, int]] = ()
    partial: bool = False

    def outdated(self, ts: IntArray) -> BoolArray:
        """Says for which times a later answer is stored already."""
        return inside(ts, self.newer)

    def completes(self, ts: IntArray) -> BoolArray:
        """Says for which times all later answers lack a field that this one may carry."""
        whole = [span for span in self.newer if span not in self.bare]
        return inside(ts, self.bare) & ~inside(ts, whole)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What an answer changes."""

    inserted: Held
    changed: Held
    """New versions of stored bars, those whose flags alone changed included."""
    updated: int
    """Stored bars that got other values."""
    unchanged: int
    """Bars of the answer that were as stored, or older than what is."""
    validated: int
    """By how many the validated bars became more."""
    tail: bytes | None
    """None when the series' last bars are others."""
    vanished: IntArray
    """Times of bars that are ABSENT from now on, because this answer lacks them."""
    returned: IntArray
    """Times of bars that were ABSENT and no longer are."""
    originated: IntArray
    """Times of ABSENT bars whose values this answer held; it is newer than what held them before."""

    @property
    def touched(self) -> tuple[int, int] | None:
        """Returns the first and last time of what changed."""
        times = np.concatenate([self.inserted.bars.ts, self.changed.bars.ts])
        return (int(times.min()), int(times.max())) if len(times) else None


def append(answer: Columns, before: Context, flags: FlagArray, splits: Sequence[Split] = ()) -> Outcome:
    """Returns the outcome of bars later than all that is stored; flags were judged without what was before."""
    patched = flags.copy()
    if any(len(answer) and answer.ts[0] < split.effective_ms <= answer.ts[-1] for split in splits):
        patched = judge(answer, before, splits)
    else:
        patched[:WINDOW] = judge(answer.take(slice(0, WINDOW)), before, splits)
    none = np.empty(0, np.int64)
    held = Held(answer, patched)
    tail = encode_tail(context_after(before, answer)) if len(answer) else None
    return Outcome(held, held.take(slice(0, 0)), 0, 0, int(validated(patched).sum()), tail, none, none, none)


def merge(answer: Answer, stored: Neighbourhood, splits: Sequence[Split] = ()) -> Outcome:
    """Returns what an answer changes in what is stored of its span."""
    own, bars = stored.own, answer.bars
    at = np.searchsorted(own.bars.ts, bars.ts)
    known = np.zeros(len(bars), np.bool_)
    inside = at < len(own)
    known[inside] = own.bars.ts[at[inside]] == bars.ts[inside]
    at = at[known]
    newest = ~answer.outdated(bars.ts[known])
    takes = newest | (own.absent[at] & (answer.fetch_us > stored.origins[at]))
    said = _completed(bars.take(np.flatnonzero(known)), own.bars.take(at), takes, answer)
    differs = ~said.same_values(own.bars.take(at))

    absent = own.absent.copy()
    vanished = ~answer.outdated(own.bars.ts) & ~absent
    vanished[at] = False
    returned = at[newest & absent[at]]
    originated = at[takes & ~newest]
    absent[vanished] = True
    absent[returned] = False
    fresh = bars.take(np.flatnonzero(~known))
    fresh_absent = answer.outdated(fresh.ts)
    values = _replace(own.bars, at[differs], said.take(np.flatnonzero(differs)))
    merged = _weave(values, absent, fresh, fresh_absent)
    judged = _judge(merged, stored, splits)
    return _outcome(
        stored,
        judged,
        fresh=np.isin(judged.bars.ts, fresh.ts, assume_unique=True),
        revalued=_marks(len(own), at[differs]),
        unchanged=int(len(at) - differs.sum()),
        vanished=own.bars.ts[vanished],
        returned=own.bars.ts[returned],
        originated=np.sort(np.concatenate([own.bars.ts[originated], fresh.ts[fresh_absent]])),
    )


def _completed(said: Columns, own: Columns, takes: BoolArray, answer: Answer) -> Columns:
    """Returns the values that known bars get: the answer's where it counts, and no field that its source lacks."""
    if answer.partial:
        said = replace(said, vwap=own.vwap)
    vwap = np.where(takes, said.vwap, own.vwap)
    if answer.bare:
        fills = ~takes & np.isnan(own.vwap) & answer.completes(own.ts)
        vwap = np.where(fills, said.vwap, vwap)
    if takes.all():
        return replace(said, vwap=vwap)
    kept = {
        field.name: np.where(takes, getattr(said, field.name), getattr(own, field.name)) for field in fields(Columns)
    }
    return Columns(**{**kept, "vwap": vwap})


def _marks(length: int, positions: NDArray[np.intp]) -> BoolArray:
    marks = np.zeros(length, np.bool_)
    marks[positions] = True
    return marks


def _replace(bars: Columns, positions: NDArray[np.intp], by: Columns) -> Columns:
    """Returns the bars with the values at these positions replaced."""
    if not len(positions):
        return bars
    order = np.arange(len(bars))
    order[positions] = len(bars) + np.arange(len(by))
    return concatenate([bars, by]).take(order)


def _weave(bars: Columns, absent: BoolArray, fresh: Columns, fresh_absent: BoolArray) -> Held:
    """Returns all bars by time, flagged ABSENT or nothing."""
    flags = np.concatenate([absent, fresh_absent]).astype(np.int16) * np.int16(ABSENT)
    if not len(fresh):
        return Held(bars, flags)
    together = concatenate([bars, fresh])
    order = np.argsort(together.ts, kind="stable")
    return Held(together.take(order), flags[order])


def _judge(merged: Held, stored: Neighbourhood, splits: Sequence[Split]) -> Held:
    """Judges the merged bars and those that follow; ABSENT is no judgement and stays."""
    before, after = stored.before, stored.after
    bars = concatenate([merged.bars, after.bars])
    context = Context(before.bars.ts, before.bars.close, before.bars.volume)
    return Held(bars, judge(bars, context, splits) | (np.concatenate([merged.flags, after.flags]) & np.int16(ABSENT)))


def _outcome(
    stored: Neighbourhood,
    judged: Held,
    *,
    fresh: BoolArray,
    revalued: BoolArray,
    unchanged: int,
    vanished: IntArray,
    returned: IntArray,
    originated: IntArray,
) -> Outcome:
    """Compares what is judged now, own bars and those after, with what is stored."""
    kept = judged.take(np.flatnonzero(~fresh))
    old_flags = np.concatenate([stored.own.flags, stored.after.flags])
    altered = kept.flags != old_flags
    altered[: len(revalued)] |= revalued
    return Outcome(
        judged.take(np.flatnonzero(fresh)),
        kept.take(np.flatnonzero(altered)),
        int(revalued.sum()),
        unchanged,
        int(validated(judged.flags).sum()) - int(validated(old_flags).sum()),
        _tail(stored, judged),
        vanished,
        returned,
        originated,
    )


def _tail(stored: Neighbourhood, judged: Held) -> bytes | None:
    """Returns the series' last bars, unless enough of them lie beyond what is judged."""
    if len(stored.after) >= WINDOW or not len(judged):
        return None
    before = stored.before.bars
    return encode_tail(context_after(Context(before.ts, before.close, before.volume), judged.bars))
