"""What requests for bars must look like: pure functions that raise, naming the field and its rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mdw.ingest.v1 import bars_pb2
from services.ingest.calendar import date_of
from services.ingest.timeframes import DAY_MS, END_MS, FIRST_MS, TIMEFRAMES, Timeframe
from services.kit import checks
from services.kit.errors import InvalidArgument, OutOfRange

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from google.protobuf.timestamp_pb2 import Timestamp

T = TypeVar("T")

_NAMES = ", ".join(f"TIMEFRAME_{timeframe.name.upper()}" for timeframe in TIMEFRAMES.values())


class _Request(Protocol):
    """What requests for spans of bars have in common."""

    timeframe: Any
    min_quality: float
    adjustment: Any
    hours: Any

    @property
    def start_time(self) -> Timestamp: ...
    @property
    def end_time(self) -> Timestamp: ...
    @property
    def as_of(self) -> Timestamp: ...
    def HasField(self, field: Any, /) -> bool: ...  # noqa: N802 - protobuf's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is asked of a series, checked; start inclusive, end exclusive, milliseconds since 1970."""

    timeframe: Timeframe
    start_ms: int
    end_ms: int
    as_of: datetime | None
    min_quality: float
    regular: bool
    adjustment: int


def terms_of(request: _Request, horizon: int) -> Terms:
    """Checks a request at once, so that all that is wrong is told together.

    `horizon` is the first day that the calendars do not know. Raises InvalidArgument, or OutOfRange CALENDAR_HORIZON.
    """
    broken: list[tuple[str, str]] = []
    timeframe = _try(broken, lambda: timeframe_of(request.timeframe)) or TIMEFRAMES[1]
    start = _try(broken, lambda: _instant(request, "start_time", timeframe))
    end = _try(broken, lambda: _instant(request, "end_time", timeframe))
    as_of = _try(broken, lambda: time_of(request, "as_of"))
    if start and end and end <= start:
        broken.append(("end_time", f"is {_text(end)}, must be later than start_time, {_text(start)}"))
    if not 0 <= request.min_quality <= 1:
        broken.append(("min_quality", f"is {request.min_quality}, must be 0 to 1"))
    adjustment = _try(broken, lambda: known("adjustment", request.adjustment, bars_pb2.Adjustment)) or 1
    hours = _try(broken, lambda: known("hours", request.hours, bars_pb2.Hours))
    if broken:
        raise InvalidArgument.many(broken)
    _require_known(end, horizon)
    return Terms(
        timeframe=timeframe,
        start_ms=_milliseconds(start) if start else FIRST_MS,
        end_ms=_milliseconds(end) if end else END_MS,
        as_of=as_of,
        min_quality=request.min_quality,
        regular=hours == bars_pb2.HOURS_REGULAR,
        adjustment=adjustment,
    )


def timeframe_of(number: int) -> Timeframe:
    """Returns a timeframe by its number in the contract; raises InvalidArgument."""
    if number not in TIMEFRAMES:
        raise InvalidArgument("timeframe", f"is {number or 'missing'}, must be one of {_NAMES}")
    return TIMEFRAMES[number]


def stored_timeframe_of(number: int) -> Timeframe:
    """Returns a stored timeframe by its number; raises InvalidArgument."""
    timeframe = timeframe_of(number)
    if timeframe.derived:
        raise InvalidArgument("timeframe", "must be TIMEFRAME_1M or TIMEFRAME_1D, which are stored")
    return timeframe


def time_of(request: Any, field: str) -> datetime | None:
    """Returns an instant of a request, None where it is absent; raises InvalidArgument."""
    return checks.time(field, getattr(request, field)) if request.HasField(field) else None


def known(field: str, value: int, enum: Any) -> int:
    """Returns a value that the contract's enum has; raises InvalidArgument."""
    if value not in enum.values():
        raise InvalidArgument(field, f"is {value}, must be one of {', '.join(enum.keys()[1:])}")
    return value


def _instant(request: _Request, field: str, timeframe: Timeframe) -> datetime | None:
    instant = time_of(request, field)
    if instant and timeframe.daily and checks.micros(instant) % (DAY_MS * 1000):
        raise InvalidArgument(
            field,
            f"is {_text(instant)}; bars of {timeframe.name} are keyed by 00:00Z of their date, whatever the market's "
            f"time zone: use {instant:%Y-%m-%d}T00:00:00Z",
        )
    return instant


def _require_known(end: datetime | None, horizon: int) -> None:
    last = date_of(horizon)
    if end and end.date() > last:
        raise OutOfRange(
            "CALENDAR_HORIZON",
            f"end_time: {_text(end)} lies beyond the calendar, which ends at {last}",
            horizon=str(last),
        )


def _milliseconds(instant: datetime) -> int:
    """Returns the first whole millisecond that is not before an instant."""
    return -(-checks.micros(instant) // 1000)


def _text(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%S}{f'.{instant:%f}' if instant.microsecond else ''}Z"


def _try(broken: list[tuple[str, str]], check: Callable[[], T]) -> T | None:
    """Runs a check and keeps what it finds broken."""
    try:
        return check()
    except InvalidArgument as error:
        broken.extend(error.violations)
        return None
