"""Answers Polygon's summaries: the last day of a ticker, one day's open and close, and whether markets are open."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from deploy.local.reference import NotFoundError, Row, read_day, stamped
from deploy.local.windows import NEW_YORK, day_end, midnight, session_of, zone_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.local.market import BaseBar, Market

EXCHANGES = ("NYSE", "NASDAQ", "OTC")
EARLY, LATE = time(4), time(20)
AHEAD = timedelta(days=365)


def previous(market: Market, ticker: str, params: Mapping[str, str], today: date) -> list[bytes]:
    """Returns the last bar of a ticker before today, as grouped days have it; nothing if there is none."""
    series = market.find(ticker, "day")
    if series is None:
        return []
    zone = zone_of(ticker)
    _, end = series.span(0, midnight(today, zone) - 1)
    if not end:
        return []
    bars = series.adjusted_bars if params.get("adjusted", "true") == "true" else series.bars
    day = session_of(bars[end - 1].start, zone)
    return [stamped(ticker, bars[end - 1], day, crypto=ticker.startswith("X:"))]


def open_close(market: Market, ticker: str, day_text: str, params: Mapping[str, str]) -> Row:
    """Returns a stock's day, but not what was traded before and after it: unrecorded; raises NotFoundError."""
    bar = _bar(market, ticker, day_text, adjusted=params.get("adjusted", "true") == "true")
    values = {"open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close, "volume": bar.volume}
    return {"status": "OK", "from": day_text, "symbol": ticker, **values}


def crypto_open_close(market: Market, pair: tuple[str, str], day_text: str) -> Row:
    """Returns a coin's UTC day; its trades are not recorded; raises NotFoundError."""
    bar = _bar(market, f"X:{pair[0]}{pair[1]}", day_text, adjusted=False)
    head = {"symbol": f"{pair[0]}-{pair[1]}", "isUTC": True, "day": f"{day_text}T00:00:00.000Z"}
    return {**head, "open": bar.open, "close": bar.close, "openTrades": [], "closingTrades": []}


def _bar(market: Market, ticker: str, day_text: str, *, adjusted: bool) -> BaseBar:
    day, series = read_day(day_text, "date"), market.find(ticker, "day")
    zone = zone_of(ticker)
    first, end = series.span(midnight(day, zone), day_end(day, zone)) if series else (0, 0)
    if series is None or first == end:
        raise NotFoundError("Data not found.")
    return (series.adjusted_bars if adjusted else series.bars)[first]


def status_now(now: datetime) -> Row:
    """Returns whether markets are open at an instant, by the real calendar."""
    calendar, local = _calendar(), now.astimezone(NEW_YORK)
    session = calendar.is_session(str(local.date()))
    opening, closing = (
        (calendar.session_open(str(local.date())), calendar.session_close(str(local.date()))) if session else (now, now)
    )
    regular = bool(session and opening <= now < closing)
    early = bool(session and local.time() >= EARLY and now < opening)
    late = bool(session and now >= closing and local.time() < LATE)
    word = "open" if regular else "extended-hours" if early or late else "closed"
    return {
        "market": word,
        "earlyHours": early,
        "afterHours": late,
        "serverTime": local.isoformat(timespec="seconds"),
        "exchanges": dict.fromkeys(("nyse", "nasdaq", "otc"), word),
        "currencies": {"fx": "open" if local.weekday() < 5 else "closed", "crypto": "open"},  # noqa: PLR2004 - Saturday
        "indicesGroups": {},
    }


def status_upcoming(today: date) -> list[Row]:
    """Returns the holidays and early closes of the next year, a row an exchange."""
    calendar, last = _calendar(), today + AHEAD
    holidays = calendar.regular_holidays.holidays(str(today), str(last), return_name=True)
    found: list[tuple[date, Row]] = [
        (day.date(), {"name": name, "status": "closed"})
        for day, name in holidays.items()
        if day.weekday() < 5  # noqa: PLR2004 - Saturday
    ]
    for day in calendar.early_closes:
        if today <= day.date() <= last:
            hours = {"open": _zulu(calendar.session_open(day)), "close": _zulu(calendar.session_close(day))}
            found.append((day.date(), {"name": "Early close", "status": "early-close", **hours}))
    rows = [{"date": day.isoformat(), "exchange": name, **row} for day, row in found for name in EXCHANGES[:2]]
    return sorted(rows, key=lambda row: (row["date"], row["exchange"]))


def _zulu(stamp: Any) -> str:
    return str(stamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))


def _calendar() -> Any:
    """Returns the calendar, whose library takes a second to import."""
    import warnings  # noqa: PLC0415

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # the library's own, of pandas
        import exchange_calendars  # noqa: PLC0415

        return exchange_calendars.get_calendar("XNYS")
