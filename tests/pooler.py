"""pgbouncer in transaction mode before the tests' Postgres: TESTS_POOLER=1 sends every service of a run through it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from deploy.local.children import Child
from services.kit import db
from tests.proxy import through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

WANTED = os.environ.get("TESTS_POOLER") == "1"

INI = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
pool_mode = transaction
auth_type = trust
auth_file = users.txt
ignore_startup_parameters = extra_float_digits
default_pool_size = 40
max_client_conn = 1000
logfile = {log}
"""


@contextmanager
def pooling(admin_url: str, passwords: Mapping[str, str]) -> Iterator[int]:
    """Runs pgbouncer, and yields its port; what is opened meanwhile at that port prepares no statements."""
    folder = Path(tempfile.mkdtemp(prefix="pooler"))
    parts, own = urlsplit(admin_url), _free_port()
    text = INI.format(host=parts.hostname, port=parts.port, own=own, log=folder / "log")
    (folder / "pgbouncer.ini").write_text(text)
    (folder / "users.txt").write_text("".join(f'"{name}" "{secret}"\n' for name, secret in passwords.items()))
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # it refuses to be root
    if owner:
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    child = Child(
        "pgbouncer",
        ["pgbouncer", "pgbouncer.ini"],
        log=folder.with_suffix(".log"),
        folder=folder,
        user=(owner.pw_uid, owner.pw_gid) if owner else None,
    )
    try:
        _until_it_listens(child, own)
        with _without_prepared_statements(own):
            yield own
    finally:
        child.stop()
        shutil.rmtree(folder)
        folder.with_suffix(".log").unlink()


@contextmanager
def _without_prepared_statements(port: int) -> Iterator[None]:
    """Tests that open a pool or a connection by a role's URL need not know that a pooler is behind it."""
    connect, options = asyncpg.connect, db.connect_options

    async def connect_plainly(dsn: str, **more: object) -> asyncpg.Connection:
        if f":{port}/" in dsn:
            more["statement_cache_size"] = 0
        return await connect(dsn, **more)

    asyncpg.connect = connect_plainly
    db.connect_options = lambda name, *, pooler: options(name, pooler=True)  # noqa: ARG005 - all of a run are behind it
    try:
        yield
    finally:
        asyncpg.connect, db.connect_options = connect, options


@contextmanager
def front(admin_url: str, passwords: Mapping[str, str]) -> Iterator[Callable[[str], str]]:
    """Yields what makes a role's URL lead through the pooler, where that is wanted."""
    if not WANTED:
        yield lambda url: url
        return
    with pooling(admin_url, passwords) as port:
        yield lambda url: through(url, port)


def _until_it_listens(child: Child, port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert child.running, child.last_lines()
            assert time.monotonic() < end, child.last_lines()
            time.sleep(0.05)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
