"""Instants as Postgres takes them, and as numbers since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEW_YORK = ZoneInfo("America/New_York")


def from_ms(ms: int) -> datetime:
    """Returns the instant so many milliseconds after 1970."""
    return _EPOCH + timedelta(milliseconds=ms)


def from_us(us: int) -> datetime:
    """Returns the instant so many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=us)


def to_ms(instant: datetime) -> int:
    """Returns milliseconds since 1970, rounded down."""
    return to_us(instant) // 1000


def to_us(instant: datetime) -> int:
    """Returns microseconds since 1970, exactly."""
    return (instant - _EPOCH) // _MICROSECOND


def days_before(instant: datetime, days: int) -> datetime:
    """Returns the instant at which New York's clock read the same so many days before."""
    return (instant.astimezone(_NEW_YORK) - timedelta(days=days)).astimezone(UTC)
