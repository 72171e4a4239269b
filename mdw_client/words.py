"""What people write for times, dates, timeframes and other words of the contracts, turned into the wire's values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.type.v1 import type_pb2
from mdw_client.errors import ConfigurationError

Time = str | date | datetime | Timestamp
"""A date (00:00 UTC), an aware datetime, or either as ISO 8601 text."""
Word = str | int
"""The name of an enum's value, in any case and without its prefix, or its number."""
Many = str | Iterable[str]


def instant(value: Time | None, name: str = "time") -> Timestamp | None:
    """Returns the instant of a time; a date is its 00:00 UTC. Raises ConfigurationError for times without a zone."""
    if value is None or isinstance(value, Timestamp):
        return value
    if isinstance(value, str):
        value = _parse(value, name)
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        text = value.isoformat()
        raise ConfigurationError(
            f"{name}: {text} has no time zone, so it is not clear which instant it means: write {text}Z for UTC or "
            f"{text}-05:00, or give a datetime with tzinfo=ZoneInfo('America/New_York')"
        )
    made = Timestamp()
    made.FromDatetime(value.astimezone(UTC))
    return made


def day(value: str | date | None, name: str = "date") -> str:
    """Returns a date as YYYY-MM-DD; empty for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        value = _parse(value, name)
    if isinstance(value, datetime):
        raise ConfigurationError(f"{name}: {value.isoformat()} is a time; a date is wanted, for example 2024-05-01")
    return value.isoformat()


def duration(value: timedelta | float | None) -> Duration | None:
    """Returns a span of time; a number counts seconds."""
    if value is None:
        return None
    made = Duration()
    made.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return made


def asset_class(value: Word | None) -> Any:
    return word(type_pb2.AssetClass, value, "asset_class", "ASSET_CLASS_")


def timeframe(value: Word | None) -> Any:
    return word(type_pb2.Timeframe, value, "timeframe", "TIMEFRAME_")


def timeframes(values: Word | Iterable[Word]) -> list[Any]:
    return [timeframe(value) for value in ([values] if isinstance(values, str | int) else values)]


def word(enum: Any, value: Word | None, name: str, prefix: str = "") -> Any:
    """Returns an enum's value by its name; None is the unspecified one. Raises ConfigurationError with the choices."""
    if value is None:
        return 0
    names = {key.removeprefix(prefix).lower(): number for key, number in enum.items() if number != 0}
    text = str(value).lower().removeprefix(prefix.lower())
    if text in names:
        return names[text]
    if value in names.values():
        return value
    raise ConfigurationError(f"{name}: {value!r} is none of {', '.join(names)}")


def words(enum: Any, values: Word | Iterable[Word], name: str, prefix: str = "") -> list[Any]:
    return [word(enum, value, name, prefix) for value in ([values] if isinstance(values, str | int) else values)]


def spoken(enum: Any, number: int, prefix: str = "") -> str:
    """Returns the name of an enum's value as people write it; a number that this version does not know stays one."""
    return enum.Name(number).removeprefix(prefix).lower() if number in enum.values() else str(number)


def many(values: Many | None) -> list[str]:
    """Returns a list; a single text is a list of one."""
    return [] if values is None else [values] if isinstance(values, str) else list(values)


def request_id(given: str | None) -> str:
    """Returns the id that makes a change happen once, however often it is sent."""
    return given or str(uuid4())


def _parse(text: str, name: str) -> date:
    """Returns a date where the text is one, else a datetime."""
    stripped = text.strip()
    try:
        return date.fromisoformat(stripped)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(stripped)
    except ValueError:
        hint = "write 2024-05-01, 2024-05-01T13:30Z or 2024-05-01T09:30-04:00"
        raise ConfigurationError(f"{name}: {text!r} is no date or time: {hint}") from None
