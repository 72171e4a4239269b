"""Columns: taken off the wire as protobuf itself reads them, whatever way they are written."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from mdw.ingest.v1.bars_pb2 import StreamBarsResponse
from mdw_client.columns import COUNTS, FIXED, concatenate, decode, empty, varints
from tests.mdw_client.market import chunk

NAMES = (*FIXED, *COUNTS)
VALUES = {
    "start_time_ms": st.integers(-(2**63), 2**63 - 1),
    "deleted_time_ms": st.integers(-(2**63), 2**63 - 1),
    **dict.fromkeys(FIXED, st.floats()),
    "trade_count": st.integers(-(2**63), 2**63 - 1),
    "flags": st.integers(0, 2**32 - 1),
}


@st.composite
def messages(draw: st.DrawFn) -> StreamBarsResponse:
    rows = draw(st.integers(0, 40))
    made = StreamBarsResponse(symbol_id=draw(st.integers(1, 2**63 - 1)), ticker=draw(st.text(max_size=5)))
    for name, values in VALUES.items():
        getattr(made, name).extend(draw(st.lists(values, min_size=rows, max_size=rows)))
    made.replaces_all = draw(st.booleans())
    return made


def agrees(raw: bytes) -> bool:
    """Says whether our columns are what protobuf reads from the same bytes."""
    expected, found = StreamBarsResponse.FromString(raw), decode(raw)
    assert found.chunk is not None
    for name in NAMES:
        np.testing.assert_array_equal(found.chunk.columns[name], np.array(getattr(expected, name)))
    np.testing.assert_array_equal(found.chunk.columns["start_time"].astype(np.int64), expected.start_time_ms)
    np.testing.assert_array_equal(found.chunk.deleted.astype(np.int64), expected.deleted_time_ms)
    return (found.chunk.symbol_id, found.chunk.ticker) == (expected.symbol_id, expected.ticker)


@settings(deadline=None, max_examples=30)
@given(messages())
def test_agree_with_protobuf(message: StreamBarsResponse) -> None:
    assert agrees(message.SerializeToString())


@settings(deadline=None, max_examples=30)
@given(messages(), messages())
def test_agree_where_a_column_comes_in_two_parts(first: StreamBarsResponse, second: StreamBarsResponse) -> None:
    assert agrees(first.SerializeToString() + second.SerializeToString())


@settings(deadline=None, max_examples=30)
@given(messages(), st.integers(20, 536_870_911), st.sampled_from([0, 1, 2, 5]))
def test_agree_beside_fields_of_a_later_version(message: StreamBarsResponse, number: int, kind: int) -> None:
    tag, bits = bytearray(), number << 3 | kind
    while bits > 0x7F:
        tag.append(bits & 0x7F | 0x80)
        bits >>= 7
    tag.append(bits)
    body = {0: b"\xff\x01", 1: b"12345678", 2: b"\x03abc", 5: b"1234"}[kind]
    assert agrees(bytes(tag) + body + message.SerializeToString())


@settings(deadline=None, max_examples=30)
@given(messages(), st.data())
def test_a_message_that_is_cut_off_is_refused_or_read_as_protobuf_does(
    message: StreamBarsResponse, data: st.DataObject
) -> None:
    raw = message.SerializeToString()
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        decode(cut)
    except (DecodeError, ValueError):
        return
    StreamBarsResponse.FromString(cut)


@pytest.mark.parametrize("raw", [b"\x0b", b"\x0a", b"\x08\xff", b"\x12\x05ab", b"\x09abc"])
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(raw)


def test_columns_of_different_length_are_refused() -> None:
    message = chunk(1, "AAPL", range(3))
    message.close.append(1.0)
    with pytest.raises(DecodeError, match="differ in length"):
        decode(message.SerializeToString())


def test_a_message_without_bars_has_no_chunk() -> None:
    assert decode(b"").chunk is None


def test_the_columns_of_a_chunk_can_be_written_to() -> None:
    found = decode(chunk(1, "AAPL", range(3)).SerializeToString()).chunk
    assert all(column.flags.writeable and column.flags.aligned for column in found.columns.values())


def test_no_bars_have_columns_too() -> None:
    assert {name: len(column) for name, column in concatenate([]).items()} == dict.fromkeys(empty(), 0)
    assert len(varints(b"")) == 0
