"""Sessions in the database, New York's clock, and which session a bar belongs to."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator import sessions as generator
from services.ingest.calendar import (
    EVERY_DAY,
    XNYS,
    Sessions,
    date_of,
    day_of,
    days_of_minutes,
    from_wall,
    keys_of_days,
    minutes_off_grid,
    start_of_day,
    to_wall,
)
from services.ingest.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, TIMEFRAMES

NEW_YORK = ZoneInfo("America/New_York")
SQL_FILE = Path(generator.__file__).parent / "sql" / "0004_sessions.sql"


def ms(text, zone=UTC):
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


def instants(*texts, zone=UTC):
    return np.array([ms(text, zone) for text in texts], np.int64)


async def rows_of(url, calendar):
    conn = await asyncpg.connect(url)
    rows = await conn.fetch("SELECT * FROM ingest.sessions WHERE calendar = $1 ORDER BY session_date", calendar)
    await conn.close()
    return rows


def test_the_committed_file_is_what_the_generator_writes():
    assert SQL_FILE.read_text() == generator.render()


async def test_the_table_holds_every_session_of_the_library_with_its_hours(database):
    rows = await rows_of(database.ingest_url, XNYS)
    stored = {row["session_date"]: (row["open_time"], row["close_time"]) for row in rows}
    assert stored == generator.schedule()
    assert [row["ordinal"] for row in rows] == list(range(1, len(rows) + 1))


async def test_crypto_has_a_session_every_utc_day(database):
    rows = await rows_of(database.ingest_url, EVERY_DAY)
    assert len(rows) == (date(2035, 12, 31) - date(2000, 1, 1)).days + 1
    assert [row["ordinal"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["open_time"] == datetime(2035, 12, 31, tzinfo=UTC)
    assert all((row["close_time"] - row["open_time"]).days == 1 for row in rows)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2059, 1, 1)))  # noqa: DTZ001 - the zone is added below
def test_the_clock_reads_as_the_zone_database_says(moment):
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    local = moment.astimezone(NEW_YORK)
    wall = to_wall(np.array([round(moment.timestamp() * 1000)]))
    assert wall[0] == round(local.replace(tzinfo=UTC).timestamp() * 1000)
    assert from_wall(wall)[0] == round(local.replace(fold=0).timestamp() * 1000)


def test_a_wall_time_that_the_clock_skipped_is_read_with_the_offset_before():
    assert from_wall(instants("2024-03-10T02:30"))[0] == ms("2024-03-10T07:30")


def test_daily_bars_are_keyed_by_their_session_date_across_a_clock_change():
    keys, off_grid = keys_of_days(np.array([1112331600000, 1112587200000, 1112587260000]), XNYS)
    assert [date_of(key // DAY_MS) for key in keys.tolist()] == [date(2005, 4, 1), date(2005, 4, 4), date(2005, 4, 4)]
    assert off_grid.tolist() == [False, False, True]


def test_daily_bars_of_crypto_start_at_midnight_utc():
    keys, off_grid = keys_of_days(instants("2024-07-01T00:00", "2024-07-02T04:00"), EVERY_DAY)
    assert keys.tolist() == instants("2024-07-01", "2024-07-02").tolist()
    assert off_grid.tolist() == [False, True]


def test_extended_hours_belong_to_new_yorks_date():
    minutes = instants("2024-01-11T00:59", "2024-01-11T09:00", "2024-07-11T03:59", "2024-07-11T04:00")
    days = [date_of(day) for day in days_of_minutes(minutes, XNYS).tolist()]
    assert days == [date(2024, 1, 10), date(2024, 1, 11), date(2024, 7, 10), date(2024, 7, 11)]
    assert [date_of(day).day for day in days_of_minutes(minutes, EVERY_DAY).tolist()] == [11, 11, 11, 11]


@pytest.mark.parametrize(
    ("day", "calendar", "start"),
    [
        ("2024-01-10", XNYS, "2024-01-10T05:00"),
        ("2024-07-10", XNYS, "2024-07-10T04:00"),
        ("2024-07-10", EVERY_DAY, "2024-07-10T00:00"),
    ],
)
def test_a_day_starts_at_midnight_of_its_market(day, calendar, start):
    assert start_of_day(day_of(date.fromisoformat(day)), calendar) == ms(start)


def test_minutes_start_at_full_minutes():
    assert minutes_off_grid(np.array([0, MINUTE_MS, MINUTE_MS + 1])).tolist() == [False, False, True]


@pytest.fixture(scope="module")
def new_york():
    hours = generator.schedule()
    bounds = [[round(moment.timestamp() * 1000) for moment in column] for column in zip(*hours.values(), strict=True)]
    return Sessions(XNYS, np.array([day_of(day) for day in hours]), *(np.array(column) for column in bounds))


def day(text):
    return day_of(date.fromisoformat(text))


@pytest.mark.parametrize(
    ("first", "end", "sessions"),
    [
        ("2024-07-01", "2024-07-08", 4),
        ("2024-07-04", "2024-07-05", 0),
        ("2024-07-08", "2024-07-01", 0),
        ("1999-01-01", "2000-01-05", 2),
    ],
)
def test_sessions_of_a_span_are_counted(new_york, first, end, sessions):
    assert new_york.count(day(first), day(end)) == sessions


def test_days_are_counted_once_and_only_where_they_are_sessions(new_york):
    assert new_york.held(np.array([day("2024-07-03")] * 2 + [day("2024-07-04"), day("2024-07-05")])) == 2


def test_regular_hours_end_early_before_a_holiday(new_york):
    moments = ["2024-07-03T09:29", "2024-07-03T09:30", "2024-07-03T12:59", "2024-07-03T13:00", "2024-07-04T10:00"]
    assert new_york.regular(instants(*moments, zone=NEW_YORK)).tolist() == [False, True, True, False, False]
    opened, closed = new_york.bounds(instants("2024-07-03T10:00", zone=NEW_YORK))
    assert closed[0] - opened[0] == 3.5 * HOUR_MS


def test_nothing_before_the_first_session_is_regular(new_york):
    assert not new_york.regular(instants("1999-12-31T15:00")).any()


def test_the_calendar_ends_with_2035(new_york):
    assert date_of(new_york.horizon) == date(2036, 1, 1)


def test_only_minutes_and_days_are_stored():
    assert [timeframe.name for timeframe in TIMEFRAMES.values() if not timeframe.derived] == ["1m", "1d"]
    assert [timeframe.name for timeframe in TIMEFRAMES.values() if timeframe.daily] == ["1d", "1w"]
