"""Checks of single request fields; each raises InvalidArgument that names the field."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from services.kit.errors import InvalidArgument

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS = 1_000_000_000
_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def text(field: str, value: str, *, maximum: int, minimum: int = 1) -> str:
    """Returns a text in NFC; printable, with no space at its ends, within its length."""
    value = unicodedata.normalize("NFC", value)
    if not minimum <= len(value) <= maximum:
        raise InvalidArgument(field, f"has {len(value)} characters, must have {minimum} to {maximum}")
    if not value.isprintable() or value != value.strip():
        raise InvalidArgument(field, "must be printable and must not begin or end with a space")
    return value


def uuid(field: str, value: str) -> UUID:
    """Returns a UUID."""
    if not value:
        raise InvalidArgument(field, "is required")
    try:
        return UUID(value)
    except ValueError:
        raise InvalidArgument(field, "is not a UUID") from None


def integer(field: str, value: int, *, minimum: int, maximum: int) -> int:
    """Returns a whole number within its bounds, both inclusive."""
    if not minimum <= value <= maximum:
        raise InvalidArgument(field, f"is {value}, must be {minimum} to {maximum}")
    return value


def time(field: str, value: Timestamp) -> datetime:
    """Returns an instant in UTC, to the microsecond; between the years 1900 and 2200."""
    micros = value.seconds * 1_000_000 + value.nanos // 1_000
    if not 0 <= value.nanos < _NANOS:
        raise InvalidArgument(field, "is no valid time")
    try:
        instant = EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise InvalidArgument(field, "is no valid time") from None
    if not _FIRST <= instant <= _LAST:
        raise InvalidArgument(field, "must lie between the years 1900 and 2200")
    return instant


def micros(instant: datetime) -> int:
    """Returns whole microseconds since 1970."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """Returns the instant of whole microseconds since 1970."""
    return EPOCH + timedelta(microseconds=value)


def timestamp(instant: datetime | None) -> Timestamp | None:
    """Returns an instant as a message; None stays absent."""
    if instant is None:
        return None
    seconds, rest = divmod(micros(instant), 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)
