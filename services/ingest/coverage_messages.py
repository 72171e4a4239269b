"""Requests for coverage, checked, and the messages that answer them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time
from time import monotonic
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1 import ingest_pb2
from services.ingest.calendar import date_of, day_of
from services.ingest.reading.messages import time_of
from services.ingest.requests import FIRST_DATE
from services.ingest.resolving import Wanted
from services.ingest.timeframes import DAY, TIMEFRAMES
from services.kit import checks
from services.kit.errors import InvalidArgument, OutOfRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.coverage import Coverage, Hole
    from services.ingest.session_watch import Look
    from services.kit.calls import Call

MAX_HOLES = 1_000
MAX_MISSING = 1_000
_FOREVER = 10 * 365 * 86_400.0
_MARGIN_SECONDS = 1.0
"""So long before the call's deadline the last message goes out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageTerms:
    """A request for coverage, checked; days are numbered from 1970-01-01, end exclusive."""

    wanted: Wanted
    timeframe: int
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTerms:
    """A request to wait for a session, checked; `until` is on the monotonic clock."""

    wanted: Wanted
    timeframe: int
    day: int
    until: float


def coverage_terms(request: ingest_pb2.GetCoverageRequest, horizon: int) -> CoverageTerms:
    """Checks a request for coverage; `horizon` is the first day that a calendar does not know."""
    wanted = wanted_of(request)
    wanted.check()
    timeframe = _stored(request.timeframe)
    first, end = (_date(request, field) for field in ("start_time", "end_time"))
    if first and end and end <= first:
        raise InvalidArgument("end_time", f"is {end}, must be later than start_time, {first}")
    for field, day in (("start_time", first), ("end_time", end)):
        _require_known(field, day, date_of(horizon))
    return CoverageTerms(
        wanted=wanted, timeframe=timeframe, first=day_of(first or FIRST_DATE), end=day_of(end) if end else horizon
    )


def watch_terms(request: ingest_pb2.WatchSessionRequest, horizon: int, call: Call) -> WatchTerms:
    """Checks a request to wait; it ends early enough for a last message before the call's deadline."""
    wanted = wanted_of(request)
    wanted.check()
    timeframe = _stored(request.timeframe or DAY)
    try:
        day = date.fromisoformat(request.session_date)
    except ValueError:
        raise InvalidArgument(
            "session_date", f"is {request.session_date!r:.30}, must be a date, for example 2024-01-02"
        ) from None
    _require_known("session_date", day, date_of(horizon - 1))
    wait = call.remaining(_FOREVER)
    wait -= min(_MARGIN_SECONDS, wait / 5)
    if request.HasField("wait"):
        wait = min(wait, max(0.0, request.wait.seconds + request.wait.nanos / 1e9))
    return WatchTerms(wanted=wanted, timeframe=timeframe, day=day_of(day), until=monotonic() + wait)


def wanted_of(request: Any) -> Wanted:
    """Returns the symbols that a request names."""
    return Wanted(
        tickers=request.tickers,
        asset_class=request.asset_class,
        symbol_ids=request.symbol_ids,
        all_active=request.all_active,
    )


def to_coverage(coverage: Coverage) -> ingest_pb2.SeriesCoverage:
    """Returns the coverage of a series as people see it."""
    return ingest_pb2.SeriesCoverage(
        symbol_id=coverage.symbol.symbol_id,
        ticker=coverage.symbol.ticker,
        timeframe=coverage.timeframe,  # type: ignore[arg-type]
        sessions_expected=coverage.expected,
        sessions_present=coverage.present,
        sessions_missing=coverage.missing,
        regular_share=coverage.regular_share,
        holes=map(to_hole, coverage.holes[:MAX_HOLES]),
        doubtful=map(to_hole, coverage.doubtful[:MAX_HOLES]),
        more_holes=max(len(coverage.holes), len(coverage.doubtful)) > MAX_HOLES,
    )


def to_hole(hole: Hole) -> ingest_pb2.Hole:
    """Returns a hole as people see it."""
    return ingest_pb2.Hole(
        first_date=date_of(hole.first).isoformat(),
        last_date=date_of(hole.last).isoformat(),
        sessions=hole.sessions,
        reason=hole.why,  # type: ignore[arg-type]
        detail=hole.detail,
        asks=hole.asks,
        next_ask_time=None if hole.next_ask_time is None else _time(hole.next_ask_time),
    )


def to_look(look: Look, day: int, closes: Sequence[int]) -> ingest_pb2.WatchSessionResponse:
    """Returns a message of WatchSession; `closes` are the closing times of the session, in milliseconds."""
    return ingest_pb2.WatchSessionResponse(
        state=look.stage,  # type: ignore[arg-type]
        session_date=date_of(day).isoformat(),
        close_time=time_of(max(closes, default=None)),
        symbols_expected=look.expected,
        symbols_complete=look.expected - len(look.lacking),
        missing=[
            ingest_pb2.MissingSession(
                symbol_id=lack.symbol.symbol_id, ticker=lack.symbol.ticker, hole=to_hole(lack.hole)
            )
            for lack in look.lacking[:MAX_MISSING]
        ],
    )


def _stored(number: int) -> int:
    if number not in TIMEFRAMES:
        raise InvalidArgument("timeframe", f"is {number or 'missing'}, must be one of TIMEFRAME_1M to TIMEFRAME_1W")
    return TIMEFRAMES[number].stored


def _date(request: Any, field: str) -> date | None:
    if not request.HasField(field):
        return None
    instant = checks.time(field, getattr(request, field))
    if instant.time() != time():
        raise InvalidArgument(field, f"is {instant:%Y-%m-%dT%H:%M:%SZ}, must be 00:00Z of a session's date")
    return instant.date()


def _require_known(field: str, day: date | None, last: date) -> None:
    if day is not None and not FIRST_DATE <= day <= last:
        raise OutOfRange(
            "CALENDAR_HORIZON",
            f"{field}: {day} lies outside the calendar, which knows {FIRST_DATE} to {last}",
            horizon=str(FIRST_DATE if day < FIRST_DATE else last),
        )


def _time(instant: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(instant)
    return message
