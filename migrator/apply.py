"""Applies one file: in a transaction with its history row, or alone where PostgreSQL allows nothing else."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import asyncpg

from migrator import history, lock
from migrator.check import needs_no_transaction
from migrator.connect import LOST
from migrator.errors import CommitUnknown, SqlFailed, TryAgain
from migrator.scan import scan
from migrator.where import failed_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from migrator.files import Migration
    from migrator.options import Options
    from migrator.watch import Watch

# What passes by itself: a lock not granted in time, a deadlock, a conflict with another transaction.
CONFLICTS = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
NOT_YET = "MDW75"
"""The SQLSTATE that a file raises where something is missing that others are about to make."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
# A SET and no set_config: a cluster hands it on to its nodes, whose readers the coordinator does not see.
SET_LOCK_TIMEOUT = "SET LOCAL lock_timeout = {}"
TRANSACTION = "SELECT pg_current_xact_id()::text"
IS_AS_IT_WAS = f"SELECT pg_current_xact_id()::text = $2 AS same, ({lock.HELD}) AS held"
# Deferred constraints are judged here, where the file is still named; then the session is as it began.
SETTLE = "SET CONSTRAINTS ALL IMMEDIATE; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"


def runs_alone(migration: Migration) -> bool:
    """Whether the file runs outside a transaction.

    The marker is leave, not order: what can run in a transaction does, so that its history row commits with it.
    """
    if not migration.no_transaction:
        return False
    statement = scan(migration.sql).statements[0]
    return needs_no_transaction(statement) or statement.verbs[0] in {"CALL", "DO"}


async def apply_file(
    conn: asyncpg.Connection, migration: Migration, options: Options, watch: Watch, say: Callable[[str], None]
) -> int:
    """Applies a file in one transaction with its history row; returns its milliseconds.

    A lock that is not granted soon is given up and asked for again, so that readers never queue behind the file.
    """
    deadline = time.monotonic() + options.retry_for
    pause = FIRST_PAUSE
    while True:
        try:
            async with watch.over(conn):
                return await _attempt(conn, migration, options)
        except asyncpg.PostgresError as error:
            if not _passes(error):
                raise await _failure(conn, migration, error) from error
            await conn.execute("ROLLBACK")
            if time.monotonic() >= deadline:
                raise _gave_up(migration, options, watch, error) from error
            say(f"{migration.file}: {error}; trying again{watch.blockers_text()}")
        except LOST as error:
            raise _lost(migration, error) from error
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads the tries
        pause = min(pause * 2, LONGEST_PAUSE)


def _passes(error: asyncpg.PostgresError) -> bool:
    return isinstance(error, CONFLICTS) or error.sqlstate == NOT_YET


async def _attempt(conn: asyncpg.Connection, migration: Migration, options: Options) -> int:
    started = time.monotonic()
    await conn.execute(BEGIN)
    await conn.execute(SET_LOCK_TIMEOUT.format(options.lock_timeout_ms))
    xid = await conn.fetchval(TRANSACTION)
    await conn.execute(migration.sql)
    await conn.execute(SETTLE)
    await _require_as_it_was(conn, migration, xid)
    milliseconds = int((time.monotonic() - started) * 1000)
    await history.record(conn, migration, history.APPLIED, milliseconds)
    await _commit(conn)
    return milliseconds


async def _require_as_it_was(conn: asyncpg.Connection, migration: Migration, xid: str) -> None:
    """Raises SqlFailed where the file left the transaction that it was begun in, or gave the lock away."""
    row = await conn.fetchrow(IS_AS_IT_WAS, lock.KEY, xid)
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    if not row["same"]:
        raise _escaped(migration)
    if not row["held"]:
        raise SqlFailed.of(migration.file, "released the migrator's lock; the file was undone")


async def _commit(conn: asyncpg.Connection) -> None:
    try:
        await conn.execute("COMMIT")
    except LOST as error:
        raise CommitUnknown from error


def _escaped(migration: Migration) -> SqlFailed:
    message = "ended its own transaction: what ran before that is committed, though the file is not recorded"
    hint = "remove COMMIT or ROLLBACK from the file, and undo by hand what it left behind"
    return SqlFailed.of(migration.file, message, hint)


async def _failure(
    conn: asyncpg.Connection, migration: Migration, error: asyncpg.PostgresError
) -> SqlFailed | TryAgain:
    if isinstance(error, LOST) or conn.is_closed():
        return _lost(migration, error)
    await conn.execute("ROLLBACK")
    return SqlFailed([await failed_at(conn, migration, error)])


def _lost(migration: Migration, error: Exception) -> TryAgain:
    code = getattr(error, "sqlstate", None)
    text = f"{error} ({code})" if code else str(error) or type(error).__name__
    return TryAgain.of(
        migration.file, f"the connection was lost, and the server undid the file: {text}", "run it again"
    )


def _gave_up(migration: Migration, options: Options, watch: Watch, error: Exception) -> TryAgain:
    message = f"{error}, for {options.retry_for:.0f} s; nothing was changed{watch.blockers_text()}"
    return TryAgain.of(migration.file, message, "run it again when those sessions are done")
