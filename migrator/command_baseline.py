"""`baseline`: records files as applied, for a database whose objects are there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator import connect, history, lock
from migrator.errors import BadFiles, Drift, Exit
from migrator.files import load
from migrator.schema_file import read
from migrator.verify import differences, read_live

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import asyncpg

    from migrator.files import Migration
    from migrator.output import Output

LOCK_WAIT = 60.0


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command."""
    files = load(options.folder)
    target = files[-1].version if options.to is None else options.to
    if not any(migration.version == target for migration in files):
        raise BadFiles.of("", f"there is no file of version {target}", f"the newest is {files[-1].version}")
    conn = await connect.connect(dsn, options.wait, output.note)
    try:
        connect.require_writable(await connect.look(conn), first_run=True)
        await lock.acquire(conn, LOCK_WAIT, output.say)
        if target == files[-1].version and not options.force:
            await _require_same(conn, options, files)
        recorded = await _record(conn, [migration for migration in files if migration.version <= target])
    finally:
        await connect.close(conn)
    names = ", ".join(recorded) or "nothing, all was recorded before"
    output.result({"version": target, "recorded": recorded}, f"recorded as applied without running: {names}")
    return Exit.OK


async def _require_same(conn: asyncpg.Connection, options: argparse.Namespace, files: Sequence[Migration]) -> None:
    """Raises Drift unless the catalog is what the files would have made: else the history would tell a lie."""
    expected = read(options.folder.parent / "schema.sql", files)
    same_server = conn.get_server_version().major == expected.server_major
    problems = list(differences(expected.objects, await read_live(conn, expected), same_server=same_server))
    if problems:
        raise Drift(problems)


async def _record(conn: asyncpg.Connection, files: Sequence[Migration]) -> list[str]:
    async with conn.transaction():
        if not await conn.fetchval(history.EXISTS):
            await conn.execute(history.CREATE)
        done = {row.version for row in await history.read(conn) if row.state != history.STARTED}
        todo = [migration for migration in files if migration.version not in done]
        for migration in todo:
            await history.record(conn, migration, history.BASELINE, 0)
    return [migration.name for migration in todo]
