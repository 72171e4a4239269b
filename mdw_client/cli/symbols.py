"""`mdw symbols`: the registry."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdw.symbols.v1 import symbols_pb2 as pb
from mdw_client import words
from mdw_client.cli import base
from mdw_client.cli.failures import REFUSED
from mdw_client.errors import ConfigurationError
from mdw_client.symbols import new_symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS_A_CALL = 5_000
FIELDS = tuple(pb.NewSymbol.DESCRIPTOR.fields_by_name)


@click.group(cls=base.Group)
def symbols() -> None:
    """Symbols: list, show, import, make active or inactive."""


@symbols.command("list")
@base.class_option
@click.option("--active", is_flag=True, help="Only active ones.")
@click.option("--search", default="", help="Text that a ticker begins with or that the name contains.")
@click.option("--state", type=click.Choice(["none", "pending", "running", "succeeded", "failed"]), help="Of a series.")
@click.option("--listed-on", metavar="DATE", help="The universe at a date, delisted ones included.")
@base.limit_option
@click.pass_obj
def list_symbols(
    app: base.App, *, asset_class: str, active: bool, search: str, state: str, listed_on: str, limit: int
) -> None:
    """Lists symbols by class and ticker."""
    found = app.client.symbols.list(
        asset_class,
        active_only=active,
        search=search,
        backfill_state=state,
        listed_on=listed_on,
        page_size=min(limit, 1000),
    )
    app.many(base.first(found, limit), ("ticker", "class", "name", "active", "series", "symbol_id#"), _row)


def _row(symbol: pb.Symbol) -> tuple[str, ...]:
    series = ", ".join(f"{base.timeframe(each.timeframe)} {_state(each.state)}" for each in symbol.series)
    kind = base.asset_class(symbol.asset_class)
    return symbol.ticker, kind, symbol.name, "yes" if symbol.active else "no", series, str(symbol.symbol_id)


def _state(value: int) -> str:
    return base.state(pb.BackfillState, value, "BACKFILL_STATE_").lower()


@symbols.command()
@click.argument("ticker")
@base.class_option
@click.option("--date", metavar="DATE", help="Whose ticker it was on that date.")
@click.pass_obj
def show(app: base.App, ticker: str, asset_class: str, date: str) -> None:
    """Shows a symbol, the tickers it held, and what is stored of it."""
    found = app.client.symbols.get(ticker, asset_class, date=date)
    app.one(found.symbol, lambda: _lines(found))
    statistics = app.client.symbols.statistics(found.symbol.symbol_id)
    if app.as_json:
        base.print_json(statistics)
    else:
        app.many(_flat([statistics]), _STATISTICS, _figures)


def _lines(found: pb.GetSymbolResponse) -> Iterator[tuple[str, str]]:
    symbol, under = found.symbol, found.found_under
    yield "ticker", symbol.ticker
    yield "found under", f"{under.ticker} (from {under.from_date} to {under.to_date})" if under.ticker else ""
    yield "class", base.asset_class(symbol.asset_class)
    yield "name", symbol.name
    yield "exchange", symbol.exchange
    yield "active", "yes" if symbol.active else "no"
    yield "symbol_id", str(symbol.symbol_id)
    for span in symbol.tickers:
        yield "held", f"{span.ticker} ({span.provider_ticker}) from {span.from_date} to {span.to_date or 'now'}"


_STATISTICS = ("ticker", "timeframe", "bars#", "first", "last", "missing#", "validated#", "rejected#", "behind#")


@symbols.command()
@base.class_option
@click.option("--active", is_flag=True, help="Only active ones.")
@base.limit_option
@click.pass_obj
def stats(app: base.App, *, asset_class: str, active: bool, limit: int) -> None:
    """Lists what is stored of each symbol."""
    found = base.first(
        app.client.symbols.list_statistics(asset_class, active_only=active, page_size=min(limit, 1000)), limit
    )
    if app.as_json:
        for each in found:
            base.print_json(each)
    else:
        app.many(_flat(found), _STATISTICS, _figures)


class _Series:
    """A row of the table of statistics."""

    def __init__(self, ticker: str, series: pb.SeriesStatistics) -> None:
        self.ticker = ticker
        self.series = series


def _flat(statistics: Any) -> Any:
    return (_Series(symbol.ticker, series) for symbol in statistics for series in symbol.series)


def _figures(row: _Series) -> tuple[str, ...]:
    series = row.series
    return (
        row.ticker,
        base.timeframe(series.timeframe),
        f"{series.bars:,}",
        base.date(series.first_time),
        base.date(series.last_time),
        f"{series.sessions_missing:,}",
        f"{series.validated_share:.1%}" if series.HasField("validated_share") else "",
        f"{series.rejected:,}",
        f"{series.sessions_behind:,}" if series.HasField("sessions_behind") else "",
    )


@symbols.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Say what would happen, and change nothing.")
@click.pass_obj
def import_file(app: base.App, *, file: Path, check: bool) -> int:
    """Registers the symbols of a CSV file.

    Its first line names the columns: ticker and asset_class, and if wanted name, exchange, type, figi, list_date,
    delist_date, timeframes (1d or "1d 1m"), inactive, from_date, to_date.
    """
    created = existed = refused = 0
    first_row = 2
    for rows in _batches(read(file)):
        answer = app.client.symbols.import_(rows, validate_only=check)
        created, existed, refused = created + answer.created, existed + answer.existed, refused + answer.refused
        for result in answer.results:
            if app.as_json:
                base.print_json(result)
            elif result.outcome == pb.ImportResult.REFUSED:
                app.print(f"{file}:{first_row + result.row}: {result.ticker}: {result.error}")
        first_row += len(rows)
    would = "would be " if check else ""
    app.print(f"{created} {would}registered, {existed} were there, {refused} {would}refused")
    return REFUSED if refused else 0


def read(file: Path) -> Iterator[pb.NewSymbol]:
    """Yields the symbols of a CSV file; raises ConfigurationError with the line that cannot be read."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        unknown = sorted(set(rows.fieldnames or ()) - set(FIELDS))
        if unknown or "ticker" not in (rows.fieldnames or ()):
            wrong = f"unknown column {', '.join(unknown)}" if unknown else "no column ticker"
            raise ConfigurationError(f"{file}:1: {wrong}; the columns are {', '.join(FIELDS)}")
        for row in rows:
            try:
                yield _symbol(row)
            except ConfigurationError as error:
                raise ConfigurationError(f"{file}:{rows.line_num}: {error}") from error


def _symbol(cells: dict[str, Any]) -> pb.NewSymbol:
    """Makes a symbol of a line's cells; empty ones count as absent."""
    if None in cells:
        raise ConfigurationError("more cells than columns")
    row: dict[str, Any] = {name: value.strip() for name, value in cells.items() if value and value.strip()}
    if "timeframes" in row:
        row["timeframes"] = row["timeframes"].split()
    if "inactive" in row:
        row["inactive"] = row["inactive"].lower() in ("1", "true", "yes")
    for name in ("ticker", "asset_class"):
        if name not in row:
            raise ConfigurationError(f"{name} is empty")
    return new_symbol(**row)


def _batches(found: Iterator[pb.NewSymbol]) -> Iterator[list[pb.NewSymbol]]:
    while batch := list(itertools.islice(found, ROWS_A_CALL)):
        yield batch


def _choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("tickers", nargs=-1),
        base.class_option,
        click.option("--exchange", default="", help="MIC of the primary exchange: all that trade there."),
        click.option("--type", "kind", default="", help="Polygon's type code, for example CS."),
        click.option("--search", default="", help="Text that a ticker begins with or that the name contains."),
        click.option("--all", "every", is_flag=True, help="All symbols."),
        click.option("--check", is_flag=True, help="Say how many would change, and change nothing."),
    )[::-1]:
        command = option(command)
    return command


@symbols.command()
@_choice_options
@click.pass_obj
def activate(app: base.App, /, **choice: Any) -> None:
    """Makes symbols active, by tickers or by filter: schedules and --all-active take them."""
    _report(app, app.client.symbols.activate(**_chosen(**choice)), check=choice["check"], word="active")


@symbols.command()
@_choice_options
@click.pass_obj
def deactivate(app: base.App, /, **choice: Any) -> None:
    """Makes symbols inactive: they keep their history."""
    _report(app, app.client.symbols.deactivate(**_chosen(**choice)), check=choice["check"], word="inactive")


def _chosen(
    *,
    tickers: tuple[str, ...],
    asset_class: str | None,
    exchange: str,
    kind: str,
    search: str,
    every: bool,
    check: bool,
) -> dict[str, Any]:
    if tickers and not (exchange or kind or search or every):
        return {"tickers": tickers, "asset_class": asset_class, "validate_only": check}
    if tickers or not (asset_class or exchange or kind or search or every):
        raise click.UsageError("name tickers, or a filter (--class, --exchange, --type, --search), or --all")
    matching = pb.SymbolFilter(asset_class=words.asset_class(asset_class), exchange=exchange, type=kind, search=search)
    return {"matching": matching, "validate_only": check}


def _report(app: base.App, answer: Any, *, check: bool, word: str) -> None:
    would = "would become" if check else "became"
    text = f"{answer.matched} chosen, {answer.changed} {would} {word}"
    app.one(answer, lambda: [(text, " ")])
