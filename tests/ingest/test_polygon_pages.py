"""Decoding of pages: every bar that was sent is there, however it was written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.columns import NO_TIME
from services.ingest.pages import PageError, decode_head, decode_page

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**9), 10**13),
    st.none(),
    st.just("5"),
    st.booleans(),
)
rows = st.lists(
    st.dictionaries(st.sampled_from(["o", "h", "l", "c", "v", "vw", "t", "n", "otc", "x"]), numbers), max_size=8
)


def page(results, **fields):
    return json.dumps({"status": "OK", "ticker": "A", "adjusted": False, "results": results, **fields}).encode()


def plain(row, name, default):
    """Reads one value as the documentation of the columns says."""
    value = row.get(name)
    return default if isinstance(value, bool) or not isinstance(value, int | float) else value


@given(rows)
def test_every_value_is_in_its_place_and_what_is_missing_is_marked(results):
    bars = decode_page(page(results)).bars
    for name, column in (("o", bars.open), ("h", bars.high), ("l", bars.low), ("c", bars.close), ("v", bars.volume)):
        np.testing.assert_array_equal(column, [float(plain(row, name, np.nan)) for row in results])
    times = [plain(row, "t", NO_TIME) for row in results]
    assert bars.ts.tolist() == [
        NO_TIME if t != int(t) else max(-(2**52), min(2**52, int(t))) if t != NO_TIME else t for t in times
    ]
    counts = [plain(row, "n", -1) for row in results]
    assert bars.trade_count.tolist() == [int(n) if 0 <= n < 2**31 else -1 for n in counts]


@given(rows.filter(len), st.data())
def test_the_raw_text_of_a_bar_is_what_was_sent(results, data):
    at = data.draw(st.lists(st.integers(0, len(results) - 1)))
    assert [json.loads(text) for text in decode_page(page(results)).raw(at)] == [results[position] for position in at]


def test_exponents_and_numbers_beyond_doubles_are_read():
    body = b'{"status":"OK","results":[{"v":1.300741e+06,"o":1e999,"c":-1e999,"t":1.7e12,"n":1e999,"vw":1e999}]}'
    bars = decode_page(body).bars
    assert (bars.volume[0], bars.open[0], bars.close[0], bars.ts[0]) == (1300741.0, np.inf, -np.inf, 1_700_000_000_000)
    assert (bars.trade_count[0], np.isnan(bars.vwap[0])) == (-1, True)


def test_a_bar_that_is_no_object_or_has_an_endless_number_misses_all_fields():
    body = b'{"status":"OK","results":[5, {"o":' + b"9" * 5000 + b', "t": 1}, {"o": 1, "t": 2.5}]}'
    bars = decode_page(body).bars
    assert np.isnan(bars.open).tolist() == [True, True, False]
    assert bars.ts.tolist() == [NO_TIME] * 3


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"results":', b"[]", b'{"results":5}', b'{"status":7}', b'{"ticker":"\xff"}']
)
def test_what_is_no_page_is_an_error(body):
    with pytest.raises(PageError):
        decode_page(body)
    assert decode_head(body).status == ""
