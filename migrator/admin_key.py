"""Sees to it that there is an admin key, and that its secret goes to one safe place and never into a log."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator import key_file
from migrator.errors import BadFiles
from migrator.keyring import ADMIN_SCOPES, Registered, new_admin, permanent_admin, register
from services.kit import keys

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from migrator.changes import Changes

VARIABLE = "MDW_ADMIN_KEY"
NOWHERE_HINT = (
    f"pass --key-file FILE, or set {VARIABLE} to a key made by `python -m migrator new-key`, or run this on a terminal"
)


READ_IT = "read -rs MDW_KEY && export MDW_KEY"  # asks for the key and does not show it


@dataclass(frozen=True, slots=True)
class AdminKey:
    """The admin key, what happened to it, where its secret is, and how a shell takes it up from there."""

    key: Registered
    what_happened: str
    where: str
    export: str = READ_IT
    text: str = "$MDW_KEY"
    shown: str = ""


async def ensure_admin_key(
    changes: Changes, options: argparse.Namespace, environ: Mapping[str, str], *, terminal: bool
) -> AdminKey:
    """Registers the given key, finds the present one, or makes one for a file or for the terminal."""
    given = environ.get(VARIABLE, "").strip()  # a Secret made from a file ends with a line feed
    if given:
        return await _given(changes, given)
    present = None if options.new_admin_key else await permanent_admin(changes)
    if present is not None:
        return _present(present, options.key_file)
    if options.key_file is not None:
        return await _in_file(changes, options.key_file, another=options.new_admin_key)
    if terminal:
        return await _shown(changes, another=options.new_admin_key)
    raise BadFiles.of("", "a new admin key has no place to go: standard output is not a terminal", NOWHERE_HINT)


async def _given(changes: Changes, secret: str) -> AdminKey:
    key = await register(changes, secret, "admin", ADMIN_SCOPES, VARIABLE)
    if key.missing_scopes:
        raise BadFiles.of(VARIABLE, f"key {key.preview}.. is there without the scope admin", "use another key")
    what = f"registered from {VARIABLE}" if key.made else "is there"
    return AdminKey(key, what, f"the secret is in {VARIABLE}", f'export MDW_KEY="${VARIABLE}"')


def _present(key: Registered, path: Path | None) -> AdminKey:
    """Describes a key made by an earlier run; a file that holds its secret is pointed to."""
    if path is not None and key_file.exists(path) and keys.preview(key_file.read(path)) == key.preview:
        return _with_file(key, "is there", f"the secret is in {path}", path)
    where = "the secret was given out when the key was made; if it is lost, run bootstrap --new-admin-key"
    return AdminKey(key, "is there", where)


async def _in_file(changes: Changes, path: Path, *, another: bool) -> AdminKey:
    """Writes the secret before its key is committed: a file that a killed run left is taken up."""
    if key_file.exists(path):
        return await _from_file(changes, path, another=another)
    secret = keys.new_secret()

    def provide() -> str:
        if not key_file.exists(path):  # a try before this one, given up for a lock, has written it
            key_file.write_new(path, secret)
        return secret

    key = await new_admin(changes, provide, even_if_one=another)
    if not key.made:
        return _present(key, path)
    return _with_file(key, "made", f"the secret is in {path} (mode 0600)", path)


async def _from_file(changes: Changes, path: Path, *, another: bool) -> AdminKey:
    secret = key_file.read(path)
    key = await register(changes, secret, "admin", ADMIN_SCOPES, str(path))
    if key.missing_scopes or (another and not key.made):
        raise BadFiles.of(str(path), f"holds key {key.preview}.., which is there already", "name another file")
    return _with_file(key, "registered from the file", f"the secret is in {path}", path)


async def _shown(changes: Changes, *, another: bool) -> AdminKey:
    secret = keys.new_secret()
    key = await new_admin(changes, lambda: secret, even_if_one=another)
    if not key.made:
        return _present(key, None)
    return AdminKey(key, "made", "the secret was shown above, this once", shown=secret)


def _with_file(key: Registered, what_happened: str, where: str, path: Path) -> AdminKey:
    quoted = shlex.quote(str(path.absolute()))
    return AdminKey(key, what_happened, where, f"export MDW_KEY_FILE={quoted}", f"$(cat {quoted})")
