"""Bars as columns: what a page, a part and a chunk are made of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# A time that the source did not send.
NO_TIME = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Holds bars as arrays of equal length.

    ts is in milliseconds since 1970 UTC: the start of a minute, or 00:00Z of the session date of a daily bar.
    A missing ts is NO_TIME, a missing price, volume or vwap is NaN, a missing trade_count is -1.
    """

    ts: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    vwap: FloatArray
    trade_count: IntArray

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, positions: NDArray[np.intp] | slice) -> Columns:
        """Returns the bars at these positions, in their order."""
        return Columns(*(getattr(self, field.name)[positions] for field in fields(self)))

    def same_values(self, other: Columns) -> BoolArray:
        """Compares all but the times, pair by pair; absent equals absent."""
        vwap_same = (self.vwap == other.vwap) | (np.isnan(self.vwap) & np.isnan(other.vwap))
        same: BoolArray = vwap_same & (self.trade_count == other.trade_count)
        for name in ("open", "high", "low", "close", "volume"):
            same &= getattr(self, name) == getattr(other, name)
        return same


def concatenate(parts: list[Columns]) -> Columns:
    """Joins columns end to end."""
    return Columns(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Columns)))


def no_bars() -> Columns:
    """Returns columns of length 0."""
    floats = np.empty(0, np.float64)
    return Columns(np.empty(0, np.int64), floats, floats, floats, floats, floats, floats, np.empty(0, np.int64))


def inside(ts: IntArray, spans: Sequence[tuple[int, int]]) -> BoolArray:
    """Says which times lie in one of these spans (start inclusive, end exclusive)."""
    found = np.zeros(len(ts), np.bool_)
    for start, end in spans:
        found |= (ts >= start) & (ts < end)
    return found
