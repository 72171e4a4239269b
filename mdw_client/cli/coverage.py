"""`mdw coverage`: a calendar of sessions in colour, and why some are not held."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import click
from rich.text import Text

from mdw.ingest.v1 import ingest_pb2 as pb
from mdw_client import words
from mdw_client.cli import base
from mdw_client.cli.backfill import TIMEFRAMES
from mdw_client.frames import BY_DATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mdw_client.symbols import Ticker

# Bars of extended hours in New York begin at the earliest at 08:00 UTC and end at the latest at 01:00 UTC of the next
# day: five hours earlier all of them have their session's date.
_NEW_YORK = timedelta(hours=5)
_SUNDAY = 6
_YEAR = timedelta(days=365)
_PRESENT, _DOUBTFUL = ("█", "green"), ("▓", "yellow")
_MARKS = {
    pb.Hole.NEVER_ASKED: ("·", "bright_black"),
    pb.Hole.IN_PROGRESS: ("▒", "blue"),
    pb.Hole.OUTSIDE_PLAN: ("=", "bright_black"),
    pb.Hole.SUSPECT: ("?", "yellow"),
    pb.Hole.GIVEN_UP: ("!", "yellow"),
    pb.Hole.FAILED: ("x", "red"),
    pb.Hole.DELETED: ("-", "magenta"),
    pb.Hole.NO_BARS: ("○", "red"),
    pb.Hole.NOT_CLOSED: ("…", "blue"),
}
_ELSE = (" ", "default")
Mark = tuple[str, str]


@click.command(cls=base.Command)
@click.argument("ticker")
@click.option("--timeframe", type=TIMEFRAMES, default="1d", show_default=True)
@click.option("--start", metavar="DATE", help="Inclusive; default a year ago, or a year before the last bar.")
@base.end_option
@base.class_option
@click.pass_obj
def coverage(
    app: base.App, *, ticker: str, timeframe: str, start: str | None, end: str | None, asset_class: str | None
) -> None:
    """Shows which sessions are held, as a calendar, and why others are not."""
    name = int(ticker) if ticker.isdigit() else ticker
    first, later = words.day(start), ""
    if not start:
        first, later = _last_year(app, name, timeframe, asset_class)
        end = end or later or None
    for series in app.client.coverage(name, timeframe, first, end, asset_class=asset_class):
        if app.as_json:
            base.print_json(series)
            continue
        days = held(app, series, first, end)
        app.print(_summary(series))
        for line in months(series, days, date.fromisoformat(first)):
            app.out.print(line)
        app.out.print(legend(series))
        runs = [*series.holes, *series.doubtful]
        if runs:
            app.many(runs, ("from", "to", "sessions#", "why", "detail"), _run)
        if series.more_holes:
            app.print("and more: name a shorter span")
        if later and end == later:
            app.print(f"nothing is held from {later} on: mdw coverage {ticker} --start {later} says why")


def _last_year(app: base.App, name: Ticker, timeframe: str, asset_class: str | None) -> tuple[str, str]:
    """Returns the first day of the year that ends today, or with the last bar if that is older: then its end, too."""
    stored = "1d" if words.timeframe(timeframe) in BY_DATE else "1m"
    year_ago = datetime.now(UTC).date() - _YEAR
    days = [each.bar.session_date for each in app.client.bars.latest(name, stored, asset_class=asset_class).bars]
    last = date.fromisoformat(days[0]) if days and days[0] else None
    if last is None or last > year_ago:
        return year_ago.isoformat(), ""
    return (last - _YEAR).isoformat(), (last + timedelta(days=1)).isoformat()


def held(app: base.App, series: pb.SeriesCoverage, start: str, end: str | None) -> set[date]:
    """Returns the sessions that have a bar, read from the bars themselves."""
    import numpy as np  # noqa: PLC0415 # most commands start without it

    chunks = app.client.bars.chunks(series.symbol_id, series.timeframe, start, end)
    times = np.concatenate([np.zeros(0, "M8[ms]"), *(chunk.columns["start_time"] for chunk in chunks)])
    days = set(np.unique(times.astype("M8[D]")).tolist())
    if series.timeframe in BY_DATE or any(day.weekday() == _SUNDAY for day in days):
        return days
    return set(np.unique((times - np.timedelta64(_NEW_YORK)).astype("M8[D]")).tolist())


def months(series: pb.SeriesCoverage, days: set[date], first: date) -> Iterator[Text]:
    """Yields a line a month, a mark a day; days without a session stay empty."""
    marks = _marks(series, days)
    if not marks:
        return
    year, month = first.year, first.month
    last = max(marks)
    while (year, month) <= (last.year, last.month):
        line = Text(f"{year}-{month:02d}  ")
        for number in range(1, calendar.monthrange(year, month)[1] + 1):
            mark, style = marks.get(date(year, month, number), _ELSE)
            line.append(mark, style)
        yield line
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)  # noqa: PLR2004 # months a year


def _marks(series: pb.SeriesCoverage, days: set[date]) -> dict[date, Mark]:
    marks = dict.fromkeys(days, _PRESENT)
    for run in series.doubtful:
        marks.update(dict.fromkeys((day for day in _days(run) if day in days), _DOUBTFUL))
    for run in series.holes:
        if run.reason in _MARKS:
            marks.update(dict.fromkeys((day for day in _days(run) if day not in days), _MARKS[run.reason]))
    return marks


def _days(run: pb.Hole) -> list[date]:
    """Returns the days of a run; where it has more days than sessions, the market rests at weekends."""
    first, last = date.fromisoformat(run.first_date), date.fromisoformat(run.last_date)
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return days if len(days) == run.sessions else [day for day in days if day.weekday() < _SUNDAY - 1]


def legend(series: pb.SeriesCoverage) -> Text:
    """Returns what the marks mean, of those that are there."""
    line = Text()
    reasons = {run.reason for run in series.holes}
    known = [("present", _PRESENT)] + ([("doubtful", _DOUBTFUL)] if series.doubtful else [])
    known += [(_why(reason), mark) for reason, mark in _MARKS.items() if reason in reasons]
    for name, (mark, style) in known:
        line.append(mark, style)
        line.append(f" {name}  ")
    return line


def _summary(series: pb.SeriesCoverage) -> str:
    share = f", {series.regular_share:.1%} of regular minutes" if series.HasField("regular_share") else ""
    counts = (
        f"{series.sessions_present:,} of {series.sessions_expected:,} sessions, {series.sessions_missing:,} missing"
    )
    return f"{series.ticker} {base.timeframe(series.timeframe)}: {counts}{share}"


def _run(run: pb.Hole) -> tuple[str, ...]:
    asks = f" asked {'once' if run.asks == 1 else f'{run.asks} times'}" if run.asks else ""
    again = f", again {base.time(run.next_ask_time)}" if run.HasField("next_ask_time") else ""
    return run.first_date, run.last_date, f"{run.sessions:,}", _why(run.reason), f"{run.detail}{asks}{again}".strip()


def _why(reason: int) -> str:
    return base.state(pb.Hole.Reason, reason).lower().replace("_", " ")
