"""`mdw audit` and `mdw rejects`: who called what, and which bars were refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mdw.auth.v1 import auth_pb2
from mdw_client.cli import base
from mdw_client.cli.failures import REFUSED

if TYPE_CHECKING:
    from mdw.ingest.v1 import ingest_pb2


@click.group(cls=base.Group)
def audit() -> None:
    """The audit log: every call, refused ones too."""


@audit.command("list")
@click.option("--key", "key_id", default="", metavar="KEY_ID", help="Only calls of this key.")
@click.option("--service", default="", help="Only calls of auth, symbols or ingest.")
@click.option("--method", default="", help="Only calls of this RPC, for example ListBars.")
@click.option(
    "--code", "codes", multiple=True, metavar="STATUS", help="Only calls that ended so, for example UNAUTHENTICATED."
)
@base.start_option
@base.end_option
@base.limit_option
@click.pass_obj
def list_entries(
    app: base.App,
    *,
    key_id: str,
    service: str,
    method: str,
    codes: tuple[str, ...],
    start: str | None,
    end: str | None,
    limit: int,
) -> None:
    """Lists audited calls, newest first."""
    found = app.client.audit.list(
        key_id=key_id, service=service, method=method, codes=codes, start=start, end=end, page_size=min(limit, 1000)
    )
    columns = ("time", "service", "method", "code", "reason", "key", "peer", "calls#", "ms#")
    app.many(base.first(found, limit), columns, _entry)


def _entry(entry: auth_pb2.AuditEntry) -> tuple[str, ...]:
    return (
        base.time(entry.time),
        entry.service,
        entry.method,
        entry.code,
        entry.reason,
        entry.key_preview,
        entry.peer,
        f"{entry.call_count:,}",
        f"{entry.duration.ToTimedelta().total_seconds() * 1000:,.1f}",
    )


@audit.command()
@base.start_option
@base.end_option
@click.pass_obj
def verify(app: base.App, start: str | None, end: str | None) -> int:
    """Recomputes the log's hash chains; the status is 1 if something was edited or removed."""
    found = app.client.audit.verify(start=start, end=end)
    if app.as_json:
        base.print_json(found)
    else:
        for each in found.findings:
            kind = base.state(auth_pb2.AuditFinding.Kind, each.kind)
            app.print(f"{kind} {each.writer} {each.chain} {each.seq} {base.time(each.time)} {each.detail}")
        app.print(f"{found.rows:,} rows in {found.batches:,} batches, {len(found.findings):,} findings")
    return REFUSED if found.findings else 0


@click.command(cls=base.Command)
@click.argument("ticker", required=False, default="")
@base.class_option
@click.option("--timeframe", type=click.Choice(["1m", "1d"]), help="Only of this one.")
@click.option("--reason", default="", help="Only bars that break this rule, for example HIGH_LOW.")
@base.limit_option
@click.pass_obj
def rejects(
    app: base.App, *, ticker: str, asset_class: str | None, timeframe: str | None, reason: str, limit: int
) -> None:
    """Lists bars that were refused as impossible, with the text in which they came."""
    found = app.client.rejects.list(ticker, asset_class, timeframe=timeframe, reason=reason, page_size=min(limit, 1000))
    app.many(base.first(found, limit), ("last seen", "ticker", "timeframe", "start", "rule", "raw"), _reject)


def _reject(bar: ingest_pb2.RejectedBar) -> tuple[str, ...]:
    return (
        base.time(bar.last_seen_time),
        bar.provider_ticker,
        base.timeframe(bar.timeframe),
        base.time(bar.start_time),
        bar.reason,
        bar.raw,
    )
