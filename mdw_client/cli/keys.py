"""`mdw keys`: API keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mdw.auth.v1 import auth_pb2 as pb
from mdw_client.cli import base

if TYPE_CHECKING:
    from collections.abc import Iterator

key_file_option = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="A file for the key's text, readable by you alone."
)


@click.group(cls=base.Group)
def keys() -> None:
    """API keys: list, create, revoke, rotate."""


@keys.command("list")
@click.option("--active", is_flag=True, help="Leave out revoked and expired ones.")
@base.limit_option
@click.pass_obj
def list_keys(app: base.App, *, active: bool, limit: int) -> None:
    """Lists keys, newest first."""
    found = app.client.keys.list(active_only=active, page_size=min(limit, 1000))
    columns = ("key", "name", "preview", "state", "scopes", "calls#", "last use", "expires")
    app.many(base.first(found, limit), columns, _row)


def _row(key: pb.Key) -> tuple[str, ...]:
    return (
        key.key_id,
        key.display_name,
        key.preview,
        base.state(pb.Key.State, key.state),
        " ".join(key.scopes),
        f"{key.request_count:,}",
        base.time(key.last_use_time),
        base.time(key.expire_time),
    )


def _lines(key: pb.Key) -> Iterator[tuple[str, str]]:
    names = ("key", "name", "preview", "state", "scopes", "calls", "last use", "expires")
    yield from zip(names, _row(key), strict=True)
    yield "peers", " ".join(key.allowed_peers)
    yield "made", base.time(key.create_time)
    yield "revoked", base.time(key.revoke_time)


@keys.command()
@click.argument("key_id")
@click.pass_obj
def show(app: base.App, key_id: str) -> None:
    """Shows one key, without its text."""
    found = app.client.keys.get(key_id)
    app.one(found, lambda: _lines(found))


@keys.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, help="What it may do, for example bars.read; repeatable."
)
@click.option("--expire", metavar="TIME", help="When it ends; default never.")
@click.option("--peer", "peers", multiple=True, metavar="CIDR", help="A network that may use it; repeatable.")
@key_file_option
@click.pass_obj
def create(
    app: base.App, *, name: str, scopes: tuple[str, ...], expire: str | None, peers: tuple[str, ...], out: Path | None
) -> None:
    """Creates a key. Its text is printed once, alone on stdout, or goes to a file."""
    _refuse_existing(out)
    found = app.client.keys.create(name, scopes, expire=expire, allowed_peers=peers)
    _hand_out(app, found, found.key, found.secret, out)


@keys.command()
@click.argument("key_id")
@click.option(
    "--overlap",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long the old one stays valid; default a day.",
)
@click.option("--expire", metavar="TIME", help="When the new one ends; default never.")
@key_file_option
@click.pass_obj
def rotate(app: base.App, *, key_id: str, overlap: float | None, expire: str | None, out: Path | None) -> None:
    """Creates a successor of a key, with the same scopes and limits."""
    _refuse_existing(out)
    found = app.client.keys.rotate(key_id, overlap=overlap, expire=expire)
    _hand_out(app, found, found.key, found.secret, out)
    if not app.as_json:
        app.err.print(f"the old key ends at {base.time(found.old_key.expire_time)}", markup=False)


def _hand_out(
    app: base.App, answer: pb.CreateKeyResponse | pb.RotateKeyResponse, key: pb.Key, secret: str, out: Path | None
) -> None:
    if out is not None:
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secret}\n")
        answer.secret = ""
    if app.as_json:
        base.print_json(answer)
        return
    where = f"its text is in {out}" if out else "its text is shown once"
    app.err.print(f"key {key.key_id} ({key.preview}…, {' '.join(key.scopes)}); {where}", markup=False)
    if out is None:
        click.echo(secret)


def _refuse_existing(out: Path | None) -> None:
    """Ends before a key is made whose text would have no place."""
    if out is not None and out.exists():
        raise click.UsageError(f"--out: {out} exists")
    if out is not None and not out.absolute().parent.is_dir():
        raise click.UsageError(f"--out: {out.absolute().parent} is no folder")


@keys.command()
@click.argument("key_id")
@click.pass_obj
def revoke(app: base.App, key_id: str) -> None:
    """Revokes a key: no call that starts after this succeeds with it."""
    found = app.client.keys.revoke(key_id)
    app.one(found, lambda: _lines(found))


@keys.command()
@click.argument("key_id")
@click.pass_obj
def restore(app: base.App, key_id: str) -> None:
    """Makes a revoked key valid again."""
    found = app.client.keys.restore(key_id)
    app.one(found, lambda: _lines(found))


@keys.command()
@click.argument("key_id")
@click.confirmation_option(prompt="A deleted key never comes back. Delete it?")
@click.pass_obj
def delete(app: base.App, key_id: str) -> None:
    """Deletes a key for good."""
    app.client.keys.delete(key_id)
    app.print(f"{key_id} is deleted")
