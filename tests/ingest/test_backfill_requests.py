"""What a request for a backfill must look like; each broken rule names its field."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from mdw.ingest.v1 import ingest_pb2
from services.ingest import requests
from services.ingest.calendar import day_of
from services.kit.errors import InvalidArgument, OutOfRange
from tests.ingest.backfilling import DAY, MINUTE, at

NOW = datetime(2026, 3, 4, 15, 0, tzinfo=UTC)
HORIZON = date(2036, 1, 1)


def terms(**fields):
    defaults = {"tickers": ["AAPL"], "timeframes": [DAY], "start_time": at("2024-01-01"), "end_time": at("2025-01-01")}
    given = {name: value for name, value in {**defaults, **fields}.items() if value is not None}
    return requests.backfill_terms(ingest_pb2.StartBackfillRequest(**given), NOW, HORIZON)


def test_days_are_numbered_and_unset_means_missing_at_normal_priority():
    found = terms()
    assert (found.first, found.end) == (day_of(date(2024, 1, 1)), day_of(date(2025, 1, 1)))
    assert (found.mode, found.priority) == (ingest_pb2.BACKFILL_MODE_MISSING, ingest_pb2.PRIORITY_NORMAL)


def test_absent_times_leave_the_ends_open():
    found = terms(start_time=None, end_time=None)
    assert (found.first, found.end) == (None, None)


def test_timeframes_become_the_stored_ones_days_first():
    assert terms(timeframes=[5, MINUTE, 8]).timeframes == (DAY, MINUTE)


def test_a_start_today_and_an_end_in_the_future_are_fine():
    assert terms(start_time=at("2026-03-04"), end_time=at("2030-01-01")).end == day_of(date(2030, 1, 1))


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        ({"timeframes": []}, ["timeframes"]),
        ({"timeframes": [DAY, 99]}, ["timeframes[1]"]),
        ({"timeframes": [0]}, ["timeframes[0]"]),
        ({"start_time": at("2025-01-01")}, ["end_time"]),
        ({"start_time": at("2026-03-05"), "end_time": None}, ["start_time"]),
        ({"start_time": at("2024-01-01T05:00:00Z")}, ["start_time"]),
        ({"end_time": at("2024-06-01T00:00:00.000000001Z")}, ["end_time"]),
        ({"tickers": []}, ["tickers"]),
        ({"tickers": ["A"] * 20_001}, ["tickers"]),
        ({"tickers": [], "symbol_ids": [1] * 20_001}, ["symbol_ids"]),
        ({"all_active": True}, ["tickers"]),
        ({"tickers": [], "symbol_ids": [1], "asset_class": 1}, ["asset_class"]),
        ({"asset_class": 9}, ["asset_class"]),
        ({"mode": 9}, ["mode"]),
        ({"priority": ingest_pb2.PRIORITY_SCHEDULE}, ["priority"]),
        ({"request_id": "no uuid"}, ["request_id"]),
    ],
)
def test_a_broken_rule_names_its_field(fields, broken):
    with pytest.raises(InvalidArgument) as caught:
        terms(**fields)
    assert [field for field, _ in caught.value.violations] == broken


@pytest.mark.parametrize(
    ("fields", "horizon"),
    [({"start_time": at("1999-12-31")}, "2000-01-01"), ({"end_time": at("2036-01-02")}, "2036-01-01")],
)
def test_dates_outside_the_calendar_name_its_horizon(fields, horizon):
    with pytest.raises(OutOfRange) as caught:
        terms(**fields)
    assert caught.value.metadata == {"horizon": horizon}


def test_people_may_set_three_priorities():
    assert [requests.settable_priority(value) for value in (1, 2, 3)] == [1, 2, 3]
    for value in (0, 4, 9):
        with pytest.raises(InvalidArgument):
            requests.settable_priority(value)


def test_filters_take_known_values_once_and_unspecified_means_any():
    states = ingest_pb2.Backfill.State
    assert requests.all_known("states", [5, 5, 1, 0], states) == [1, 5]
    with pytest.raises(InvalidArgument, match=r"states\[1\]: is 77, must be one of PENDING, RUNNING"):
        requests.all_known("states", [1, 77], states)


def test_a_filter_by_timeframe_takes_stored_ones():
    assert [requests.stored_timeframe(number) for number in (0, MINUTE, DAY)] == [0, MINUTE, DAY]
    with pytest.raises(InvalidArgument, match="timeframe"):
        requests.stored_timeframe(5)


def test_a_pause_has_a_reason_of_its_own_or_says_who_asked():
    assert requests.pause_reason("disk swap", default="x") == "disk swap"
    assert requests.pause_reason("", default="paused by key mdw_12") == "paused by key mdw_12"
    with pytest.raises(InvalidArgument):
        requests.pause_reason("x" * 201, default="x")


def test_a_symbol_id_is_a_positive_number_of_four_bytes():
    assert requests.symbol_id(7) == 7
    with pytest.raises(InvalidArgument):
        requests.symbol_id(2**31)
