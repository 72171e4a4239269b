"""`mdw bars`: bars on the screen, or in a Parquet or CSV file."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from mdw.ingest.v1 import bars_pb2 as pb
from mdw.type.v1 import type_pb2
from mdw_client import words
from mdw_client.cli import base
from mdw_client.cli.backfill import TIMEFRAMES
from mdw_client.columns import BAR_COLUMNS
from mdw_client.frames import BY_DATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mdw_client.columns import Chunk
    from mdw_client.symbols import Ticker

ON_SCREEN = 20
"""Bars of each symbol where nothing else is said."""
_WIDTH = {True: 10, False: 19}


@click.command(cls=base.Command)
@click.argument("tickers", nargs=-1, required=True, metavar="TICKER... [TIMEFRAME]")
@base.start_option
@base.end_option
@click.option("--last", type=click.IntRange(min=1), help="Only the newest so many of each symbol.")
@click.option("--adjustment", type=click.Choice(["none", "split", "split_and_dividend"]), help="Default: as traded.")
@click.option("--hours", type=click.Choice(["all", "regular"]), help="Of intraday bars.")
@click.option("--min-quality", type=click.FloatRange(0, 1), default=0.0, help="Leave out bars below it.")
@click.option("--as-of", metavar="TIME", help="The answer as it was then: an earlier receipt's as_of.")
@base.class_option
@click.option("--strict", is_flag=True, help="Fail if one of the tickers is unknown.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A file .parquet or .csv.")
@click.pass_obj
def bars(app: base.App, /, *, tickers: tuple[str, ...], out: Path | None, last: int | None, **choices: Any) -> None:
    """Shows bars of tickers, or writes them to a file: mdw bars AAPL 1d --out aapl.parquet.

    Without --out, --start and --last the newest 20 of each.
    """
    names, timeframe = split(tickers)
    if out is None and last is None and not (choices["start"] or choices["end"]):
        last = ON_SCREEN
    choices = {"tickers": names, "timeframe": timeframe, "last": last or 0, **choices}
    if out is not None and out.suffix == ".parquet":
        saved = app.client.bars.save(out, **choices)
        _account(app, saved.receipt, saved.unresolved)
        return
    if out is not None and out.suffix != ".csv":
        raise click.UsageError(f"--out: {out} ends neither with .parquet nor with .csv")
    chunks = app.client.bars.chunks(**choices)
    by_date = words.timeframe(timeframe) in BY_DATE
    if out is not None:
        part = out.with_name(f".{out.name}.part")
        with part.open("w", encoding="utf-8", newline="") as file:
            write_csv(chunks, file, by_date=by_date)
        part.replace(out)
    elif app.as_json:
        for chunk in chunks:
            write_json(chunk, by_date=by_date)
    elif app.out.is_terminal:
        _table(app, chunks, by_date=by_date)
    else:
        write_csv(chunks, sys.stdout, by_date=by_date)
    _account(app, chunks.receipt, chunks.unresolved)


def split(tickers: Sequence[str]) -> tuple[Ticker | list[Ticker], str]:
    """Parts the tickers from the timeframe behind them, by default 1d; a number is a symbol_id."""
    *names, last = tickers
    if not names or last.lower() not in TIMEFRAMES.choices:
        names, last = [*names, last], "1d"
    found = tickers_of(names)
    return (found[0] if len(found) == 1 else found), last


def tickers_of(names: Sequence[str]) -> list[Ticker]:
    """Returns tickers, and symbol_ids for numbers."""
    return [int(name) if name.isdigit() else name for name in names]


def rows(chunk: Chunk, *, by_date: bool) -> Iterator[list[Any]]:
    """Yields ticker, time and the bar's values; absent ones are None."""
    times = [str(time)[: _WIDTH[by_date]] for time in chunk.columns["start_time"]]
    values: list[list[Any]] = [chunk.columns[name].tolist() for name in BAR_COLUMNS[1:]]
    for time, *row in zip(times, *values, strict=True):
        known = [None if isinstance(value, float) and math.isnan(value) else value for value in row]
        known[6] = None if known[6] == -1 else known[6]
        yield [chunk.ticker, time if by_date else f"{time}Z", *known]


def _names(*, by_date: bool) -> tuple[str, ...]:
    return ("ticker", "date" if by_date else "time", *BAR_COLUMNS[1:])


def write_csv(chunks: Iterable[Chunk], file: TextIO, *, by_date: bool) -> None:
    """Writes a header and the bars; nothing at all where the answer is an error."""
    writer = csv.writer(file, lineterminator="\n")
    begun = iter(chunks)
    first = list(itertools.islice(begun, 1))
    writer.writerow(_names(by_date=by_date))
    for chunk in itertools.chain(first, begun):
        writer.writerows(rows(chunk, by_date=by_date))


def write_json(chunk: Chunk, *, by_date: bool) -> None:
    names = _names(by_date=by_date)
    for row in rows(chunk, by_date=by_date):
        found = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        click.echo(json.dumps({"symbol_id": chunk.symbol_id, **found}))


def _table(app: base.App, chunks: Iterable[Chunk], *, by_date: bool) -> None:
    """Prints the bars, without columns in which there is nothing."""
    found: Any = [row for chunk in chunks for row in rows(chunk, by_date=by_date)]
    names = _names(by_date=by_date)
    kept = [place for place in range(len(names)) if any(row[place] is not None for row in found)]
    app.many(found, [f"{names[place]}#" for place in kept], lambda row: [_cell(row[place]) for place in kept])


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return f"{value:,.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _account(app: base.App, receipt: pb.Receipt, unresolved: Sequence[pb.UnresolvedSymbol]) -> None:
    """Says to stderr what the answer is, since stdout may carry its bars."""
    for each in unresolved:
        app.err.print(
            f"left out: {each.ticker or each.symbol_id}: {words.spoken(type_pb2.ErrorReason, each.reason)}",
            markup=False,
        )
    missing = f", {receipt.sessions_missing:,} sessions missing" if receipt.sessions_missing else ""
    empty = ""
    if receipt.empty_reason:
        empty = f" ({words.spoken(pb.Receipt.EmptyReason, receipt.empty_reason).replace('_', ' ')})"
    as_of = receipt.as_of.ToJsonString() if receipt.HasField("as_of") else "unknown"
    app.err.print(f"{receipt.bars:,} bars{empty}{missing}, as of {as_of}", markup=False)
