"""Runs the files that PostgreSQL lets run in no transaction, so that a killed run can be repeated.

Their history row is STARTED before and APPLIED after. What a killed run left is found by the statement itself: an
invalid index is dropped and built anew, a valid one was finished; all other statements may be repeated as they are
(VACUUM, REINDEX), or are written so by their author (CALL, DO).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg

from migrator import history
from migrator.check import is_concurrent
from migrator.connect import LOST
from migrator.errors import MigratorError, SqlFailed, TryAgain
from migrator.scan import Statement, scan
from migrator.where import failed_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from migrator.files import Migration
    from migrator.options import Options
    from migrator.watch import Watch

FIND_INDEX = """
SELECT c.oid::regclass::text AS name, i.indisvalid AND i.indisready AS valid
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
WHERE t.oid = to_regclass($1) AND c.relname = $2
"""
LEFTOVERS = """
SELECT c.oid::regclass::text AS name
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relname ~ '_ccnew[0-9]*$' AND c.relpersistence = 'p'
"""
INDEX_EXISTS = "SELECT to_regclass($1) IS NOT NULL"
SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', $1, false)"


async def apply_alone(
    conn: asyncpg.Connection,
    migration: Migration,
    options: Options,
    watch: Watch,
    say: Callable[[str], None],
    *,
    again: bool,
) -> int:
    """Runs the file's one statement outside a transaction; returns its milliseconds.

    `again` says that an earlier run was interrupted in it.
    """
    statement = scan(migration.sql).statements[0]
    started = time.monotonic()
    try:
        found = await _find(conn, statement)
        # An index that stands without a run of ours must not pass for what an interrupted one made.
        if again or found is None or not found["valid"]:
            await history.record(conn, migration, history.STARTED, 0)
        if not await _is_done(conn, statement, found, again=again, say=say):
            # What runs concurrently lets readers and writers pass while it waits; the rest must not wait long.
            await conn.execute(SET_LOCK_TIMEOUT, "0" if is_concurrent(statement) else f"{options.lock_timeout_ms}ms")
            async with watch.over(conn):
                await conn.execute(migration.sql)
            await conn.execute("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL")
            await _require_valid(conn, migration, statement)
        milliseconds = int((time.monotonic() - started) * 1000)
        await history.record(conn, migration, history.APPLIED, milliseconds)
    except (asyncpg.PostgresError, *LOST) as error:
        raise await _failure(conn, migration, error) from error
    return milliseconds


async def _is_done(
    conn: asyncpg.Connection,
    statement: Statement,
    found: asyncpg.Record | None,
    *,
    again: bool,
    say: Callable[[str], None],
) -> bool:
    """Clears what a killed run left; true where that run had finished its work."""
    if again and statement.verbs[0] == "REINDEX":
        for row in await conn.fetch(LEFTOVERS):
            await _drop(conn, row["name"], say)
    if again and statement.verbs[0] == "DROP":
        return not await conn.fetchval(INDEX_EXISTS, _dropped(statement))
    if found is not None and not found["valid"]:
        await _drop(conn, found["name"], say)
        return False
    return again and found is not None


async def _find(conn: asyncpg.Connection, statement: Statement) -> asyncpg.Record | None:
    """Returns the index that CREATE INDEX CONCURRENTLY names, and whether it is valid; None where there is none."""
    target = _index_of(statement)
    return await conn.fetchrow(FIND_INDEX, *target) if target else None


async def _drop(conn: asyncpg.Connection, index: str, say: Callable[[str], None]) -> None:
    say(f"dropping {index}, which an interrupted run left invalid")
    await conn.execute(SET_LOCK_TIMEOUT, "0")
    await conn.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")  # a regclass of the server's own, quoted by it


async def _require_valid(conn: asyncpg.Connection, migration: Migration, statement: Statement) -> None:
    row = await _find(conn, statement)
    if row is not None and not row["valid"]:
        raise SqlFailed.of(migration.file, f"index {row['name']} is not valid after the statement")


def _index_of(statement: Statement) -> tuple[str, str] | None:
    """Returns table and index name of CREATE INDEX CONCURRENTLY; None for other statements."""
    verbs, head = statement.verbs, statement.head
    if verbs[0] != "CREATE" or "CONCURRENTLY" not in verbs or "ON" not in verbs:
        return None
    on = verbs.index("ON")
    table_at = on + (2 if verbs[on + 1] == "ONLY" else 1)
    table = head[table_at]
    if head[table_at + 1 : table_at + 2] == (".",):
        table += "." + head[table_at + 2]
    name = head[on - 1]
    return table, name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _dropped(statement: Statement) -> str:
    """Returns the name in DROP INDEX CONCURRENTLY as written."""
    first = 3 + 2 * (statement.verbs[3:5] == ("IF", "EXISTS"))
    name = statement.head[first]
    return f"{name}.{statement.head[first + 2]}" if statement.head[first + 1 : first + 2] == (".",) else name


async def _failure(conn: asyncpg.Connection, migration: Migration, error: Exception) -> MigratorError:
    if isinstance(error, LOST) or conn.is_closed():
        message = f"the connection was lost, and the statement may be half done: {error or type(error).__name__}"
        return TryAgain.of(migration.file, message, "run it again: the rest is cleared up first")
    if isinstance(error, asyncpg.LockNotAvailableError):
        return TryAgain.of(migration.file, f"{error}; nothing was changed", "run it again")
    assert isinstance(error, asyncpg.PostgresError)  # noqa: S101 - the only other class that is caught
    return SqlFailed([await failed_at(conn, migration, error, search=False)])
