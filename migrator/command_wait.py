"""`wait`: until the database answers, and until its schema is new enough."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from migrator import connect, history
from migrator.errors import Exit, TryAgain
from migrator.files import load

if TYPE_CHECKING:
    import argparse

    import asyncpg

    from migrator.output import Output

POLL = 0.25


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command; any role may, also through a pooler."""
    deadline = time.monotonic() + options.wait
    needed = _needed(options)
    version = 0
    while True:
        left = max(0.0, deadline - time.monotonic())
        conn = await connect.connect(dsn, left, output.note, settings=connect.READER)
        try:
            version = await _follow(conn, needed, deadline)
            break
        except connect.LOST:
            if time.monotonic() >= deadline:
                raise TryAgain.of("", "the connection was lost while waiting for the schema") from None
        finally:
            await connect.close(conn)
    fields = {"version": version, "needed": needed}
    output.result(fields, f"the schema is at version {version}" if needed else "the database answers")
    return Exit.OK


def _needed(options: argparse.Namespace) -> int:
    """Returns the version to wait for; 0 for none."""
    if options.schema is None:
        return 0
    return int(options.schema) or load(options.folder)[-1].version


async def _follow(conn: asyncpg.Connection, needed: int, deadline: float) -> int:
    while True:
        version = await history.newest(conn)
        if version >= needed:
            return version
        if time.monotonic() >= deadline:
            message = f"the schema is at version {version}, and version {needed} is needed"
            raise TryAgain.of("", message, "run: python -m migrator up")
        await asyncio.sleep(POLL)
