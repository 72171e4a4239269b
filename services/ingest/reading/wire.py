"""Writes StreamBarsResponse messages straight from arrays: a packed field is the array's own memory.

Filling the generated class would take twice as long as all the rest of a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mdw.ingest.v1 import bars_pb2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.ingest.columns import IntArray
    from services.ingest.reading.blocks import Block

# 76 bytes a bar at most: times 8, six doubles 48, a trade count 10, flags 2, a deleted time 8; 1 MiB would hold 13,797.
CHUNK = 10_000

_FIELDS = bars_pb2.StreamBarsResponse.DESCRIPTOR.fields_by_name
_LENGTH_DELIMITED = 2
_SEVEN_BITS = 7
_MORE = 0x80


def _tag(name: str) -> bytes:
    return _varint(_FIELDS[name].number << 3 | _LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= _MORE:
        data.append(value & (_MORE - 1) | _MORE)
        value >>= _SEVEN_BITS
    data.append(value)
    return bytes(data)


_NUMBERS = tuple((_tag(name), name) for name in ("open", "high", "low", "close", "volume", "vwap"))
_START, _COUNT, _FLAGS, _DELETED = map(_tag, ("start_time_ms", "trade_count", "flags", "deleted_time_ms"))


def chunk(head: bars_pb2.StreamBarsResponse, block: Block, deleted: IntArray | None = None) -> bytes:
    """Returns a message of at most CHUNK bars behind what its head says."""
    bars = block.bars
    parts = [head.SerializeToString(), _packed(_START, bars.ts.astype("<i8").tobytes())]
    parts += [_packed(tag, getattr(bars, name).astype("<f8").tobytes()) for tag, name in _NUMBERS]
    parts += [_packed(_COUNT, _varints(bars.trade_count)), _packed(_FLAGS, _varints(block.flags.astype(np.int64)))]
    if deleted is not None:
        parts.append(_packed(_DELETED, deleted.astype("<i8").tobytes()))
    return b"".join(parts)


def _packed(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data if data else b""


def _varints(values: IntArray) -> bytes:
    """Returns 64-bit varints; a negative number takes ten bytes."""
    if not len(values):
        return b""
    bits: NDArray[np.uint64] = values.view(np.uint64)
    longest = -(-int(bits.max()).bit_length() // _SEVEN_BITS)
    if longest <= 1:
        return bits.astype(np.uint8).tobytes()
    sizes = np.ones(len(bits), np.int64)
    for group in range(1, longest):
        sizes += bits >= np.uint64(1 << _SEVEN_BITS * group)
    ends = np.cumsum(sizes)
    data = np.empty(int(ends[-1]), np.uint8)
    starts = ends - sizes
    for group in range(longest):
        there = sizes > group
        low = (bits[there] >> np.uint64(_SEVEN_BITS * group)).astype(np.uint8) & np.uint8(_MORE - 1)
        data[starts[there] + group] = low | np.where(sizes[there] > group + 1, np.uint8(_MORE), np.uint8(0))
    return data.tobytes()
