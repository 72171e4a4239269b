"""The first backfill, its progress bar, and the table of what is stored: all of it over gRPC, as any client would."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mdw.ingest.v1 import ingest_pb2
from mdw.type.v1 import type_pb2
from mdw_client import CallError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console

    from mdw.symbols.v1 import symbols_pb2
    from mdw_client import AsyncClient

Backfill = ingest_pb2.Backfill
TITLE = "Daily bars stored (missing: sessions between the first and the last)"
MOST_ROWS = 100
ACTIONS_SECONDS = 30.0  # what they take with a limit of a few requests a minute; then bars do not wait for them
NOT_FAILED = ("pending", "running", "paused", "succeeded")
LINES_SECONDS = 5.0  # between two lines of progress where there is no terminal


async def fetch_actions(client: AsyncClient) -> str:
    """Fetches splits and dividends once, so that adjusted prices are right; returns what went wrong, empty for nothing.

    Before the bars, since a halved price is judged by the splits that are known.
    """
    known = [each async for each in client.backfills.list(kinds="actions", states=NOT_FAILED)]
    latest = known[0] if known else await client.actions.sync()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ACTIONS_SECONDS):
            latest = await _follow(client, latest, lambda _: None)
    if latest.state == Backfill.SUCCEEDED:
        return ""
    why = f" ({latest.error or latest.pause_reason})" if latest.error or latest.pause_reason else ""
    return f"Splits and dividends are not known yet{why}: mdw backfill watch {latest.backfill_id}"


async def fill(client: AsyncClient, console: Console, start: date | None) -> Backfill | None:
    """Backfills daily bars of all active symbols, from `start` or as far back as there is; None if none is missing."""
    try:
        started = await client.backfills.start(all_active=True, timeframes="1d", start=start)
    except CallError as error:
        if error.reason == "NOTHING_TO_DO":
            return None
        raise
    if not started.progress.slices_total:
        return None
    if not console.is_terminal:
        return await _follow(client, started, Lines(console).show)
    columns = (
        TextColumn("backfill"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("slices   {task.fields[bars]:,} bars   {task.fields[ticker]:8} {task.fields[left]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, bars=0, ticker="", left="")

        def show(done: ingest_pb2.Progress) -> None:
            progress.update(
                task,
                total=done.slices_total,
                completed=done.slices_done,
                bars=_bars(done),
                ticker=done.current_ticker,
                left=_time_left(done),
            )

        return await _follow(client, started, show)


async def _follow(
    client: AsyncClient, started: Backfill, show: Callable[[ingest_pb2.Progress], None]
) -> ingest_pb2.Backfill:
    """Shows progress until the work ends or waits for a person."""
    latest = started
    async for latest in client.backfills.watch(started.backfill_id):
        show(latest.progress)
        if latest.state == Backfill.PAUSED:
            break
    return latest


class Lines:
    """Progress as lines, where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = float("-inf")

    def show(self, done: ingest_pb2.Progress) -> None:
        """Prints a line every few seconds, and one at the end."""
        now = time.monotonic()
        if now - self._last > LINES_SECONDS or done.slices_done == done.slices_total:
            self._last = now
            text = (
                f"backfill: {done.slices_done} of {done.slices_total} slices, {_bars(done):,} bars {_time_left(done)}"
            )
            self._console.print(text.rstrip())


def outcome(backfill: Backfill | None) -> str:
    """Returns one line on how a backfill ended."""
    if backfill is None:
        return "Nothing is missing: every session that has closed was asked for."
    done = backfill.progress
    counts = (
        f"{done.bars_inserted:,} bars new, {done.bars_updated:,} corrected, {done.bars_unchanged:,} as held, "
        f"{done.bars_rejected:,} rejected, in {done.requests:,} requests"
    )
    if done.slices_outside_plan:
        counts += (
            f"; {done.slices_outside_plan:,} of {done.slices_total:,} slices lie outside the subscription: "
            f"mdw backfill slices {backfill.backfill_id} --state outside_plan"
        )
    elif backfill.state == Backfill.SUCCEEDED and not (done.bars_inserted or done.bars_updated):
        return (
            "Nothing is missing: every session that has closed was asked for, and those that came without bars were "
            f"asked for again ({done.requests:,} requests)."
        )
    if backfill.state == Backfill.SUCCEEDED:
        return f"Backfill done: {counts}."
    return f"Backfill {Backfill.State.Name(backfill.state)} ({backfill.error or backfill.pause_reason}): {counts}."


async def table(client: AsyncClient) -> tuple[Table, list[str]]:
    """Returns the table of the active symbols' daily bars, the first of very many, and the tickers that have none."""
    symbols = []
    async for symbol in client.symbols.list(active_only=True):
        symbols.append(symbol)
        if len(symbols) == MOST_ROWS:
            break
    statistics = await asyncio.gather(*(client.symbols.statistics(symbol.symbol_id) for symbol in symbols))
    found = Table("symbol", "class", title=TITLE, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("bars", "first", "last", "missing", "validated"):
        found.add_column(heading, justify="right")
    empty = []
    for symbol, figures in zip(symbols, statistics, strict=True):
        series = next((one for one in figures.series if one.timeframe == type_pb2.TIMEFRAME_1D), None)
        if series is None or not series.bars:
            empty.append(symbol.ticker)
        asset_class = type_pb2.AssetClass.Name(symbol.asset_class).rpartition("_")[2].lower()
        found.add_row(symbol.ticker, asset_class, *_cells(series))
    if len(symbols) == MOST_ROWS:
        found.add_row("...")
    return found, empty


def _cells(series: symbols_pb2.SeriesStatistics | None) -> tuple[str, ...]:
    if series is None or not series.bars:
        return ("0", "", "", "", "")
    return (
        f"{series.bars:,}",
        _day(series.first_time),
        _day(series.last_time),
        f"{series.sessions_missing:,}",
        f"{series.validated_share:.1%}",
    )


def _day(time: Timestamp) -> str:
    return time.ToDatetime().date().isoformat()


def _bars(done: ingest_pb2.Progress) -> int:
    return done.bars_inserted + done.bars_updated + done.bars_unchanged


def _time_left(done: ingest_pb2.Progress) -> str:
    left = done.estimated_time_left.ToTimedelta()
    return f"(about {timedelta(seconds=round(left.total_seconds()))} left)" if left.total_seconds() >= 1 else ""
