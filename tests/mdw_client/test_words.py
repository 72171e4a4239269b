"""Words: what people write for times, dates and names."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1.ingest_pb2 import Backfill
from mdw.type.v1.type_pb2 import ASSET_CLASS_CRYPTO, TIMEFRAME_1D, TIMEFRAME_1M, AssetClass
from mdw_client import ConfigurationError, words

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2024-05-01", "2024-05-01T00:00:00Z"),
        (date(2024, 5, 1), "2024-05-01T00:00:00Z"),
        ("2024-05-01T13:30Z", "2024-05-01T13:30:00Z"),
        ("2024-05-01T09:30-04:00", "2024-05-01T13:30:00Z"),
        ("2024-05-01 13:30:00.000001+00:00", "2024-05-01T13:30:00.000001Z"),
        (datetime(2024, 5, 1, 9, 30, tzinfo=NEW_YORK), "2024-05-01T13:30:00Z"),
        (datetime(2024, 5, 1, 13, 30, tzinfo=UTC), "2024-05-01T13:30:00Z"),
        (datetime(1965, 5, 1, tzinfo=timezone(timedelta(hours=-4))), "1965-05-01T04:00:00Z"),
        (Timestamp(seconds=1), "1970-01-01T00:00:01Z"),
    ],
)
def test_reads_dates_and_times(written, instant: str) -> None:
    assert words.instant(written).ToJsonString() == instant


@pytest.mark.parametrize("written", ["2024-05-01T09:30", datetime(2024, 5, 1, 9, 30)])  # noqa: DTZ001
def test_refuses_a_time_without_a_zone_and_says_what_to_write(written) -> None:
    with pytest.raises(ConfigurationError, match=r"start: 2024-05-01T09:30:00 has no time zone.*America/New_York"):
        words.instant(written, "start")


def test_refuses_what_is_no_date_or_time() -> None:
    with pytest.raises(ConfigurationError, match=r"end: '1st of May' is no date or time: write 2024-05-01"):
        words.instant("1st of May", "end")


def test_a_day_is_a_date() -> None:
    assert (words.day("2024-05-01"), words.day(date(2024, 5, 1)), words.day(None)) == ("2024-05-01", "2024-05-01", "")
    with pytest.raises(ConfigurationError, match="a date is wanted"):
        words.day("2024-05-01T00:00Z")


def test_nothing_stays_nothing() -> None:
    assert (words.instant(None), words.duration(None), words.timeframe(None), words.many(None)) == (None, None, 0, [])


@pytest.mark.parametrize("written", ["1d", "1D", "TIMEFRAME_1D", "timeframe_1d", TIMEFRAME_1D])
def test_a_name_may_be_written_in_any_way(written) -> None:
    assert words.timeframe(written) == TIMEFRAME_1D


def test_lists_may_be_single_words() -> None:
    assert words.timeframes("1m") == words.timeframes([TIMEFRAME_1M]) == [TIMEFRAME_1M]
    assert words.words(Backfill.State, ["running", "PAUSED"], "states") == [Backfill.RUNNING, Backfill.PAUSED]
    assert words.many("bars.read") == words.many(("bars.read",)) == ["bars.read"]


@pytest.mark.parametrize("written", ["bonds", 99, 0, ""])
def test_an_unknown_name_is_refused_with_the_choices(written) -> None:
    with pytest.raises(ConfigurationError, match="is none of stock, etf, crypto"):
        words.asset_class(written)


def test_speaks_names_back() -> None:
    assert words.spoken(AssetClass, ASSET_CLASS_CRYPTO, "ASSET_CLASS_") == "crypto"
    assert words.spoken(AssetClass, 77) == "77"


def test_spans_are_seconds_or_timedeltas() -> None:
    assert words.duration(1.5) == words.duration(timedelta(seconds=1.5))


def test_a_request_id_is_made_when_none_is_given() -> None:
    assert words.request_id("mine") == "mine"
    assert words.request_id(None) != words.request_id(None)
