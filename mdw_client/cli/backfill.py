"""`mdw backfill`: the work that brings bars in."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mdw.ingest.v1 import ingest_pb2 as pb
from mdw_client.backfills import ENDED
from mdw_client.cli import base
from mdw_client.cli.failures import REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.duration_pb2 import Duration

OPEN = (pb.Backfill.PENDING, pb.Backfill.RUNNING, pb.Backfill.PAUSED)
STATES = click.Choice([name.lower() for name in pb.Backfill.State.keys()[1:]])
SLICE_STATES = click.Choice([name.lower() for name in pb.Slice.State.keys()[1:]])
TIMEFRAMES = click.Choice(["1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w"])


@click.group(cls=base.Group)
def backfill() -> None:
    """Backfills: plan, start, watch, steer."""


def _asking(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("tickers", nargs=-1),
        click.option("--timeframe", "timeframes", type=TIMEFRAMES, multiple=True, default=["1d"], show_default=True),
        base.start_option,
        base.end_option,
        base.class_option,
        click.option("--all-active", is_flag=True, help="Every active symbol."),
        click.option("--refetch", is_flag=True, help="Fetch again what is held."),
        click.option("--priority", type=click.Choice(["low", "normal", "high"]), help="Whose turn it is first."),
    )[::-1]:
        command = option(command)
    return command


def _asked(*, tickers: tuple[str, ...], refetch: bool, **others: Any) -> dict[str, Any]:
    if not tickers and not others["all_active"] and not others["asset_class"]:
        raise click.UsageError("name tickers, or --class, or --all-active")
    return {"tickers": tickers or None, "mode": "refetch" if refetch else None, **others}


@backfill.command()
@_asking
@click.pass_obj
def plan(app: base.App, /, **asked: Any) -> None:
    """Says what a backfill would take, and what is skipped and why; changes nothing."""
    found = app.client.backfills.plan(**_asked(**asked))
    app.one(found, lambda: _plan_lines(found))
    if found.skipped and not app.as_json:
        app.many(found.skipped, ("skipped", "timeframe", "because"), _skipped)


def _plan_lines(found: pb.BackfillPlan) -> Iterator[tuple[str, str]]:
    yield "slices", f"{found.slices:,}" + (f", and {found.shared_slices:,} shared" if found.shared_slices else "")
    yield "requests", f"{found.requests:,}"
    yield "bars", f"about {found.estimated_bars:,}"
    yield "space", f"about {base.size(found.estimated_bytes)}"
    yield "time", f"about {_span(found.estimated_time)}" if found.HasField("estimated_time") else ""
    yield "held", f"{found.sessions_held:,} sessions" if found.sessions_held else ""


def _skipped(each: pb.SkippedSeries) -> tuple[str, str, str]:
    return each.ticker or str(each.symbol_id), base.timeframe(each.timeframe), each.reason


@backfill.command()
@_asking
@click.option("--watch", "followed", is_flag=True, help="Follow it to its end.")
@click.pass_obj
def start(app: base.App, /, *, followed: bool, **asked: Any) -> int:
    """Starts a backfill. It goes on without this command."""
    found = app.client.backfills.start(**_asked(**asked))
    if followed:
        return follow(app, found.backfill_id)
    app.one(found, lambda: lines(found))
    app.print(f"mdw backfill watch {found.backfill_id}")
    return 0


@backfill.command()
@click.argument("backfill_id", required=False)
@click.pass_obj
def watch(app: base.App, backfill_id: str | None) -> int:
    """Follows a backfill to its end, by default the newest; the status is 1 unless it succeeded."""
    return follow(app, backfill_id or _newest(app))


def _newest(app: base.App) -> str:
    newest = next(iter(app.client.backfills.list(page_size=1)), None)
    if newest is None:
        raise click.UsageError("there is no backfill: mdw backfill start")
    return newest.backfill_id


def follow(app: base.App, backfill_id: str) -> int:
    latest = pb.Backfill()
    if app.as_json or not app.out.is_terminal:
        for latest in app.client.backfills.watch(backfill_id):
            if app.as_json:
                base.print_json(latest)
            else:
                app.print(_line(latest))
    else:
        latest = _bar(app, backfill_id)
    if latest.state in ENDED and not app.as_json:
        app.one(latest, lambda: lines(latest))
    return 0 if latest.state == pb.Backfill.SUCCEEDED else REFUSED


def _bar(app: base.App, backfill_id: str) -> pb.Backfill:
    """Shows progress as a bar, and returns the backfill at its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    latest = pb.Backfill()
    with Progress(*columns, console=Console()) as progress:
        task = progress.add_task("", total=1.0, text="")
        for latest in app.client.backfills.watch(backfill_id):
            done = latest.progress.done_share
            progress.update(
                task, completed=done, description=base.state(pb.Backfill.State, latest.state), text=_text(latest)
            )
    return latest


def _line(found: pb.Backfill) -> str:
    return f"{base.state(pb.Backfill.State, found.state):9} {found.progress.done_share:6.1%} {_text(found)}"


def _text(found: pb.Backfill) -> str:
    done = found.progress
    left = f", {_span(done.estimated_time_left)} left" if done.HasField("estimated_time_left") else ""
    why = f" {found.pause_reason}" if found.pause_reason else ""
    ticker = f" {done.current_ticker}" if done.current_ticker else ""
    return f"{done.slices_done:,} of {done.slices_total:,} slices, {_bars(done):,} bars{left}{ticker}{why}"


def _bars(done: pb.Progress) -> int:
    return done.bars_inserted + done.bars_updated + done.bars_unchanged


COLUMNS = ("backfill", "kind", "state", "done#", "slices#", "failed#", "bars#", "since", "note")


def row(found: pb.Backfill) -> tuple[str, ...]:
    """Returns a backfill as a row of a list."""
    done = found.progress
    return (
        found.backfill_id,
        base.state(pb.Backfill.Kind, found.kind).lower(),
        base.state(pb.Backfill.State, found.state),
        f"{done.done_share:.0%}",
        f"{done.slices_done:,}/{done.slices_total:,}",
        f"{done.slices_failed:,}",
        f"{_bars(done):,}",
        base.time(found.create_time),
        found.pause_reason or found.error,
    )


def lines(found: pb.Backfill) -> Iterator[tuple[str, str]]:
    done = found.progress
    yield "backfill", found.backfill_id
    yield "state", base.state(pb.Backfill.State, found.state)
    yield "because", found.pause_reason or found.error
    yield "span", f"{base.date(found.start_time)} to {base.date(found.end_time)}"
    yield "slices", f"{done.slices_done:,} of {done.slices_total:,}, {done.slices_failed:,} failed"
    yield "outside plan", f"{done.slices_outside_plan:,} slices" if done.slices_outside_plan else ""
    yield "bars", f"{done.bars_inserted:,} new, {done.bars_updated:,} corrected, {done.bars_unchanged:,} as held"
    yield "rejected", f"{done.bars_rejected:,}" if done.bars_rejected else ""
    yield "requests", f"{done.requests:,}"


@backfill.command("list")
@click.option("--state", "states", type=STATES, multiple=True, help="Only these.")
@base.limit_option
@click.pass_obj
def list_backfills(app: base.App, states: tuple[str, ...], limit: int) -> None:
    """Lists backfills, newest first."""
    found = app.client.backfills.list(states=states, page_size=min(limit, 1000))
    app.many(base.first(found, limit), COLUMNS, row)


@backfill.command()
@click.argument("backfill_id")
@click.pass_obj
def show(app: base.App, backfill_id: str) -> None:
    """Shows one backfill."""
    found = app.client.backfills.get(backfill_id)
    app.one(found, lambda: lines(found))


@backfill.command()
@click.argument("backfill_id", required=False)
@click.option("--state", "states", type=SLICE_STATES, multiple=True, help="Only these.")
@base.limit_option
@click.pass_obj
def slices(app: base.App, backfill_id: str | None, states: tuple[str, ...], limit: int) -> None:
    """Lists the slices of a backfill, by default of the newest, each with its state and reason."""
    found = app.client.backfills.slices(backfill_id or _newest(app), states=states, page_size=min(limit, 1000))
    columns = ("slice#", "of", "timeframe", "first", "last", "state", "attempts#", "new#", "corrected#", "reason")
    app.many(base.first(found, limit), columns, _slice)


def _slice(found: pb.Slice) -> tuple[str, ...]:
    return (
        str(found.slice_id),
        found.provider_ticker or base.state(pb.Slice.Kind, found.kind).lower(),
        base.timeframe(found.timeframe) if found.timeframe else "",
        found.first_date,
        found.last_date,
        base.state(pb.Slice.State, found.state),
        f"{found.attempts:,}",
        f"{found.bars_inserted:,}",
        f"{found.bars_updated:,}",
        found.reason,
    )


@backfill.command()
@click.argument("backfill_id")
@click.option("--reason", default="", help="For people.")
@click.pass_obj
def pause(app: base.App, backfill_id: str, reason: str) -> None:
    """Pauses a backfill after the parts under way."""
    found = app.client.backfills.pause(backfill_id, reason)
    app.one(found, lambda: lines(found))


@backfill.command()
@click.argument("backfill_id")
@click.pass_obj
def resume(app: base.App, backfill_id: str) -> None:
    """Lets a paused backfill go on."""
    found = app.client.backfills.resume(backfill_id)
    app.one(found, lambda: lines(found))


@backfill.command()
@click.argument("backfill_id")
@click.pass_obj
def cancel(app: base.App, backfill_id: str) -> None:
    """Ends a backfill after the parts under way; what is written stays."""
    found = app.client.backfills.cancel(backfill_id)
    app.one(found, lambda: lines(found))


@backfill.command()
@click.argument("backfill_id")
@click.pass_obj
def retry(app: base.App, backfill_id: str) -> None:
    """Sets the failed slices of a backfill to work again."""
    found = app.client.backfills.retry(backfill_id)
    app.one(found, lambda: [("slices set to work again", f"{found.slices:,}"), *lines(found.backfill)])


@backfill.command()
@click.argument("backfill_id")
@click.argument("priority", type=click.Choice(["low", "normal", "high"]))
@click.pass_obj
def priority(app: base.App, backfill_id: str, priority: str) -> None:
    """Changes whose turn it is first."""
    found = app.client.backfills.set_priority(backfill_id, priority)
    app.one(found, lambda: lines(found))


def _span(value: Duration) -> str:
    return str(timedelta(seconds=value.seconds))
