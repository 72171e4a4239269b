"""Judges bars: which ones are impossible, which ones are odd, and what that makes of their quality.

Everything here is a pure function of its arguments. The rules stand in docs/quality.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from services.ingest.columns import NO_TIME, BoolArray, Columns, FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Sequence

FlagArray = NDArray[np.int16]

# The bits of a stored bar's flags. ABSENT is no judgement: a newer answer no longer held the bar.
MOVE = 1
GAP = 2
VOLUME_HIGH = 4
VOLUME_LOW = 8
ABSENT = 16
JUDGED = MOVE | GAP | VOLUME_HIGH | VOLUME_LOW

# A bar is judged by this many bars before it, so a changed bar reaches this many bars after it.
WINDOW = 20
# The two in the middle of twenty sorted volumes, whose mean is the median.
_LOWER, _UPPER = WINDOW // 2 - 1, WINDOW // 2
# Two decimals that stand exactly at a limit may differ in the last bits as doubles: that is not beyond it.
_BEYOND = 1 + 1e-12

# A bar's share of a tail: its minute, close and volume. Minutes fit 32 bits and still say before or after a split.
_TAIL_BYTES = 4 + 8 + 8
_MINUTE_MS = 60_000

# Deductions in hundredths, since 1.0 - 0.15 is not 0.85 in every order of subtraction.
_DEDUCTIONS = {MOVE: 30, GAP: 20, VOLUME_HIGH: 10, VOLUME_LOW: 15}
_VALIDATED = 85
_HUNDREDTHS = np.array(
    [100 - sum(less for bit, less in _DEDUCTIONS.items() if flags & bit) for flags in range(JUDGED + 1)], np.int64
)
_QUALITY = _HUNDREDTHS / 100


class Reason(StrEnum):
    """Says why a bar is impossible; the first rule that a bar breaks names it."""

    MISSING_FIELD = "MISSING_FIELD"
    NOT_FINITE = "NOT_FINITE"
    PRICE_NOT_POSITIVE = "PRICE_NOT_POSITIVE"
    VOLUME_NEGATIVE = "VOLUME_NEGATIVE"
    HIGH_LOW = "HIGH_LOW"
    OUT_OF_SPAN = "OUT_OF_SPAN"
    OFF_GRID = "OFF_GRID"
    DUPLICATE = "DUPLICATE"


_REASONS = tuple(Reason)
_POSSIBLE = len(_REASONS)


@dataclass(frozen=True, slots=True, eq=False)
class Sifted:
    """Holds positions in the sifted columns: possible bars by time, one a time; impossible ones as they came."""

    kept: NDArray[np.intp]
    rejected: NDArray[np.intp]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Holds the bars before a judged one, oldest first, at most WINDOW of them; ts in milliseconds."""

    ts: IntArray
    close: FloatArray
    volume: FloatArray


@dataclass(frozen=True, slots=True)
class Split:
    """Says that from effective_ms (a bar's ts) on, split_to shares stand for split_from before."""

    effective_ms: int
    split_from: float
    split_to: float


NO_CONTEXT = Context(np.empty(0, np.int64), np.empty(0), np.empty(0))


def sift(bars: Columns, *, start_ms: int, end_ms: int, off_grid: BoolArray) -> Sifted:
    """Parts possible bars from impossible ones; start inclusive, end exclusive, in any order.

    Of bars with one time the first possible one stays; a later one with the same values is dropped without a word.
    """
    codes = _impossible(bars, start_ms, end_ms, off_grid)
    kept = np.flatnonzero(codes == _POSSIBLE)
    ts = bars.ts[kept]
    if np.any(ts[1:] <= ts[:-1]):
        kept, differing = _first_of_each_time(bars, kept[np.argsort(ts, kind="stable")])
        codes[differing] = _REASONS.index(Reason.DUPLICATE)
    rejected = np.flatnonzero(codes != _POSSIBLE)
    return Sifted(kept, rejected, tuple(_REASONS[code] for code in codes[rejected].tolist()))


def sift_many(bars: Columns, owners: IntArray, *, start_ms: IntArray, end_ms: IntArray, off_grid: BoolArray) -> Sifted:
    """Sifts bars of many series (owners), each within bounds of its own; those kept are by owner and time."""
    codes = _impossible(bars, start_ms, end_ms, off_grid)
    kept = np.flatnonzero(codes == _POSSIBLE)
    in_order = kept[np.lexsort((bars.ts[kept], owners[kept]))]
    kept, differing = _first_of_each_time(bars, in_order, owners)
    codes[differing] = _REASONS.index(Reason.DUPLICATE)
    rejected = np.flatnonzero(codes != _POSSIBLE)
    return Sifted(kept, rejected, tuple(_REASONS[code] for code in codes[rejected].tolist()))


def _impossible(
    bars: Columns, start_ms: int | IntArray, end_ms: int | IntArray, off_grid: BoolArray
) -> NDArray[np.uint8]:
    """Returns for each bar the index of its reason, or _POSSIBLE."""
    lowest, highest = np.minimum(bars.open, bars.close), np.maximum(bars.open, bars.close)
    missing, infinite = bars.ts == NO_TIME, np.zeros(len(bars), np.bool_)
    for values in (bars.open, bars.high, bars.low, bars.close, bars.volume):
        missing |= np.isnan(values)
        infinite |= np.isinf(values)
    codes = np.full(len(bars), _POSSIBLE, np.uint8)
    for reason, broken in (  # backwards, so that the first rule has the last word
        (Reason.OFF_GRID, off_grid),
        (Reason.OUT_OF_SPAN, (bars.ts < start_ms) | (bars.ts >= end_ms)),
        (Reason.HIGH_LOW, (bars.low > lowest) | (bars.high < highest)),
        (Reason.VOLUME_NEGATIVE, bars.volume < 0),
        (Reason.PRICE_NOT_POSITIVE, np.minimum(np.minimum(bars.low, bars.high), lowest) <= 0),
        (Reason.NOT_FINITE, infinite),
        (Reason.MISSING_FIELD, missing),
    ):
        codes[broken] = _REASONS.index(reason)
    return codes


def _first_of_each_time(
    bars: Columns, by_time: NDArray[np.intp], owners: IntArray | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the first position of each time, and those of later bars that differ from it."""
    ts = bars.ts[by_time]
    first = np.ones(len(ts), np.bool_)
    first[1:] = ts[1:] != ts[:-1]
    if owners is not None:
        whose = owners[by_time]
        first[1:] |= whose[1:] != whose[:-1]
    later = np.flatnonzero(~first)
    leaders = np.maximum.accumulate(np.where(first, np.arange(len(ts)), 0))[later]
    same = bars.take(by_time[later]).same_values(bars.take(by_time[leaders]))
    return by_time[first], by_time[later[~same]]


def judge(bars: Columns, before: Context, splits: Sequence[Split] = ()) -> FlagArray:
    """Returns the flags of possible bars in ascending order, given the bars before them and the series' splits.

    Bars and context are as the provider sends them: splits bring earlier ones to each judged bar's basis here.
    """
    skip = len(before.ts)
    ts = np.concatenate([before.ts, bars.ts])
    close, volume = np.concatenate([before.close, bars.close]), np.concatenate([before.volume, bars.volume])
    with np.errstate(over="ignore"):  # a limit beyond the largest double is one that nothing passes
        moves = _move_flags(bars)
        flags = moves | _gap_flags(bars.open, close[max(skip - 1, 0) : -1]) | _volume_flags(volume)[skip:]
        for position in _positions_after(ts, splits, skip):
            at = position - skip
            closes, volumes = _context_on_basis(ts, close, volume, position, splits)
            flags[at] = moves[at] | _gap_flags(bars.open[at : at + 1], closes)[0] | _volume_flags(volumes)[-1]
    return flags


def _move_flags(bars: Columns) -> FlagArray:
    """Marks bars that rose by more than 500 % from open to close, or span that much from low to high."""
    six = 6 * _BEYOND
    return ((bars.high > bars.low * six) | (bars.close > bars.open * six)).astype(np.int16) * np.int16(MOVE)


def _gap_flags(opens: FloatArray, closes: FloatArray) -> FlagArray:
    """Marks opens more than 10 % off the close before; the first open of a series has none before it."""
    flags = np.zeros(len(opens), np.int16)
    first = len(opens) - len(closes)
    opens = opens[first:]
    beyond = (opens * 10 > closes * (11 * _BEYOND)) | (opens * (10 * _BEYOND) < closes * 9)
    flags[first:][beyond] = GAP
    return flags


def _volume_flags(volume: FloatArray) -> FlagArray:
    """Marks volumes far from the median of the WINDOW before.

    Ten times the median is passed only where ten of the twenty are passed tenfold: counting those is ten times as
    fast as all the medians, which are then taken for the few candidates alone.
    """
    flags = np.zeros(len(volume), np.int16)
    judged = volume[WINDOW:]
    a_tenth, tenfold = judged / 10, judged * 10
    smaller, larger = np.zeros(len(judged), np.uint8), np.zeros(len(judged), np.uint8)
    for start in range(WINDOW if len(judged) else 0):
        earlier = volume[start : start + len(judged)]
        smaller += earlier < a_tenth
        larger += earlier > tenfold
    candidates = np.flatnonzero((smaller >= WINDOW // 2) | (larger >= WINDOW // 2))
    if len(candidates):
        flags[WINDOW + candidates] = _against_medians(volume, candidates)
    return flags


def _against_medians(volume: FloatArray, candidates: NDArray[np.intp]) -> FlagArray:
    """Judges the volumes at WINDOW + candidates by the exact median of the WINDOW before each."""
    windows = np.lib.stride_tricks.sliding_window_view(volume, WINDOW)[candidates]
    middle = np.partition(windows, (_LOWER, _UPPER), axis=1)[:, _LOWER : _UPPER + 1]
    median = middle[:, 0] / 2 + middle[:, 1] / 2
    judged = volume[WINDOW + candidates]
    high = judged > median * (10 * _BEYOND)
    low = judged * (10 * _BEYOND) < median
    return np.where(median > 0, high * VOLUME_HIGH + low * VOLUME_LOW, 0).astype(np.int16)


def _positions_after(ts: IntArray, splits: Sequence[Split], skip: int) -> list[int]:
    """Returns the positions from skip on that have bars from before a split in their context."""
    positions: set[int] = set()
    for split in splits:
        first = int(np.searchsorted(ts, split.effective_ms))
        if first > 0:
            positions.update(range(max(first, skip), min(first + WINDOW, len(ts))))
    return sorted(positions)


def _context_on_basis(
    ts: IntArray, close: FloatArray, volume: FloatArray, position: int, splits: Sequence[Split]
) -> tuple[FloatArray, FloatArray]:
    """Returns the close before a bar, and the volumes before it with its own at the end, on that bar's basis."""
    first = max(position - WINDOW, 0)
    closes, volumes = close[first:position].copy(), volume[first : position + 1].copy()
    for split in sorted(splits, key=lambda split: (split.effective_ms, split.split_from, split.split_to)):
        if split.effective_ms <= ts[position]:
            earlier = ts[first:position] < split.effective_ms
            closes[earlier] *= split.split_from / split.split_to
            volumes[:-1][earlier] *= split.split_to / split.split_from
    return closes[-1:], volumes


def quality(flags: FlagArray) -> FloatArray:
    """Returns the quality of each bar, 0.25 to 1.0, which depends on its flags alone."""
    scores: FloatArray = _QUALITY[flags & JUDGED]
    return scores


def validated(flags: FlagArray) -> BoolArray:
    """Says which bars have a quality of at least 0.85."""
    good: BoolArray = _HUNDREDTHS[flags & JUDGED] >= _VALIDATED
    return good


def context_after(before: Context, bars: Columns) -> Context:
    """Returns the context of the bar that follows these ascending bars."""
    return Context(
        np.concatenate([before.ts, bars.ts[-WINDOW:]])[-WINDOW:],
        np.concatenate([before.close, bars.close[-WINDOW:]])[-WINDOW:],
        np.concatenate([before.volume, bars.volume[-WINDOW:]])[-WINDOW:],
    )


def encode_tail(context: Context) -> bytes:
    """Packs a context for ingest.series.tail: all minutes since 1970 as int32, all closes, all volumes as doubles."""
    minutes = (context.ts // _MINUTE_MS).astype("<i4")
    return minutes.tobytes() + context.close.astype("<f8").tobytes() + context.volume.astype("<f8").tobytes()


def decode_tail(tail: bytes | None) -> Context:
    """Unpacks what encode_tail packed; a series without a tail has no bars."""
    if not tail:
        return NO_CONTEXT
    count = len(tail) // _TAIL_BYTES
    return Context(
        np.frombuffer(tail, "<i4", count).astype(np.int64) * _MINUTE_MS,
        np.frombuffer(tail, "<f8", count, count * 4).astype(np.float64),
        np.frombuffer(tail, "<f8", count, count * 12).astype(np.float64),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Contexts:
    """Holds the contexts of many series, a row each: the WINDOW bars before, NaN at the left where there are fewer."""

    minutes: NDArray[np.int32]
    close: FloatArray
    volume: FloatArray
    known: IntArray

    @classmethod
    def of_tails(cls, tails: Sequence[bytes]) -> Contexts:
        """Unpacks what encode_tail packed, series by series."""
        made = cls(
            np.zeros((len(tails), WINDOW), np.int32),
            np.full((len(tails), WINDOW), np.nan),
            np.full((len(tails), WINDOW), np.nan),
            np.array([len(tail) // _TAIL_BYTES for tail in tails], np.int64),
        )
        for count in np.unique(made.known[made.known > 0]).tolist():
            which = np.flatnonzero(made.known == count)
            packed = np.frombuffer(b"".join([tails[at] for at in which.tolist()]), _tail_of(count))
            made.minutes[which, -count:] = packed["minute"]
            made.close[which, -count:], made.volume[which, -count:] = packed["close"], packed["volume"]
        return made

    def to_tails(self) -> list[bytes]:
        """Packs them again."""
        tails = [b""] * len(self.known)
        for count in np.unique(self.known[self.known > 0]).tolist():
            which = np.flatnonzero(self.known == count)
            packed = np.empty(len(which), _tail_of(count))
            packed["minute"] = self.minutes[which, -count:]
            packed["close"], packed["volume"] = self.close[which, -count:], self.volume[which, -count:]
            data, size = packed.tobytes(), packed.itemsize
            for number, at in enumerate(which.tolist()):
                tails[at] = data[number * size : (number + 1) * size]
        return tails


@cache
def _tail_of(count: int) -> np.dtype[np.void]:
    """Returns what encode_tail makes of so many bars."""
    return np.dtype([("minute", "<i4", (count,)), ("close", "<f8", (count,)), ("volume", "<f8", (count,))])


def judge_many(bars: Columns, starts: IntArray, before: Contexts) -> tuple[FlagArray, list[bytes]]:
    """Returns the flags of bars of many series, as judge gives them, and the tails that they leave.

    Series i has the bars from starts[i] to starts[i + 1], at least one, none of them near a split.
    """
    lengths = np.diff(starts)
    blocks = starts[:-1] + WINDOW * np.arange(len(lengths))  # each series' bars stand behind its context
    owner = np.repeat(np.arange(len(lengths)), lengths)
    at = np.arange(len(bars)) + WINDOW * (owner + 1)
    context = (blocks[:, None] + np.arange(WINDOW)).ravel()
    total = len(bars) + WINDOW * len(lengths)
    close, volume, minutes = np.empty(total), np.empty(total), np.empty(total, np.int32)
    for whole, old, new in (
        (close, before.close, bars.close),
        (volume, before.volume, bars.volume),
        (minutes, before.minutes, bars.ts // _MINUTE_MS),
    ):
        whole[context], whole[at] = old.ravel(), new
    known = before.known[owner] + np.arange(len(bars)) - starts[:-1][owner]
    with np.errstate(over="ignore", invalid="ignore"):
        volumes = _volume_flags(volume)[at]
        volumes[known < WINDOW] = 0
        flags = _move_flags(bars) | _gap_flags(bars.open, close[at - 1]) | volumes
    ends = (blocks + WINDOW + lengths)[:, None] - WINDOW + np.arange(WINDOW)
    left = Contexts(minutes[ends], close[ends], volume[ends], np.minimum(before.known + lengths, WINDOW))
    return flags, left.to_tails()
