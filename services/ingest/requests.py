"""What requests to the IngestService must look like: pure functions that raise, naming the field and its rule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from mdw.ingest.v1 import ingest_pb2
from services.ingest.calendar import day_of
from services.ingest.filenames import kind_of
from services.ingest.imports import UNKNOWN_TICKER
from services.ingest.planner import STORED
from services.ingest.quality import Reason
from services.ingest.resolving import Wanted
from services.ingest.store.imports import Ask
from services.ingest.timeframes import TIMEFRAMES
from services.kit import checks
from services.kit.errors import InvalidArgument, OutOfRange
from services.kit.tickers import CLASSES, ETF, STOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

    Dated = (
        ingest_pb2.StartBackfillRequest
        | ingest_pb2.DeleteBarsRequest
        | ingest_pb2.SyncActionsRequest
        | ingest_pb2.ListCorporateActionsRequest
    )

FIRST_DATE = date(2000, 1, 1)
"""Nothing is fetched before, and no calendar begins sooner."""

MAX_REASON = 200
MAX_PATH = 400

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A request for a backfill, checked; days are numbered from 1970-01-01, end exclusive, None open."""

    wanted: Wanted
    timeframes: Sequence[int]
    first: int | None
    end: int | None
    mode: int
    priority: int


def backfill_terms(request: ingest_pb2.StartBackfillRequest, now: datetime, horizon: date) -> Terms:
    """Checks a request for a backfill at once, so that all that is wrong is told together.

    `horizon` is the first date that the calendars do not know. Raises InvalidArgument, or OutOfRange CALENDAR_HORIZON.
    """
    wanted = Wanted(
        tickers=request.tickers,
        asset_class=request.asset_class,
        symbol_ids=request.symbol_ids,
        all_active=request.all_active,
    )
    broken: list[tuple[str, str]] = []
    _try(broken, wanted.check)
    timeframes = _try(broken, lambda: stored_timeframes(request.timeframes)) or ()
    first = _try(broken, lambda: _first_date(request, now))
    end = _try(broken, lambda: _date(request, "end_time"))
    if first and end and end <= first:
        broken.append(("end_time", f"is {end}, must be later than start_time, {first}"))
    mode = _try(broken, lambda: known("mode", request.mode, ingest_pb2.BackfillMode)) or 1
    priority = _try(broken, lambda: settable_priority(request.priority, default=ingest_pb2.PRIORITY_NORMAL)) or 0
    if request.request_id:
        _try(broken, lambda: checks.uuid("request_id", request.request_id))
    if broken:
        raise InvalidArgument.many(broken)
    _require_known("start_time", first, horizon)
    _require_known("end_time", end, horizon)
    return Terms(
        wanted=wanted,
        timeframes=timeframes,
        first=None if first is None else day_of(first),
        end=None if end is None else day_of(end),
        mode=mode,
        priority=priority,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionTerms:
    """A request for a deletion, checked; dates of sessions, end exclusive."""

    first: date
    end: date
    reason: str
    priority: int


def deletion_terms(request: ingest_pb2.DeleteBarsRequest, horizon: date) -> DeletionTerms:
    """Checks a request for a deletion at once; raises InvalidArgument, or OutOfRange CALENDAR_HORIZON."""
    broken: list[tuple[str, str]] = []
    first = _try(broken, lambda: _required_date(request, "start_time"))
    end = _try(broken, lambda: _required_date(request, "end_time"))
    if not request.ticker and not request.symbol_id:
        broken.append(("ticker", "is required, or symbol_id"))
    if request.timeframe not in STORED:
        broken.append(("timeframe", "must be TIMEFRAME_1M or TIMEFRAME_1D: the others are rolled up from these"))
    reason = _try(broken, lambda: checks.text("reason", request.reason, maximum=MAX_REASON)) or ""
    priority = _try(broken, lambda: settable_priority(request.priority, default=ingest_pb2.PRIORITY_NORMAL)) or 0
    if request.request_id:
        _try(broken, lambda: checks.uuid("request_id", request.request_id))
    if first and end and end <= first:
        broken.append(("end_time", f"is {end}, must be later than start_time, {first}"))
    if broken or first is None or end is None:
        raise InvalidArgument.many(broken)
    _require_known("start_time", first, horizon)
    _require_known("end_time", end, horizon)
    return DeletionTerms(first=first, end=end, reason=reason, priority=priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncTerms:
    """A request for splits and dividends, checked."""

    first: date
    priority: int


def sync_terms(request: ingest_pb2.SyncActionsRequest, now: datetime) -> SyncTerms:
    """Checks a request for splits and dividends at once; raises InvalidArgument."""
    broken: list[tuple[str, str]] = []
    if request.tickers and request.symbol_ids:
        broken.append(("tickers", "goes without symbol_ids"))
    if request.asset_class and not request.tickers:
        broken.append(("asset_class", "goes with tickers"))
    first = _try(broken, lambda: _first_date(request, now)) or FIRST_DATE
    priority = _try(broken, lambda: settable_priority(request.priority, default=ingest_pb2.PRIORITY_NORMAL)) or 0
    if request.request_id:
        _try(broken, lambda: checks.uuid("request_id", request.request_id))
    if broken:
        raise InvalidArgument.many(broken)
    return SyncTerms(first=first, priority=priority)


def symbols_priority(request: ingest_pb2.SyncSymbolsRequest) -> int:
    """Checks a request for symbols at once and returns its priority; raises InvalidArgument."""
    broken: list[tuple[str, str]] = []
    if request.asset_class and request.asset_class not in CLASSES:
        broken.append(("asset_class", f"is {request.asset_class}, which is no asset class"))
    priority = _try(broken, lambda: settable_priority(request.priority, default=ingest_pb2.PRIORITY_NORMAL)) or 0
    if request.request_id:
        _try(broken, lambda: checks.uuid("request_id", request.request_id))
    if broken:
        raise InvalidArgument.many(broken)
    return priority


def dates_between(request: Dated) -> tuple[date | None, date | None]:
    """Returns the dates from start_time to end_time, exclusive, None where open; raises InvalidArgument."""
    first, end = _date(request, "start_time"), _date(request, "end_time")
    if first and end and end <= first:
        raise InvalidArgument("end_time", f"is {end}, must be later than start_time, {first}")
    return first, end


def import_terms(request: ingest_pb2.ImportFilesRequest) -> Ask:
    """Checks a request for an import at once; raises InvalidArgument."""
    broken: list[tuple[str, str]] = []
    path = _try(broken, lambda: _relative_path(request.path)) or ""
    said = kind_of(path)
    timeframe = _try(broken, lambda: stored_timeframe(request.timeframe)) or said.timeframe
    asset_class = _file_class(request.asset_class) or said.asset_class
    if request.asset_class not in (0, *CLASSES):
        broken.append(("asset_class", f"is {request.asset_class}, which is no asset class"))
    elif said.asset_class not in (0, asset_class) or said.timeframe not in (0, timeframe):
        broken.append(("path", "names files of another kind than timeframe and asset_class"))
    mode = _try(broken, lambda: known("mode", request.mode, ingest_pb2.BackfillMode)) or 1
    priority = _try(broken, lambda: settable_priority(request.priority, default=ingest_pb2.PRIORITY_NORMAL)) or 0
    if request.request_id:
        _try(broken, lambda: checks.uuid("request_id", request.request_id))
    if broken:
        raise InvalidArgument.many(broken)
    return Ask(path=path, timeframe=timeframe, asset_class=asset_class, mode=mode, priority=priority)


def _relative_path(text: str) -> str:
    path = PurePosixPath(checks.text("path", text, maximum=MAX_PATH))
    if path.is_absolute() or ".." in path.parts:
        raise InvalidArgument("path", "must be relative to the workers' IMPORT_FOLDER and stay inside")
    return path.as_posix()


def _file_class(asset_class: int) -> int:
    """Returns the class by which files are known: stocks and ETFs share theirs."""
    return STOCK if asset_class == ETF else asset_class


def stored_timeframes(timeframes: Iterable[int]) -> tuple[int, ...]:
    """Returns the stored timeframes that are fetched for some, days first; raises InvalidArgument."""
    wanted = set()
    for position, number in enumerate(timeframes):
        if number not in TIMEFRAMES:
            raise InvalidArgument(
                f"timeframes[{position}]", f"is {number}, must be one of TIMEFRAME_1M to TIMEFRAME_1W"
            )
        wanted.add(TIMEFRAMES[number].stored)
    if not wanted:
        raise InvalidArgument("timeframes", "is required, for example TIMEFRAME_1D")
    return tuple(stored for stored in STORED if stored in wanted)


def stored_timeframe(number: int) -> int:
    """Returns the number of a stored timeframe, 0 for none; raises InvalidArgument."""
    if number and number not in STORED:
        raise InvalidArgument("timeframe", "must be TIMEFRAME_1M or TIMEFRAME_1D: only these are fetched")
    return number


def settable_priority(priority: int, default: int = 0) -> int:
    """Returns a priority that people may set; raises InvalidArgument."""
    value = priority or default
    if value not in (ingest_pb2.PRIORITY_LOW, ingest_pb2.PRIORITY_NORMAL, ingest_pb2.PRIORITY_HIGH):
        raise InvalidArgument("priority", "must be PRIORITY_LOW, PRIORITY_NORMAL or PRIORITY_HIGH")
    return value


def known(field: str, value: int, enum: Any) -> int:
    """Returns the value of an enum that the contract has; raises InvalidArgument."""
    if value not in enum.values():
        raise InvalidArgument(field, f"is {value}, must be one of {', '.join(enum.keys()[1:])}")
    return value


def all_known(field: str, values: Iterable[int], enum: Any) -> list[int]:
    """Returns the values of a filter, each once; raises InvalidArgument for one that the contract does not have."""
    found = {known(f"{field}[{position}]", value, enum) for position, value in enumerate(values)}
    return sorted(found - {0})


def reject_reason(text: str) -> str:
    """Returns the reason that a filter of refused bars names, empty for any; raises InvalidArgument."""
    reasons = [*(str(reason) for reason in Reason), UNKNOWN_TICKER]
    if text and text not in reasons:
        raise InvalidArgument("reason", f"is {text[:MAX_REASON]!r}, must be one of {', '.join(reasons)}")
    return text


def pause_reason(text: str, default: str) -> str:
    """Returns why a job is to wait; raises InvalidArgument."""
    return checks.text("reason", text, maximum=MAX_REASON) if text else default


def _first_date(request: Dated, now: datetime) -> date | None:
    first = _date(request, "start_time")
    if first and first > now.astimezone(UTC).date():
        raise InvalidArgument("start_time", f"is {first}, must not lie in the future")
    return first


def _required_date(request: ingest_pb2.DeleteBarsRequest, field: str) -> date:
    day = _date(request, field)
    if day is None:
        raise InvalidArgument(field, "is required: 00:00Z of a session's date")
    return day


def _date(request: Dated, field: str) -> date | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    value: Timestamp = getattr(request, field)
    instant = checks.time(field, value)
    if value.seconds % 86_400 or value.nanos:
        raise InvalidArgument(field, f"is {instant:%Y-%m-%dT%H:%M:%SZ}, must be 00:00Z of a session's date")
    return instant.date()


def _require_known(field: str, day: date | None, horizon: date) -> None:
    if day is not None and not FIRST_DATE <= day <= horizon:
        raise OutOfRange(
            "CALENDAR_HORIZON",
            f"{field}: {day} lies outside the calendar, which knows {FIRST_DATE} to {horizon}",
            horizon=str(FIRST_DATE if day < FIRST_DATE else horizon),
        )


def _try(broken: list[tuple[str, str]], check: Callable[[], T]) -> T | None:
    """Runs a check and keeps what it finds broken."""
    try:
        return check()
    except InvalidArgument as error:
        broken.extend(error.violations)
        return None


def symbol_id(value: int) -> int:
    """Returns the id of a filter, 0 for any; raises InvalidArgument for what cannot be one."""
    return checks.integer("symbol_id", value, minimum=0, maximum=2**31 - 1)
