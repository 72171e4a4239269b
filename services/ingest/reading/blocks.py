"""Rows of a binary COPY as columns, and the two runs of a read as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.ingest.columns import Columns, concatenate, no_bars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.ingest.quality import FlagArray

_NUMBERS = ("open", "high", "low", "close", "vwap", "volume")
_FIELDS = (("ts", ">i8"), *((name, ">f8") for name in _NUMBERS), ("trade_count", ">i4"), ("flags", ">i2"))
# A row of COPY: the number of its columns, then length and value of each; none is null, so that all rows are alike.
_ROW = np.dtype(
    [("columns", ">i2"), *(pair for name, kind in _FIELDS for pair in ((f"{name}_size", ">i4"), (name, kind)))]
)
_PLAIN = np.dtype((np.void, _ROW.itemsize))
# A row of values one after the other.
_VALUES = np.dtype(list(_FIELDS))
_HEADER_BYTES = 19
_TRAILER = b"\xff\xff"

# Postgres counts microseconds from 2000.
_EPOCH_MS = 946_684_800_000
_MICROSECONDS = 1000

# Set in the flags of rows that come from revisions.
REVISION = 256

_RawRows = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Holds stored bars with their flags."""

    bars: Columns
    flags: FlagArray

    def __len__(self) -> int:
        return len(self.flags)

    def take(self, positions: NDArray[Any] | slice) -> Block:
        """Returns these bars, in this order."""
        return Block(self.bars.take(positions), self.flags[positions])


def join(blocks: list[Block]) -> Block:
    """Joins blocks end to end."""
    if len(blocks) == 1:
        return blocks[0]
    if not blocks:
        return Block(no_bars(), np.empty(0, np.int16))
    return Block(concatenate([block.bars for block in blocks]), np.concatenate([block.flags for block in blocks]))


def _columns(rows: _RawRows) -> Block:
    numbers = {name: rows[name].astype(np.float64) for name in _NUMBERS}
    ts = rows["ts"].astype(np.int64) // _MICROSECONDS + _EPOCH_MS
    flags = rows["flags"].astype(np.int16) & np.int16(REVISION - 1)
    return Block(Columns(ts=ts, trade_count=rows["trade_count"].astype(np.int64), **numbers), flags)


class RowReader:
    """Cuts the bytes of a binary COPY, which come in pieces of any size, into rows."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._started = False

    def feed(self, data: bytes) -> _RawRows:
        """Returns the rows that are complete now."""
        self._rest += data
        if not self._started:
            if len(self._rest) < _HEADER_BYTES:
                return np.empty(0, _ROW)
            del self._rest[:_HEADER_BYTES]
            self._started = True
        count = len(self._rest) // _ROW.itemsize
        rows = np.frombuffer(bytes(self._rest[: count * _ROW.itemsize]), _ROW, count)
        del self._rest[: count * _ROW.itemsize]
        return rows

    def finish(self) -> None:
        """Raises ValueError unless the COPY ended where a row ends."""
        if self._rest != _TRAILER:
            raise ValueError(f"a COPY ended with {len(self._rest)} bytes that are no row")


class RunMerger:
    """Makes one ascending sequence of blocks of a run of revisions and the run of bars that follows it."""

    def __init__(self, block_rows: int) -> None:
        self._block_rows = block_rows
        self._reader = RowReader()
        self._revisions: list[_RawRows] = []
        self._bars: list[_RawRows] = []
        self._waiting = 0
        self.revisions = 0
        self.last_revision_ms = 0

    def feed(self, data: bytes) -> Iterator[Block]:
        """Takes bytes of the COPY and yields full blocks."""
        rows = self._reader.feed(data)
        split = int(np.count_nonzero(rows["flags"] >= REVISION))
        if split:
            self._revisions.append(rows[:split])
            self.revisions += split
            self.last_revision_ms = int(rows["ts"][split - 1]) // _MICROSECONDS + _EPOCH_MS
        if split < len(rows):
            self._bars.append(rows[split:])
            self._waiting += len(rows) - split
        if self._waiting >= self._block_rows:
            yield from self._full_blocks()

    def finish(self) -> Iterator[Block]:
        """Yields what is left when the COPY has ended."""
        self._reader.finish()
        rows = _by_time([*self._revisions, *self._bars])
        self._revisions, self._bars = [], []
        for start in range(0, len(rows), self._block_rows):
            yield _columns(rows[start : start + self._block_rows])

    def _full_blocks(self) -> Iterator[Block]:
        """Yields blocks of the bars at hand and the revisions up to the last of them."""
        rows = _joined(self._bars)
        if self._revisions:
            revisions = _joined(self._revisions)
            due = int(np.searchsorted(revisions["ts"], rows["ts"][-1]))
            rows = _by_time([revisions[:due], rows])
            self._revisions = [revisions[due:]] if due < len(revisions) else []
        whole = len(rows) - len(rows) % self._block_rows
        self._bars, self._waiting = [rows[whole:]], len(rows) - whole
        for start in range(0, whole, self._block_rows):
            yield _columns(rows[start : start + self._block_rows])


def _joined(parts: list[_RawRows]) -> _RawRows:
    if len(parts) == 1:
        return parts[0]
    # As bytes without fields, which numpy would compare field by field at each join.
    return np.concatenate([np.empty(0, _PLAIN), *(part.view(_PLAIN) for part in parts)]).view(_ROW)


def _by_time(parts: list[_RawRows]) -> _RawRows:
    rows = _joined(parts)
    ts = rows["ts"]
    return rows if np.all(ts[1:] > ts[:-1]) else rows[np.argsort(ts, kind="stable")]


def read_all(data: bytes, *, newest_first: bool, limit: int) -> Block:
    """Returns the first `limit` bars of a whole COPY whose two runs are in this order."""
    reader = RowReader()
    rows = reader.feed(data)
    reader.finish()
    return _from_one_end(rows, newest_first=newest_first, limit=limit)


def of_values(data: bytes, *, newest_first: bool, limit: int) -> Block:
    """Returns the first `limit` bars of rows that are values one after the other, in this order."""
    return _from_one_end(np.frombuffer(data, _VALUES), newest_first=newest_first, limit=limit)


def _from_one_end(rows: _RawRows, *, newest_first: bool, limit: int) -> Block:
    order = np.argsort(rows["ts"], kind="stable")
    return _columns(rows[order[::-1][:limit] if newest_first else order[:limit]])
