"""Longer bars made of stored ones, against a plain reading of the rules with the zone database."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator import sessions as generator
from services.ingest.calendar import EVERY_DAY, XNYS, Sessions, day_of
from services.ingest.columns import Columns
from services.ingest.reading.blocks import Block, join
from services.ingest.reading.rollup import PARTIAL, Roller, Windows
from services.ingest.timeframes import DAY_MS, END_MS, FIRST_MS, HOUR_MS, MINUTE_MS, TIMEFRAMES

NEW_YORK = ZoneInfo("America/New_York")
M5, M15, M30, H1, H4, W1 = 2, 3, 4, 5, 6, 8


def milliseconds(moment):
    return round(moment.timestamp() * 1000)


def ms(text, zone=UTC):
    return milliseconds(datetime.fromisoformat(text).replace(tzinfo=zone))


HOURS = generator.schedule()


def make_calendars():
    bounds = [np.array([milliseconds(moment) for moment in column]) for column in zip(*HOURS.values(), strict=True)]
    days = np.arange(day_of(date(2000, 1, 1)), day_of(date(2036, 1, 1)))
    return {
        XNYS: Sessions(XNYS, np.array([day_of(day) for day in HOURS]), *bounds),
        EVERY_DAY: Sessions(EVERY_DAY, days, days * DAY_MS, (days + 1) * DAY_MS),
    }


CALENDARS = make_calendars()


def block_of(ts, **columns):
    n = len(ts)
    plain = {name: np.full(n, 10.0) for name in ("open", "high", "low", "close", "volume")}
    values = {**plain, "vwap": np.full(n, np.nan), "trade_count": np.full(n, -1), "flags": np.zeros(n, np.int16)}
    values.update({name: np.array(column) for name, column in columns.items()})
    flags = values.pop("flags").astype(np.int16)
    return Block(Columns(ts=np.array(ts, np.int64), **values), flags)


def windows(timeframe, calendar=XNYS, *, regular=False):
    return Windows(TIMEFRAMES[timeframe], CALENDARS[calendar], regular=regular)


def roll(blocks, timeframe, calendar=XNYS, *, regular=False, start=FIRST_MS, end=END_MS, newest_first=False):
    roller = Roller(
        windows(timeframe, calendar, regular=regular), start_ms=start, end_ms=end, newest_first=newest_first
    )
    rolled = [roller.push(block) for block in blocks]
    rolled.append(roller.finish())
    return join(rolled[::-1] if newest_first else rolled)


def test_a_longer_bar_has_the_first_open_the_extremes_the_last_close_and_the_sums():
    block = block_of(
        [0, MINUTE_MS, 4 * MINUTE_MS, 5 * MINUTE_MS],
        open=[1.0, 2, 3, 9],
        high=[5.0, 8, 4, 9],
        low=[0.5, 2, 0.25, 9],
        close=[2.0, 3, 4, 9],
        volume=[10.0, 0.5, 20, 1],
        vwap=[1.5, np.nan, 3.0, np.nan],
        trade_count=[1, 2, 3, -1],
        flags=[1, 0, 4, 16],
    )
    rolled = roll([block], M5)
    bars = rolled.bars
    assert bars.ts.tolist() == [0, 5 * MINUTE_MS]
    assert (bars.open[0], bars.high[0], bars.low[0], bars.close[0], bars.volume[0]) == (1, 8, 0.25, 4, 30.5)
    assert bars.vwap[0] == (1.5 * 10 + 3.0 * 20) / 30
    assert math.isnan(bars.vwap[1])
    assert bars.trade_count.tolist() == [6, -1]
    assert rolled.flags.tolist() == [5, 16]


def test_a_vwap_of_bars_without_volume_is_absent():
    assert np.isnan(roll([block_of([0], volume=[0.0], vwap=[5.0])], M5).bars.vwap[0])


@pytest.mark.parametrize(
    ("moment", "start"),
    [
        ("2024-03-08T15:59", "2024-03-08T12:00"),
        ("2024-03-08T04:00", "2024-03-08T04:00"),
        ("2024-03-08T19:59", "2024-03-08T16:00"),
        ("2024-03-10T01:59", "2024-03-10T00:00"),
        ("2024-03-10T03:30", "2024-03-10T00:00"),
        ("2024-03-11T09:30", "2024-03-11T08:00"),
        ("2024-11-03T01:30", "2024-11-03T00:00"),
        ("2024-11-03T04:00", "2024-11-03T04:00"),
    ],
)
def test_four_hours_follow_new_yorks_clock_across_its_changes(moment, start):
    assert windows(H4).starts(np.array([ms(moment, NEW_YORK)]))[0] == ms(start, NEW_YORK)


def test_four_hours_of_crypto_follow_utc():
    assert windows(H4, EVERY_DAY).starts(np.array([ms("2024-03-10T07:59")]))[0] == ms("2024-03-10T04:00")


def test_a_window_ends_where_the_next_one_starts_across_a_clock_change():
    starts = np.array([ms("2024-03-10T00:00", NEW_YORK), ms("2024-11-03T00:00", NEW_YORK)])
    ends = [ms("2024-03-10T04:00", NEW_YORK), ms("2024-11-03T04:00", NEW_YORK)]
    assert windows(H4).ends(starts).tolist() == ends
    assert (windows(H4).ends(starts) - starts).tolist() == [3 * HOUR_MS, 5 * HOUR_MS]


@pytest.mark.parametrize(("timeframe", "expected"), [(M15, ["09:30", "09:45"]), (M30, ["09:30"]), (H1, ["09:30"])])
def test_regular_hours_begin_at_the_open(timeframe, expected):
    moments = [f"2024-07-02T{time}" for time in ("09:30", "09:50")]
    starts = windows(timeframe, regular=True).starts(np.array([ms(moment, NEW_YORK) for moment in moments]))
    assert sorted(set(starts.tolist())) == [ms(f"2024-07-02T{time}", NEW_YORK) for time in expected]


def test_regular_windows_that_reach_beyond_the_close_are_partial():
    times = [ms(f"2024-07-02T{time}", NEW_YORK) for time in ("09:30", "13:30", "15:30", "15:59")]
    early = [ms(f"2024-07-03T{time}", NEW_YORK) for time in ("11:30", "12:30", "12:59")]
    rolled = roll([block_of(times + early)], H1, regular=True)
    assert (rolled.flags == PARTIAL).tolist() == [False, False, True, False, True]
    assert (roll([block_of(times)], H4, regular=True).flags == PARTIAL).tolist() == [False, True]


def test_windows_cut_by_the_span_or_by_as_of_are_partial():
    times = [hour * HOUR_MS + 30 * MINUTE_MS for hour in range(4)]
    rolled = roll([block_of(times)], H1, start=HOUR_MS // 2, end=3 * HOUR_MS + MINUTE_MS)
    assert (rolled.flags == PARTIAL).tolist() == [True, False, False, True]


def test_weeks_begin_on_monday():
    days = [ms(f"2024-01-{day:02}") for day in (5, 8, 9, 12, 14, 15)]
    rolled = roll([block_of(days)], W1)
    assert rolled.bars.ts.tolist() == [ms("2024-01-01"), ms("2024-01-08"), ms("2024-01-15")]
    assert windows(W1).ends(rolled.bars.ts[:1])[0] == ms("2024-01-08")


def plain_start(moment, timeframe, calendar, *, regular):
    """Finds the window of one bar with the zone database."""
    length = TIMEFRAMES[timeframe].length_ms
    if timeframe == W1:
        day = datetime.fromtimestamp(moment / 1000, UTC).date()
        return ms((day - timedelta(days=day.weekday())).isoformat())
    if calendar == EVERY_DAY:
        return moment - moment % length
    local = datetime.fromtimestamp(moment / 1000, UTC).astimezone(NEW_YORK)
    if regular and length >= 30 * MINUTE_MS:
        opened = milliseconds(HOURS[local.date()][0])
        return opened + (moment - opened) // length * length
    midnight = local.replace(hour=0, minute=0, fold=0)
    minutes = (local.hour * 60 + local.minute) // (length // MINUTE_MS) * (length // MINUTE_MS)
    # The hour that comes twice is two windows.
    return milliseconds(midnight.replace(hour=minutes // 60, minute=minutes % 60, fold=local.fold))


def plain_roll(rows, timeframe, calendar, *, regular):
    """Groups bars by window in a dictionary."""
    groups = {}
    for ts, open_, high, low, close, volume, flags in rows:
        start = plain_start(ts, timeframe, calendar, regular=regular)
        if start not in groups:
            groups[start] = [open_, high, low, close, volume, flags]
        else:
            group = groups[start]
            group[1], group[2], group[3] = max(group[1], high), min(group[2], low), close
            group[4], group[5] = group[4] + volume, group[5] | flags
    return [(start, *group) for start, group in sorted(groups.items())]


# Around both clock changes, an early close, and a week without special days.
BEGINNINGS = [
    ms(text, NEW_YORK) for text in ("2024-03-08T00:00", "2024-11-01T00:00", "2024-07-01T00:00", "2024-05-06T00:00")
]
steps = st.lists(st.sampled_from([1, 1, 2, 7, 29, 60, 61, 239, 600, 1440]), min_size=1, max_size=60)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(BEGINNINGS),
    steps,
    st.sampled_from([M5, M15, M30, H1, H4, W1]),
    st.sampled_from([XNYS, EVERY_DAY]),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_rolling_up_agrees_with_a_plain_reading(beginning, steps, timeframe, calendar, regular, newest_first, cuts):  # noqa: PLR0917
    unit = DAY_MS if timeframe == W1 else MINUTE_MS
    ts = (beginning - beginning % unit) + np.cumsum(steps) * unit
    if regular and timeframe != W1 and calendar == XNYS:
        ts = ts[CALENDARS[XNYS].regular(ts)]
    n = len(ts)
    price = np.arange(n) % 13 + 1.0
    columns = {"open": price, "high": price + 2, "low": price - 0.5, "close": price + 1, "volume": price * 3}
    flags = np.arange(n) % 17
    block = block_of(ts, **columns, flags=flags)
    expected = plain_roll(
        zip(ts.tolist(), *(column.tolist() for column in columns.values()), flags.tolist(), strict=True),
        timeframe,
        calendar,
        regular=regular,
    )
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    blocks = [block.take(slice(first, end)) for first, end in itertools.pairwise(edges)]
    rolled = roll(
        blocks[::-1] if newest_first else blocks, timeframe, calendar, regular=regular, newest_first=newest_first
    )
    bars = rolled.bars
    found = zip(
        *(column.tolist() for column in (bars.ts, bars.open, bars.high, bars.low, bars.close, bars.volume)),
        (rolled.flags & ~np.int16(PARTIAL)).tolist(),
        strict=True,
    )
    assert list(found) == expected
