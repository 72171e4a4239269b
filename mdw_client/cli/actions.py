"""`mdw actions`: splits and dividends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mdw.ingest.v1 import ingest_pb2 as pb
from mdw_client.cli import backfill, base

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.group(cls=base.Group)
def actions() -> None:
    """Splits and dividends: list, sync; and sync-symbols for the provider's lists of symbols."""


@actions.command("list")
@click.argument("ticker", required=False)
@click.option("--kind", type=click.Choice(["split", "dividend"]))
@base.start_option
@base.end_option
@base.class_option
@base.limit_option
@click.pass_obj
def list_(app: base.App, /, ticker: str | None, limit: int, **asked: Any) -> None:
    """Lists what is known now, the latest ex-date first."""
    name = int(ticker) if ticker and ticker.isdigit() else ticker
    found = app.client.actions.list(name, **asked, page_size=min(limit, 1_000))
    app.many(base.first(found, limit), ("ticker", "kind", "ex date", "terms", "remarks"), _row)


@actions.command()
@click.argument("tickers", nargs=-1)
@base.start_option
@base.class_option
@click.option("--watch", "follow", is_flag=True, help="Follow it to its end.")
@click.pass_obj
def sync(app: base.App, *, tickers: tuple[str, ...], start: str | None, asset_class: str | None, follow: bool) -> int:
    """Fetches splits and dividends; without tickers those of every registered stock and ETF."""
    return _told(app, app.client.actions.sync(list(tickers) or None, start, asset_class=asset_class), follow=follow)


@actions.command("sync-symbols")
@base.class_option
@click.option("--watch", "follow", is_flag=True, help="Follow it to its end.")
@click.pass_obj
def sync_symbols(app: base.App, *, asset_class: str | None, follow: bool) -> int:
    """Brings the registry up to the provider's lists; new symbols are registered inactive."""
    return _told(app, app.client.actions.sync_symbols(asset_class), follow=follow)


def _told(app: base.App, found: pb.Backfill, *, follow: bool) -> int:
    if follow:
        return backfill.follow(app, found.backfill_id)
    app.one(found, lambda: backfill.lines(found))
    return 0


def _row(each: pb.CorporateAction) -> tuple[str, ...]:
    split = each.kind == pb.CorporateAction.SPLIT
    terms = f"{each.split_to:g} for {each.split_from:g}" if split else f"{each.cash_amount:g} {each.currency}"
    kind = base.state(pb.CorporateAction.Kind, each.kind)
    return each.ticker, kind, each.ex_date, terms, ", ".join(_remarks(each))


def _remarks(each: pb.CorporateAction) -> Iterator[str]:
    if each.repeats_another:
        yield "repeats another"
    if each.absurd_ratio:
        yield "absurd ratio"
