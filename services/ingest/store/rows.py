"""Rows of ingest.bars as the bytes of a binary COPY, both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from services.ingest.columns import Columns
from services.ingest.merge import Held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from services.ingest.columns import IntArray

COLUMNS = (
    "ts", "open", "high", "low", "close", "vwap", "volume",
    "symbol_id", "trade_count", "write_id", "timeframe", "flags",
)  # fmt: skip
_KINDS = (">i8", *[">f8"] * 6, *[">i4"] * 3, *[">i2"] * 2)
# In a row stand the number of its columns, then length and value of each; no column is ever null.
_ROW = np.dtype(
    [("count", ">i2")]
    + [pair for name, kind in zip(COLUMNS, _KINDS, strict=True) for pair in ((f"{name}_length", ">i4"), (name, kind))]
)
_PRICES = ("open", "high", "low", "close", "vwap", "volume")
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_PIECE_ROWS = 4_096
# Postgres counts microseconds from 2000.
_EPOCH_MS = 946_684_800_000


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """Names a series."""

    symbol_id: int
    timeframe: int


def pieces(held: Held, key: SeriesKey, write_id: int) -> Iterator[bytes]:
    """Yields bars as a binary COPY into ingest.bars, its columns in the order of COLUMNS.

    In pieces, so that the server stores one while the next is made.
    """
    yield from pieces_of_many(held, np.full(len(held), key.symbol_id), key.timeframe, write_id)


def pieces_of_many(held: Held, symbol_ids: IntArray, timeframe: int, write_id: int) -> Iterator[bytes]:
    """Yields bars of many series; symbol_ids says of each whose it is."""
    yield _HEADER
    for start in range(0, len(held), _PIECE_ROWS):
        piece = slice(start, start + _PIECE_ROWS)
        yield _encode(held.take(piece), symbol_ids[piece], timeframe, write_id)
    yield _TRAILER


def _encode(held: Held, symbol_ids: IntArray, timeframe: int, write_id: int) -> bytes:
    rows = np.empty(len(held), _ROW)
    rows["count"] = len(COLUMNS)
    for name in COLUMNS:
        rows[f"{name}_length"] = _ROW[name].itemsize
    rows["ts"] = (held.bars.ts - _EPOCH_MS) * 1000
    for name in (*_PRICES, "trade_count"):
        rows[name] = getattr(held.bars, name)
    rows["symbol_id"], rows["timeframe"], rows["write_id"] = symbol_ids, timeframe, write_id
    rows["flags"] = held.flags
    return rows.tobytes()


def decode(data: bytes) -> Held:
    """Reads the bars of a whole binary COPY of these columns, in its order; raises ValueError if it is none."""
    rows = _rows(data)
    ts: IntArray = rows["ts"].astype(np.int64) // 1000 + _EPOCH_MS
    prices = {name: rows[name].astype(np.float64) for name in _PRICES}
    bars = Columns(ts=ts, trade_count=rows["trade_count"].astype(np.int64), **prices)
    return Held(bars, rows["flags"].astype(np.int16))


def symbol_ids(data: bytes) -> IntArray:
    """Says of each bar of a whole binary COPY whose it is; raises ValueError if it is none."""
    ids: IntArray = _rows(data)["symbol_id"].astype(np.int64)
    return ids


def _rows(data: bytes) -> NDArray[Any]:
    body = len(data) - len(_HEADER) - len(_TRAILER)
    if body < 0 or body % _ROW.itemsize or not data.endswith(_TRAILER):
        raise ValueError(f"{len(data)} bytes are no COPY of bars")
    return np.frombuffer(data, _ROW, body // _ROW.itemsize, len(_HEADER))


def literal(ms: int) -> str:
    """Returns an instant as SQL text, for statements that take no parameters; milliseconds."""
    return f"'epoch'::timestamptz + {int(ms)} * interval '1 ms'"
