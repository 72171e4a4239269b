"""The table that says what was applied: when, by whom, and with which checksum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from migrator.files import Migration

STARTED, APPLIED, BASELINE = "STARTED", "APPLIED", "BASELINE"

# Everybody may read it: services ask it which schema they have met, whatever their role.
CREATE = """
CREATE SCHEMA IF NOT EXISTS migrator;
CREATE TABLE IF NOT EXISTS migrator.history (
  version integer PRIMARY KEY CHECK (version > 0),
  name text NOT NULL,
  checksum text NOT NULL CHECK (checksum ~ '^[0-9a-f]{64}$'),
  state text NOT NULL CHECK (state IN ('STARTED', 'APPLIED', 'BASELINE')),
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  applied_by text NOT NULL DEFAULT session_user,
  duration_ms bigint NOT NULL,
  program_version text NOT NULL
);
COMMENT ON TABLE migrator.history IS
  'One row a migration file; STARTED only while a no-transaction file runs, or after it was killed';
GRANT USAGE ON SCHEMA migrator TO PUBLIC;
GRANT SELECT ON migrator.history TO PUBLIC;
"""

EXISTS = "SELECT to_regclass('migrator.history') IS NOT NULL"

READ = """
SELECT version, name, checksum, state, applied_at, applied_by, duration_ms, program_version
FROM migrator.history
ORDER BY version
"""

NEWEST = "SELECT coalesce(max(version), 0) FROM migrator.history WHERE state <> 'STARTED'"

RECORD = """
INSERT INTO migrator.history AS h (version, name, checksum, state, duration_ms, program_version)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (version) DO UPDATE
SET name = excluded.name, checksum = excluded.checksum, state = excluded.state, applied_at = clock_timestamp(),
    applied_by = session_user, duration_ms = excluded.duration_ms, program_version = excluded.program_version
WHERE h.state = 'STARTED'
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the history."""

    version: int
    name: str
    checksum: str
    state: str
    applied_at: datetime
    applied_by: str
    duration_ms: int
    program_version: str


async def read(conn: asyncpg.Connection) -> tuple[Row, ...]:
    """Returns the whole history in order."""
    return tuple(Row(*record) for record in await conn.fetch(READ))


async def read_if_any(conn: asyncpg.Connection) -> tuple[Row, ...]:
    """Returns the whole history in order; nothing where there is none yet."""
    return await read(conn) if await conn.fetchval(EXISTS) else ()


async def newest(conn: asyncpg.Connection) -> int:
    """Returns the newest applied version; 0 where there is none."""
    if not await conn.fetchval(EXISTS):
        return 0
    return int(await conn.fetchval(NEWEST))


async def record(conn: asyncpg.Connection, migration: Migration, state: str, duration_ms: int) -> None:
    """Writes or completes one row; an applied row is never touched."""
    arguments = (migration.version, migration.name, migration.checksum, state, duration_ms, program_version())
    await conn.execute(RECORD, *arguments)


@lru_cache
def program_version() -> str:
    """Returns the version of the installed program."""
    from importlib import metadata  # noqa: PLC0415 - only when something is written: it costs 20 ms

    try:
        return metadata.version("mdw")
    except metadata.PackageNotFoundError:
        return "unknown"
