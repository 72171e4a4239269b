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


plain_numbers = st.one_of(st.integers(-(10**17), 10**17), st.decimals(-(10**9), 10**9, places=9).map(float))


def plain_text(number):
    """Writes a number without an exponent."""
    return str(number) if isinstance(number, int) else np.format_float_positional(number, trim="0")


@given(st.lists(st.sampled_from(["o", "h", "l", "c", "v", "vw", "t", "n"]), unique=True, min_size=1), st.data())
def test_bars_with_the_same_fields_are_read_as_any_others(names, data):
    bars = data.draw(st.lists(st.tuples(*(plain_numbers for _ in names)), min_size=1, max_size=6))
    texts = [
        "{" + ",".join(f'"{name}":{plain_text(v)}' for name, v in zip(names, bar, strict=True)) + "}" for bar in bars
    ]
    compact, spaced = ",".join(texts), " , ".join(texts)
    pages = [
        decode_page(f'{{"ticker":"A","results":[{rows}],"next_url":"[x]"}}'.encode()) for rows in (compact, spaced)
    ]
    assert [page.head.next_url for page in pages] == ["[x]", "[x]"]
    for name in ("ts", "open", "high", "low", "close", "volume", "vwap", "trade_count"):
        np.testing.assert_array_equal(*(getattr(page.bars, name) for page in pages))


@pytest.mark.parametrize(
    ("results", "volumes"),
    [
        ('[{"v":1,"t":5},{"v2":2,"t":6}]', [1, np.nan]),
        ('[{"v":1,"t":5},{"t":6,"v":2}]', [1, 2]),
        ('[{"v":1,"v":3}]', [3]),
        ('[{"v":1,"otc":2}]', [1]),
        ('[{"v":1}],"inner":{"results":[{"v":7},{"v":8}]}', [1]),
        ("[{}]", [np.nan]),
    ],
)
def test_bars_with_other_fields_are_read_one_by_one(results, volumes):
    page = decode_page(f'{{"ticker":"A","results":{results}}}'.encode())
    np.testing.assert_array_equal(page.bars.volume, volumes)


def test_results_of_something_inside_the_answer_are_not_its_own():
    assert len(decode_page(b'{"ticker":"A","inner":{"results":[{"v":7}]}}').bars) == 0


@pytest.mark.parametrize("rows", ['{"v":,"t":5}', '{"v":1-2}', '{"v":1.2.3}', '{"v":-}', '{"v":1},', '{"v":1}{"v":2}'])
def test_what_is_no_number_is_no_page(rows):
    with pytest.raises(PageError):
        decode_page(f'{{"ticker":"A","results":[{rows}]}}'.encode())


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
