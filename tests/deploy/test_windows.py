from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from deploy.local.windows import NEW_YORK, day_end, midnight, session_of, window, zone_of


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


@pytest.mark.parametrize(
    ("multiplier", "timespan", "instant", "start", "end"),
    [
        (1, "second", "2020-12-15T15:00:07Z", "2020-12-15T15:00:07Z", "2020-12-15T15:00:08Z"),
        (1, "minute", "2020-12-15T15:00:07Z", "2020-12-15T15:00:00Z", "2020-12-15T15:01:00Z"),
        (1, "hour", "2020-12-15T14:30:00Z", "2020-12-15T14:00:00Z", "2020-12-15T15:00:00Z"),
        (330, "minute", "2020-12-15T14:29:00Z", "2020-12-15T09:00:00Z", "2020-12-15T14:30:00Z"),
        (1, "day", "2005-04-01T12:00:00Z", "2005-04-01T05:00:00Z", "2005-04-02T05:00:00Z"),
        (1, "day", "2005-04-04T12:00:00Z", "2005-04-04T04:00:00Z", "2005-04-05T04:00:00Z"),
        (1, "week", "2005-04-04T12:00:00Z", "2005-04-03T05:00:00Z", "2005-04-10T04:00:00Z"),
        (1, "month", "2005-04-04T12:00:00Z", "2005-04-01T05:00:00Z", "2005-05-01T04:00:00Z"),
        (1, "quarter", "2005-06-04T12:00:00Z", "2005-04-01T05:00:00Z", "2005-07-01T04:00:00Z"),
        (1, "year", "2005-06-04T12:00:00Z", "2005-01-01T05:00:00Z", "2006-01-01T05:00:00Z"),
    ],
)
def test_windows_follow_new_york_and_weeks_begin_on_sunday(multiplier, timespan, instant, start, end):
    assert (ms(start), ms(end)) == window(ms(instant), multiplier, timespan, NEW_YORK)


def test_windows_of_crypto_follow_utc():
    assert (ms("2020-01-01T00:00Z"), ms("2020-01-02T00:00Z")) == window(ms("2020-01-01T23:00Z"), 1, "day", UTC)
    assert (ms("2020-01-01T20:00Z"), ms("2020-01-02T00:00Z")) == window(ms("2020-01-01T23:00Z"), 4, "hour", UTC)


def test_a_day_spans_its_zone():
    assert zone_of("X:BTCUSD") is UTC
    assert zone_of("AAPL") is NEW_YORK
    assert ms("2020-03-08T05:00Z") == midnight(date(2020, 3, 8), NEW_YORK)
    assert ms("2020-03-09T04:00Z") - 1 == day_end(date(2020, 3, 8), NEW_YORK)
    assert date(2020, 3, 7) == session_of(ms("2020-03-08T04:59Z"))
