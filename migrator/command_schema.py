"""`schema`: the live catalog as SQL, the way `migrator/schema.sql` is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator import connect, history
from migrator.catalog import read_catalog
from migrator.errors import Exit
from migrator.files import load
from migrator.plan import make_plan
from migrator.schema_file import render
from migrator.verify import require_newest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import asyncpg

    from migrator.files import Migration
    from migrator.output import Output


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command."""
    files = load(options.folder)
    conn = await connect.connect(dsn, options.wait, output.note)
    try:
        text = await schema_text(conn, files)
    finally:
        await connect.close(conn)
    output.result({"schema": text}, text.rstrip())
    return Exit.OK


async def schema_text(conn: asyncpg.Connection, files: Sequence[Migration]) -> str:
    """Returns the schema file's text for a database at the files' version."""
    require_newest(make_plan(files, await history.read_if_any(conn)))
    return render(await read_catalog(conn), files, conn.get_server_version().major)
