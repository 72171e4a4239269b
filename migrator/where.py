"""Says where in a file an SQL error is, and shows the line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from migrator.errors import Problem
from migrator.scan import line_and_column, scan

if TYPE_CHECKING:
    import asyncpg

    from migrator.files import Migration

SHOWN = 110
SEARCH_FOR = 30.0  # seconds
HINTS = {
    "42501": "let an administrator do this, or grant it to the migrator's role; then run it again",
    "57014": "a statement_timeout that the file sets ended it",
}


async def failed_at(
    conn: asyncpg.Connection, migration: Migration, error: asyncpg.PostgresError, *, search: bool = True
) -> Problem:
    """Describes an error with file, line, column and the line's text."""
    position = getattr(error, "position", None)
    offset = int(position) - 1 if position else None
    if offset is None:
        offset = await _search(conn, migration, error) if search else scan(migration.sql).statements[0].start
    hint = getattr(error, "hint", None) or HINTS.get(error.sqlstate, "")
    text = f"{error.message} ({error.sqlstate})"
    details = [f"  {name}: {value}" for name in ("detail", "context") if (value := getattr(error, name, None))]
    if offset is None:
        return Problem(migration.file, "\n".join([text, *details]), hint)
    line, column = line_and_column(migration.sql, offset)
    shown = _show(migration.sql.splitlines()[line - 1], line, column)
    where = f"{migration.file}:{line}:{column}"
    return Problem(where, "\n".join([text, *shown, *details]), hint)


async def _search(conn: asyncpg.Connection, migration: Migration, error: asyncpg.PostgresError) -> int | None:
    """Finds a statement whose error has no position (a duplicate key, say): runs them singly, and undoes them."""
    await conn.execute("BEGIN; SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '100ms'")
    try:
        deadline = time.monotonic() + SEARCH_FOR
        for statement in scan(migration.sql).statements:
            if time.monotonic() > deadline:
                break
            try:
                await conn.execute(migration.sql[statement.start : statement.end])
            except type(error):
                return statement.start
    except Exception:  # noqa: BLE001 - the search only improves a message
        return None
    finally:
        if not conn.is_closed():
            await conn.execute("ROLLBACK; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL")
    return None


def _show(text: str, line: int, column: int) -> list[str]:
    first = max(0, column - SHOWN // 2) if len(text) > SHOWN else 0
    number = f"{line:>6} | "
    # Tabs stay tabs, so that the mark stands under its character.
    blank = "".join("\t" if character == "\t" else " " for character in text[first : column - 1])
    return [number + text[first : first + SHOWN], " " * (len(number) - 2) + "| " + blank + "^"]
