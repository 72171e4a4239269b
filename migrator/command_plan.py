"""`plan`: what would run, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator import connect, history
from migrator.apply import runs_alone
from migrator.check import check
from migrator.errors import Exit
from migrator.files import load
from migrator.plan import make_plan
from migrator.scan import scan

if TYPE_CHECKING:
    import argparse

    from migrator.files import Migration
    from migrator.output import Output

FIRST_LINES = 3


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command."""
    files = load(options.folder)
    conn = await connect.connect(
        dsn, options.wait, output.note, before_waiting=lambda: check(files), settings=connect.READER
    )
    try:
        plan = make_plan(files, await history.read_if_any(conn))
    finally:
        await connect.close(conn)
    check(plan.pending)
    fields = {"version": plan.version, "pending": [_fields(migration) for migration in plan.pending]}
    blocks = [_text(number, migration) for number, migration in enumerate(plan.pending, 1)]
    output.result(fields, "\n".join([*blocks, f"{len(plan.pending)} to run; the schema is at version {plan.version}"]))
    return Exit.OK


def first_lines(sql: str) -> list[str]:
    """Returns the first lines of SQL, without what stands before the first statement."""
    found = scan(sql).statements
    lines = sql[found[0].start :].splitlines() if found else []
    return [line for line in lines if line.strip()][:FIRST_LINES]


def _fields(migration: Migration) -> dict[str, object]:
    return {
        "version": migration.version,
        "name": migration.name,
        "checksum": migration.checksum,
        "transaction": not runs_alone(migration),
        "statements": len(scan(migration.sql).statements),
        "first_lines": first_lines(migration.sql),
    }


def _text(number: int, migration: Migration) -> str:
    alone = ", outside a transaction" if runs_alone(migration) else ""
    count = len(scan(migration.sql).statements)
    head = f"{number}. {migration.file} ({count} statement{'s' if count != 1 else ''}{alone})"
    return "\n".join([head, *(f"     {line}" for line in first_lines(migration.sql))])
