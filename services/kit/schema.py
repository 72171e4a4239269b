"""Whether the database's schema is new enough, and holds what a service's SQL uses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from services.kit.db import is_away
from services.kit.errors import Unavailable
from services.kit.log import get

if TYPE_CHECKING:
    from services.kit.db import Database

log = get(__name__)

VERSION = "SELECT max(version) FROM migrator.history WHERE state <> 'STARTED'"

MISSING = """
SELECT name
FROM unnest($1::text[]) AS name
WHERE NOT EXISTS (
  SELECT FROM pg_attribute a
  WHERE a.attrelid = to_regclass(split_part(name, '.', 1) || '.' || split_part(name, '.', 2))
    AND a.attname = split_part(name, '.', 3)
    AND NOT a.attisdropped
)
UNION ALL
SELECT name
FROM unnest($2::text[]) AS name
WHERE NOT EXISTS (
  SELECT FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname || '.' || p.proname = name
)
"""

_RETRY_SECONDS = 0.25
_NO_TABLE = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError)


class SchemaError(Exception):
    """The schema is too old, or lacks something; the message says what helps."""


@dataclass(frozen=True, kw_only=True)
class RequiredSchema:
    """What a service needs: the least version, and its columns (`schema.table.column`) and functions by name."""

    version: int
    columns: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


async def wait_for_schema(db: Database, required: RequiredSchema, seconds: float) -> int:
    """Waits for the database as long as it takes, then so many seconds for the schema; returns its version.

    A newer schema is fine. Raises SchemaError.
    """
    deadline: float | None = None
    announced = False
    while True:
        version = await _version(db)
        if version is not None:
            now = asyncio.get_running_loop().time()
            deadline = now + seconds if deadline is None else deadline
            if version >= required.version:
                await _check_parts(db, required)
                return version
            if now >= deadline:
                raise SchemaError(
                    f"the database's schema is at version {version}, this service needs {required.version}: "
                    "run `python -m migrator up`"
                )
        if not announced:
            announced = True
            log.warning("waiting_for_schema", needed=required.version, found=version, database=version is not None)
        await asyncio.sleep(_RETRY_SECONDS)


async def _version(db: Database) -> int | None:
    """Returns the schema's version, 0 if there is none yet, None while the database is away."""
    try:
        return int(await db.fetchval(VERSION) or 0)
    except _NO_TABLE:
        return 0
    except Unavailable:
        return None
    except asyncpg.PostgresError as error:
        if is_away(error):
            return None
        raise


async def _check_parts(db: Database, required: RequiredSchema) -> None:
    rows = await db.fetch(MISSING, list(required.columns), list(required.functions))
    if rows:
        names = ", ".join(sorted(row["name"] for row in rows))
        raise SchemaError(f"the database's schema lacks {names}: run `python -m migrator verify`")
