"""`mdw schedule`: what keeps active symbols fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mdw_client.cli import backfill, base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mdw.ingest.v1 import ingest_pb2 as pb


@click.group(cls=base.Group)
def schedule() -> None:
    """The schedule: show, run, pause, resume."""


@schedule.command()
@click.pass_obj
def show(app: base.App) -> None:
    """Says what the schedule did last, does next, and whether the requests suffice."""
    _tell(app, app.client.schedule.get())


@schedule.command()
@click.option("--watch", "follow", is_flag=True, help="Follow it to its end.")
@click.pass_obj
def run(app: base.App, *, follow: bool) -> int:
    """Starts a run now, paused or not."""
    found = app.client.schedule.run()
    if follow:
        return backfill.follow(app, found.backfill_id)
    app.one(found, lambda: backfill.lines(found))
    return 0


@schedule.command()
@click.option("--note", default="", help="Why, for people.")
@click.pass_obj
def pause(app: base.App, note: str) -> None:
    """Lets the schedule plan nothing more; what it has planned goes on."""
    _tell(app, app.client.schedule.pause(note))


@schedule.command()
@click.option("--note", default="", help="Why, for people.")
@click.pass_obj
def resume(app: base.App, note: str) -> None:
    """Lets the schedule go on, with what it missed meanwhile."""
    _tell(app, app.client.schedule.resume(note))


def _tell(app: base.App, found: pb.Schedule) -> None:
    app.one(found, lambda: _lines(found))
    if found.calendars and not app.as_json:
        app.many(found.calendars, ("classes", "series#", "next session", "at", "last session", "at", "result"), _row)


def _lines(found: pb.Schedule) -> Iterator[tuple[str, str]]:
    by = f" by {found.changed_by_preview} at {base.time(found.change_time)}" if found.changed_by_preview else ""
    yield "state", f"{'paused' if found.paused else 'goes on'}{by}"
    yield "note", found.note
    yield "next close", base.time(found.next_close_time)
    yield "requests", _requests(found, "requests_needed", "requests_available")
    yield "a day", _requests(found, "requests_needed_a_day", "requests_available_a_day")


def _requests(found: pb.Schedule, needed: str, available: str) -> str:
    have = f"{getattr(found, available):,}" if found.HasField(available) else "no limit"  # type: ignore[arg-type]
    return f"{getattr(found, needed):,} needed, {have} to be had"


def _row(each: pb.CalendarSchedule) -> tuple[str, ...]:
    last = each.last_run
    return (
        " ".join(base.asset_class(value) for value in each.asset_classes),
        f"{each.series:,}",
        each.next_session_date,
        base.time(each.next_run_time),
        last.session_date,
        base.time(last.run_time),
        last.result,
    )
