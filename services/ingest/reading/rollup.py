"""Rolls stored bars up into longer ones, in windows of New York's clock, of UTC for crypto, or of regular hours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import EVERY_DAY, from_wall, to_wall
from services.ingest.columns import Columns
from services.ingest.reading.blocks import Block, join
from services.ingest.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS

if TYPE_CHECKING:
    from services.ingest.calendar import Sessions
    from services.ingest.columns import FloatArray, IntArray
    from services.ingest.timeframes import Timeframe

# Beside the flags of quality.py, on derived bars only: the window reaches beyond what could be in the answer.
PARTIAL = 32

# Days are numbered from 1970-01-01, which was a Thursday.
_DAYS_SINCE_MONDAY = 3
_ANCHORED_FROM_MS = 30 * MINUTE_MS


class Windows:
    """Knows the windows of one derived timeframe in one calendar.

    With regular hours, all bars must lie in them, and windows of 30 minutes and more begin at the open.
    """

    def __init__(self, timeframe: Timeframe, sessions: Sessions, *, regular: bool) -> None:
        self._length = timeframe.length_ms
        self._weekly = timeframe.daily
        self._by_wall = sessions.calendar != EVERY_DAY and timeframe.length_ms > HOUR_MS and not timeframe.daily
        closes = regular and sessions.calendar != EVERY_DAY and not timeframe.daily
        self._sessions = sessions if closes else None
        self._anchored = closes and timeframe.length_ms >= _ANCHORED_FROM_MS

    def starts(self, ts: IntArray) -> IntArray:
        """Returns the start of the window that each bar lies in."""
        if self._weekly:
            days = ts // DAY_MS
            return (days - (days + _DAYS_SINCE_MONDAY) % 7) * DAY_MS
        if self._anchored and self._sessions is not None:
            opened, _ = self._sessions.bounds(ts)
            return ts - (ts - opened) % self._length
        if self._by_wall:
            wall = to_wall(ts)
            return from_wall(wall - wall % self._length)
        # New York is a whole number of hours away from UTC, so that up to an hour both clocks have the same windows.
        return ts - ts % self._length

    def ends(self, starts: IntArray) -> IntArray:
        """Returns where these windows end; with regular hours not later than the close."""
        if self._weekly:
            return starts + WEEK_MS
        if self._by_wall and not self._anchored:
            return from_wall(to_wall(starts) + self._length)
        return starts + self._length

    def cut_short(self, starts: IntArray) -> np.ndarray:
        """Says which windows reach beyond the close of their session."""
        if self._sessions is None:
            return np.zeros(len(starts), np.bool_)
        _, closes = self._sessions.bounds(starts)
        return starts + self._length > closes


class Roller:
    """Makes longer bars of blocks of shorter ones, each block ascending; blocks come in either order of time."""

    def __init__(self, windows: Windows, *, start_ms: int, end_ms: int, newest_first: bool) -> None:
        """Takes the limits beyond which a window is partial: the span's, and as_of."""
        self._windows = windows
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._newest_first = newest_first
        self._rest: list[Block] = []

    @property
    def waiting(self) -> IntArray:
        """Returns the times of the bars whose window may go on."""
        return join(self._rest).bars.ts

    def push(self, block: Block) -> Block:
        """Returns the windows that no later block can add to, ascending."""
        self._rest.append(block)
        rows = join(self._rest[::-1] if self._newest_first else self._rest)
        starts = self._windows.starts(rows.bars.ts)
        if not len(starts):
            return rows
        if self._newest_first:
            cut = int(np.searchsorted(starts, starts[0], "right"))
            self._rest = [rows.take(slice(0, cut))]
            return self._roll(rows.take(slice(cut, None)), starts[cut:])
        cut = int(np.searchsorted(starts, starts[-1]))
        self._rest = [rows.take(slice(cut, None))]
        return self._roll(rows.take(slice(0, cut)), starts[:cut])

    def finish(self) -> Block:
        """Returns the last window."""
        rows = join(self._rest)
        self._rest = []
        return self._roll(rows, self._windows.starts(rows.bars.ts))

    def _roll(self, rows: Block, starts: IntArray) -> Block:
        if not len(starts):
            return rows
        first = np.concatenate([[0], np.flatnonzero(starts[1:] != starts[:-1]) + 1])
        begun = starts[first]
        partial = (begun < self._start_ms) | (self._windows.ends(begun) > self._end_ms) | self._windows.cut_short(begun)
        flags = np.bitwise_or.reduceat(rows.flags, first) | (partial * PARTIAL).astype(np.int16)
        return Block(replace(_roll(rows.bars, first), ts=begun), flags)


def _roll(bars: Columns, first: np.ndarray) -> Columns:
    last = np.concatenate([first[1:], [len(bars)]]) - 1
    counts = np.add.reduceat(bars.trade_count, first)
    counts[np.minimum.reduceat(bars.trade_count, first) < 0] = -1
    return Columns(
        ts=bars.ts[first],
        open=bars.open[first],
        high=np.maximum.reduceat(bars.high, first),
        low=np.minimum.reduceat(bars.low, first),
        close=bars.close[last],
        volume=np.add.reduceat(bars.volume, first),
        vwap=_weighted(bars, first),
        trade_count=counts,
    )


def _weighted(bars: Columns, first: np.ndarray) -> FloatArray:
    """Returns the vwap of each window, weighted by volume over the bars that have one; NaN where none has."""
    known = np.isfinite(bars.vwap)
    weights = np.where(known, bars.volume, 0.0)
    worth = np.add.reduceat(np.where(known, bars.vwap, 0.0) * weights, first)
    total = np.add.reduceat(weights, first)
    vwap = np.full(len(first), np.nan)
    np.divide(worth, total, out=vwap, where=total > 0)
    return vwap
