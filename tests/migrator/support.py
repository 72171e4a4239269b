"""What several tests of the migrator do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from migrator.errors import MigratorError

APPLIED = "SELECT array_agg(version ORDER BY version) FROM migrator.history WHERE state = 'APPLIED'"


async def until(ask: Callable[[], Awaitable[Any]], *, within: float = 60.0) -> Any:
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + within
    while not (answer := await ask()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return answer


async def applied(conn: asyncpg.Connection) -> list[int]:
    """Returns the versions that the history calls applied."""
    if not await conn.fetchval("SELECT to_regclass('migrator.history') IS NOT NULL"):
        return []
    return await conn.fetchval(APPLIED) or []


async def exists(conn: asyncpg.Connection, name: str) -> bool:
    """Whether there is a table or index of this name."""
    return bool(await conn.fetchval("SELECT to_regclass($1) IS NOT NULL", name))


async def running(conn: asyncpg.Connection, text: str) -> int | None:
    """Returns the pid of the migrator's session that runs a statement with this text."""
    pid: int | None = await conn.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'mdw-migrator' AND datname = current_database()"
        " AND state = 'active' AND strpos(query, $1) > 0",
        text,
    )
    return pid


async def lock_is_free(conn: asyncpg.Connection) -> bool:
    """Whether nobody holds the migrator's lock."""
    return not await conn.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.objid = $1::bigint::oid)",
        0x4D44574D,
    )


def where(error: MigratorError) -> list[str]:
    """Returns where an error's problems are."""
    return [problem.where for problem in error.problems]
