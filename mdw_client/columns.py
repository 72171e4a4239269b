"""The columns of a chunk of bars, taken off the wire as numpy arrays without a Python object a value.

A packed field of fixed width is its array's bytes already, so the message is cut at its fields: the columns become
arrays, the few other fields are parsed as usual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from mdw.ingest.v1.bars_pb2 import StreamBarsResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[np.generic]]

FIXED = {"open": "<f8", "high": "<f8", "low": "<f8", "close": "<f8", "volume": "<f8", "vwap": "<f8"}
TIMES = ("start_time_ms", "deleted_time_ms")
COUNTS = {"trade_count": "int64", "flags": "uint32"}
BAR_COLUMNS = ("start_time", *FIXED, *COUNTS)
"""The columns of a bar, in the order in which they are handed on."""

_NAMES = {StreamBarsResponse.DESCRIPTOR.fields_by_name[name].number: name for name in (*FIXED, *TIMES, *COUNTS)}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True)
class Chunk:
    """Consecutive bars of one symbol.

    `columns` are numpy arrays of one length: `start_time` is datetime64[ms] in UTC, `vwap` NaN and `trade_count` -1
    where the source has none. `deleted` are times of bars that went since `changed_since`.
    """

    symbol_id: int
    ticker: str
    columns: Columns
    deleted: NDArray[np.datetime64]
    replaces_all: bool = False

    def __len__(self) -> int:
        return len(self.columns["start_time"])

    def after(self, time: np.datetime64) -> Chunk:
        """Returns the bars later than `time`."""
        first = int(self.columns["start_time"].searchsorted(time, side="right"))
        rest = {name: column[first:] for name, column in self.columns.items()}
        return Chunk(self.symbol_id, self.ticker, rest, self.deleted)


@dataclass(frozen=True)
class Message:
    """A message of StreamBars: its bars, and the rest of its fields."""

    chunk: Chunk | None
    rest: StreamBarsResponse


def decode(raw: bytes) -> Message:
    """Decodes a message of StreamBars; raises DecodeError where it is not one."""
    columns: dict[str, list[memoryview]] = {}
    rest = bytearray()
    view = memoryview(raw)
    for number, kind, start, body, end in _fields(raw):
        name = _NAMES.get(number)
        if name and kind == _BYTES:
            columns.setdefault(name, []).append(view[body:end])
        else:
            rest += view[start:end]
    message = StreamBarsResponse.FromString(bytes(rest))
    return Message(_chunk(message, columns) if message.symbol_id else None, message)


def empty() -> Columns:
    """Returns the columns of no bars."""
    return _arrays({})[0]


def _chunk(message: StreamBarsResponse, parts: dict[str, list[memoryview]]) -> Chunk:
    columns, deleted = _arrays(parts)
    if len({len(column) for column in columns.values()}) != 1:
        raise DecodeError("the columns of a chunk differ in length")
    return Chunk(message.symbol_id, message.ticker, columns, deleted, message.replaces_all)


def _arrays(parts: dict[str, list[memoryview]]) -> tuple[Columns, NDArray[np.datetime64]]:
    import numpy as np  # noqa: PLC0415 # services use the channels alone and start without it

    def fixed(name: str, dtype: str) -> NDArray[np.generic]:
        # A copy: aligned, writable, and it lets the message go.
        return np.frombuffer(b"".join(parts.get(name, ())), np.dtype(dtype)).copy()

    columns: Columns = {"start_time": fixed("start_time_ms", "<i8").view("M8[ms]")}
    columns.update({name: fixed(name, dtype) for name, dtype in FIXED.items()})
    columns.update({name: varints(b"".join(parts.get(name, ()))).astype(dtype) for name, dtype in COUNTS.items()})
    return columns, fixed("deleted_time_ms", "<i8").view("M8[ms]")


def varints(packed: bytes) -> NDArray[np.int64]:
    """Decodes packed varints: each byte brings seven bits, the lowest first, and the last has its top bit clear."""
    import numpy as np  # noqa: PLC0415 # as above

    octets = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(octets < 0x80)  # noqa: PLR2004 # the top bit
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    lengths = ends - starts + 1
    values = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max(initial=0))):
        longer = lengths > place
        bits = octets[starts[longer] + place] & 0x7F
        values[longer] |= bits.astype(np.uint64) << np.uint64(7 * place)
    return values.view(np.int64)


def _fields(raw: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yields each field's number, wire type, and where it, its body and the next one start."""
    position = 0
    while position < len(raw):
        start = position
        tag, position = _varint(raw, position)
        number, kind = tag >> 3, tag & 7
        body = position
        if kind == _BYTES:
            length, body = _varint(raw, position)
            position = body + length
        elif kind == _VARINT:
            _, position = _varint(raw, position)
        elif kind in _WIDTHS:
            position += _WIDTHS[kind]
        else:
            raise DecodeError(f"wire type {kind}")
        if position > len(raw):
            raise DecodeError("the message is cut off")
        yield number, kind, start, body, position


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """Returns a varint and the position after it."""
    value = shift = 0
    while position < len(raw):
        octet = raw[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:  # noqa: PLR2004 # the top bit
            return value, position
        shift += 7
    raise DecodeError("the message is cut off")


def concatenate(chunks: Iterable[Columns]) -> Columns:
    """Joins the columns of many chunks: one copy a column."""
    import numpy as np  # noqa: PLC0415 # as above

    parts = list(chunks)
    if not parts:
        return empty()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
