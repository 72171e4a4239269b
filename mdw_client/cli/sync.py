"""`mdw sync`: a folder of Parquet files that mirrors bars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mdw.type.v1 import type_pb2
from mdw_client import words
from mdw_client.cli import base
from mdw_client.cli.backfill import TIMEFRAMES
from mdw_client.cli.bars import tickers_of

if TYPE_CHECKING:
    from mdw_client.mirror import Synced


@click.command(cls=base.Command)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("tickers", nargs=-1)
@click.option("--timeframe", type=TIMEFRAMES, default="1d", show_default=True)
@click.option("--start", metavar="TIME", help="Only bars from here on.")
@click.option("--adjustment", type=click.Choice(["none", "split", "split_and_dividend"]), help="Default: as traded.")
@click.option("--hours", type=click.Choice(["all", "regular"]), help="Of intraday bars.")
@click.option("--min-quality", type=click.FloatRange(0, 1), default=0.0, help="Leave out bars below it.")
@base.class_option
@click.option("--all-active", is_flag=True, help="Every active symbol.")
@click.pass_obj
def sync(app: base.App, /, *, folder: Path, tickers: tuple[str, ...], timeframe: str, **choices: Any) -> None:
    """Keeps FOLDER equal to the bars, a Parquet file a symbol, by asking for what changed.

    Without tickers, --class and --all-active the symbols that are there are brought up to date. It may be stopped at
    any point and run again.
    """
    with _progress(app) as progress:
        task = progress.add_task("reading", total=None)

        def report(done: int, every: int, ticker: str) -> None:
            progress.update(task, description=ticker, completed=done, total=every)

        found = app.client.sync(folder, tickers_of(tickers) or None, timeframe, report=report, **choices)
    for each in found.unresolved:
        reason = words.spoken(type_pb2.ErrorReason, each.reason)
        app.err.print(f"left out: {each.ticker or each.symbol_id}: {reason}", markup=False)
    _tell(app, found)


def _progress(app: base.App) -> Progress:
    """Returns a bar of symbols, which only a terminal shows."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TextColumn("symbols"))
    hidden = not app.err.is_terminal
    return Progress(*columns, TimeElapsedColumn(), console=app.err, transient=True, disable=hidden)


def _tell(app: base.App, found: Synced) -> None:
    as_of = found.as_of.ToJsonString()
    if app.as_json:
        told = {"folder": str(found.folder), "symbols": found.symbols, "files_written": found.files, "as_of": as_of}
        click.echo(json.dumps(told))
    else:
        app.print(f"{found.folder}: {found.symbols:,} symbols, {found.files:,} files written, as of {as_of}")
