"""The rules of judging, one by one, and against a plain slow reading of them in exact arithmetic."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.columns import NO_TIME, Columns, concatenate, no_bars
from services.ingest.quality import (
    ABSENT,
    GAP,
    MOVE,
    NO_CONTEXT,
    VOLUME_HIGH,
    VOLUME_LOW,
    WINDOW,
    Reason,
    Split,
    context_after,
    decode_tail,
    encode_tail,
    judge,
    quality,
    sift,
    validated,
)

DAY = 86_400_000


def columns(*rows, first=0, step=DAY):
    """Builds bars from (open, high, low, close, volume), a day apart."""
    o, h, lo, c, v = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    ts = first + step * np.arange(len(rows), dtype=np.int64)
    return Columns(ts, o, h, lo, c, v, (o + c) / 2, np.full(len(rows), 7, np.int64))


def flat(close=100.0, volume=1000.0):
    return (close, close, close, close, volume)


def sift_all(bars, *, start=0, end=1000 * DAY, step=DAY):
    return sift(bars, start_ms=start, end_ms=end, off_grid=bars.ts % step != 0)


def with_value(name, value):
    bars = columns(flat(), flat(), flat())
    changed = getattr(bars, name).copy()
    changed[1] = value
    return replace(bars, **{name: changed})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("open", np.nan, Reason.MISSING_FIELD),
        ("high", np.nan, Reason.MISSING_FIELD),
        ("low", np.nan, Reason.MISSING_FIELD),
        ("close", np.nan, Reason.MISSING_FIELD),
        ("volume", np.nan, Reason.MISSING_FIELD),
        ("ts", NO_TIME, Reason.MISSING_FIELD),
        ("close", np.inf, Reason.NOT_FINITE),
        ("volume", np.inf, Reason.NOT_FINITE),
        ("low", -np.inf, Reason.NOT_FINITE),
        ("open", 0.0, Reason.PRICE_NOT_POSITIVE),
        ("low", -1.0, Reason.PRICE_NOT_POSITIVE),
        ("high", 0.0, Reason.PRICE_NOT_POSITIVE),
        ("volume", -0.5, Reason.VOLUME_NEGATIVE),
        ("high", 99.0, Reason.HIGH_LOW),
        ("low", 101.0, Reason.HIGH_LOW),
        ("open", 100.01, Reason.HIGH_LOW),
        ("ts", 1000 * DAY, Reason.OUT_OF_SPAN),
        ("ts", -DAY, Reason.OUT_OF_SPAN),
        ("ts", DAY + 1, Reason.OFF_GRID),
    ],
)
def test_an_impossible_bar_is_rejected_with_its_reason(name, value, reason):
    sifted = sift_all(with_value(name, value))
    assert ([0, 2], [1], (reason,)) == (sifted.kept.tolist(), sifted.rejected.tolist(), sifted.reasons)


@pytest.mark.parametrize(("name", "value"), [("volume", 0.0), ("vwap", np.nan), ("trade_count", -1), ("volume", 0.7)])
def test_a_bar_without_volume_vwap_or_trades_is_possible(name, value):
    assert sift_all(with_value(name, value)).kept.tolist() == [0, 1, 2]


def test_the_first_broken_rule_names_the_reason():
    bars = columns((np.nan, -1.0, 5.0, 0.0, -1.0))
    assert sift_all(bars, start=DAY).reasons == (Reason.MISSING_FIELD,)


def test_bars_come_out_in_order_of_time():
    bars = columns(flat(1), flat(2), flat(3)).take(np.array([2, 0, 1]))
    assert sift_all(bars).kept.tolist() == [1, 2, 0]


def test_of_bars_with_one_time_the_first_possible_one_stays():
    bars = columns(flat(-1), flat(10), flat(11), flat(10), flat(12))
    bars = replace(bars, ts=np.array([0, 0, 0, 0, DAY]))
    sifted = sift_all(bars)
    assert sifted.kept.tolist() == [1, 4]
    assert sifted.rejected.tolist() == [0, 2]
    assert sifted.reasons == (Reason.PRICE_NOT_POSITIVE, Reason.DUPLICATE)


def test_a_repeat_that_differs_only_in_vwap_is_a_duplicate_and_one_that_lacks_it_twice_is_not():
    bars = columns(flat(), flat(), flat(), flat())
    ts, vwap = np.array([0, 0, DAY, DAY]), np.array([1.0, np.nan, np.nan, np.nan])
    sifted = sift_all(replace(bars, ts=ts, vwap=vwap))
    assert (sifted.kept.tolist(), sifted.rejected.tolist()) == ([0, 2], [1])


def test_nothing_sifts_and_judges_to_nothing():
    assert len(sift_all(no_bars()).kept) == 0
    assert len(judge(no_bars(), context_after(NO_CONTEXT, columns(flat())))) == 0


@pytest.mark.parametrize(
    ("row", "flags"),
    [
        ((10, 60, 10, 60, 1000), 0),
        ((10, 60.01, 10, 60.01, 1000), MOVE),
        ((0.1, 0.6, 0.1, 0.6, 1000), 0),
        ((60, 61, 10, 10, 1000), MOVE),
        ((10, 60.01, 10, 10, 1000), MOVE),
    ],
)
def test_a_move_beyond_500_percent_is_flagged(row, flags):
    assert [flags] == judge(columns(row), NO_CONTEXT).tolist()


@pytest.mark.parametrize(
    ("close", "next_open", "flags"),
    [(100, 110, 0), (100, 110.01, GAP), (100, 90, 0), (100, 89.99, GAP), (1.0, 1.1, 0), (0.3, 0.33, 0), (0.7, 0.63, 0)],
)
def test_a_gap_beyond_10_percent_is_flagged(close, next_open, flags):
    assert [0, flags] == judge(columns(flat(close), flat(next_open)), NO_CONTEXT).tolist()


@pytest.mark.parametrize(
    ("volume", "flags"),
    [(10_000, 0), (10_000.5, VOLUME_HIGH), (100, 0), (99.9, VOLUME_LOW), (0, VOLUME_LOW)],
)
def test_a_volume_far_from_the_median_is_flagged(volume, flags):
    bars = columns(*[flat()] * WINDOW, flat(volume=volume))
    assert flags == judge(bars, NO_CONTEXT)[-1]


def test_the_median_of_twenty_is_the_mean_of_the_two_in_the_middle():
    calm = [flat(volume=v) for v in [1] * 10 + [3] * 10]
    assert judge(columns(*calm, flat(volume=20)), NO_CONTEXT)[-1] == 0
    assert judge(columns(*calm, flat(volume=20.1)), NO_CONTEXT)[-1] == VOLUME_HIGH
    assert judge(columns(*calm, flat(volume=0.19)), NO_CONTEXT)[-1] == VOLUME_LOW


@pytest.mark.parametrize("before", [[1000.0] * (WINDOW - 1), [0.0] * WINDOW])
def test_volumes_are_not_judged_by_fewer_than_twenty_bars_or_a_median_of_0(before):
    assert judge(columns(*[flat(volume=v) for v in before], flat(volume=1e9)), NO_CONTEXT)[-1] == 0


def test_a_split_explains_its_gap_and_its_volume():
    calm = [flat(400.0, 1000.0)] * 25
    bars = columns(*calm, flat(20.0, 20_000.0))
    assert judge(bars, NO_CONTEXT)[-1] == GAP | VOLUME_HIGH
    assert judge(bars, NO_CONTEXT, [Split(25 * DAY, 1, 20)])[-1] == 0


def test_a_gap_beside_a_split_is_still_a_gap():
    bars = columns(*[flat(400.0)] * 3, flat(150.0))
    assert judge(bars, NO_CONTEXT, [Split(3 * DAY, 1, 2)])[-1] == GAP


def test_two_splits_in_one_window_are_both_applied():
    bars = columns(*[flat(80.0, 100.0)] * 20, *[flat(40.0, 200.0)] * 5, *[flat(10.0, 800.0)] * 5)
    splits = [Split(25 * DAY, 1, 4), Split(20 * DAY, 1, 2)]
    assert not judge(bars, NO_CONTEXT, splits).any()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, 1.0),
        (MOVE, 0.7),
        (GAP, 0.8),
        (VOLUME_HIGH, 0.9),
        (VOLUME_LOW, 0.85),
        (MOVE | GAP | VOLUME_LOW, 0.35),
        (GAP | VOLUME_HIGH, 0.7),
        (ABSENT, 1.0),
        (ABSENT | VOLUME_LOW, 0.85),
    ],
)
def test_quality_is_exact_to_the_hundredth(flags, expected):
    assert [expected] == quality(np.array([flags], np.int16)).tolist()


def test_validated_means_at_least_85_hundredths():
    assert validated(np.array([0, MOVE, GAP, VOLUME_HIGH, VOLUME_LOW, VOLUME_HIGH | MOVE], np.int16)).tolist() == [
        True,
        False,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 45])
def test_a_tail_survives_the_way_through_the_database(count):
    bars = (
        columns(*[flat(1 + i / 3, i / 7) for i in range(count)], first=1_600_000_020_000, step=60_000)
        if count
        else no_bars()
    )
    tail = decode_tail(encode_tail(context_after(NO_CONTEXT, bars)))
    assert bars.ts[-WINDOW:].tolist() == tail.ts.tolist()
    assert bars.close[-WINDOW:].tolist() == tail.close.tolist()
    assert bars.volume[-WINDOW:].tolist() == tail.volume.tolist()


def test_a_series_without_a_tail_has_no_context():
    assert len(decode_tail(None).ts) == 0


# --- against a plain reading of the rules -------------------------------------------------------------------------


def exact(number):
    return Fraction(repr(float(number)))


def plain_flags(rows, times, splits, position):
    """Judges one bar with decimals and lists."""
    o, h, lo, c, v = (exact(number) for number in rows[position])
    flags = MOVE if c > 6 * o or h > 6 * lo else 0
    closes, volumes = [], []
    for at in range(max(position - WINDOW, 0), position):
        price = volume = Fraction(1)
        for split in splits:
            if times[at] < split.effective_ms <= times[position]:
                price *= exact(split.split_from) / exact(split.split_to)
                volume /= exact(split.split_from) / exact(split.split_to)
        closes.append(exact(rows[at][3]) * price)
        volumes.append(exact(rows[at][4]) * volume)
    if closes and abs(o - closes[-1]) > closes[-1] / 10:
        flags |= GAP
    middle = median(volumes) if len(volumes) == WINDOW else 0
    if middle > 0:
        flags |= VOLUME_HIGH if v > 10 * middle else 0
        flags |= VOLUME_LOW if v < middle / 10 else 0
    return flags


cents = st.sampled_from([90, 99, 100, 110, 111, 121, 400, 600, 660]).map(lambda n: n / 100)
sizes = st.sampled_from([0.0, 0.7, 1.0, 5.0, 7.0, 10.0, 50.0, 70.0, 70.1, 100.0, 1000.0])


@st.composite
def possible_rows(draw):
    count = draw(st.integers(1, 70))
    rows = []
    for _ in range(count):
        o, c, h, lo = (draw(cents) for _ in range(4))
        rows.append((o, max(o, c, h), min(o, c, lo), c, draw(sizes)))
    return rows


splits_of_a_series = st.lists(
    st.builds(
        lambda day, ratio: Split(day * DAY, *ratio),
        st.integers(0, 75),
        st.sampled_from([(1.0, 2.0), (1.0, 20.0), (3.0, 2.0), (10.0, 1.0)]),
    ),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(possible_rows(), splits_of_a_series, st.integers(0, 70))
def test_judging_agrees_with_a_plain_reading_of_the_rules(rows, splits, cut):
    bars = columns(*rows)
    cut = min(cut, len(bars))
    before = context_after(NO_CONTEXT, bars.take(slice(0, cut)))
    expected = [plain_flags(rows, bars.ts.tolist(), splits, at) for at in range(len(rows))]
    assert expected == judge(bars, NO_CONTEXT, splits).tolist()
    assert expected[cut:] == judge(bars.take(slice(cut, None)), before, splits).tolist()


@settings(max_examples=60, deadline=None)
@given(possible_rows(), possible_rows(), st.integers(0, 70))
def test_a_changed_bar_reaches_no_further_than_twenty_bars(rows, others, at):
    at = min(at, len(rows) - 1)
    before, after = columns(*rows), columns(*rows[:at], others[0], *rows[at + 1 :])
    left, right = judge(before, NO_CONTEXT), judge(after, NO_CONTEXT)
    assert left[:at].tolist() == right[:at].tolist()
    assert left[at + 1 + WINDOW :].tolist() == right[at + 1 + WINDOW :].tolist()


numbers = st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.0, 1.0, 2.0, 3.0])
moments = st.sampled_from([NO_TIME, -DAY, 0, 1, DAY, 2 * DAY, 3 * DAY, 4 * DAY])


def plain_sift(rows):  # noqa: C901 - one branch a rule, on purpose
    """Walks through a page bar by bar; end is 4 * DAY."""
    first, rejected = {}, {}
    for at, (ts, o, h, lo, c, v) in enumerate(rows):
        if ts == NO_TIME or any(np.isnan(x) for x in (o, h, lo, c, v)):
            rejected[at] = Reason.MISSING_FIELD
        elif any(np.isinf(x) for x in (o, h, lo, c, v)):
            rejected[at] = Reason.NOT_FINITE
        elif min(o, h, lo, c) <= 0:
            rejected[at] = Reason.PRICE_NOT_POSITIVE
        elif v < 0:
            rejected[at] = Reason.VOLUME_NEGATIVE
        elif not lo <= min(o, c) <= max(o, c) <= h:
            rejected[at] = Reason.HIGH_LOW
        elif not 0 <= ts < 4 * DAY:
            rejected[at] = Reason.OUT_OF_SPAN
        elif ts % DAY:
            rejected[at] = Reason.OFF_GRID
        elif ts not in first:
            first[ts] = at
        elif rows[at] != rows[first[ts]]:
            rejected[at] = Reason.DUPLICATE
    return [first[ts] for ts in sorted(first)], rejected


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(moments, numbers, numbers, numbers, numbers, numbers), max_size=25))
def test_sifting_agrees_with_a_walk_bar_by_bar(rows):
    ts, *values = zip(*rows, strict=True) if rows else [()] * 6
    o, h, lo, c, v = (np.array(column, np.float64) for column in values)
    bars = Columns(np.array(ts, np.int64), o, h, lo, c, v, np.full(len(rows), np.nan), np.full(len(rows), -1))
    sifted = sift_all(bars, end=4 * DAY)
    assert plain_sift(rows) == (
        sifted.kept.tolist(),
        dict(zip(sifted.rejected.tolist(), sifted.reasons, strict=True)),
    )


def test_columns_are_joined_end_to_end():
    bars = concatenate([columns(flat(1)), no_bars(), columns(flat(2), flat(3))])
    assert (bars.close.tolist(), len(bars)) == ([1.0, 2.0, 3.0], 3)
