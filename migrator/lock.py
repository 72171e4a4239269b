"""One migrator at a time: a session lock that is polled, never waited for.

A statement that waits for a lock holds a snapshot, CREATE INDEX CONCURRENTLY waits for snapshots, and the lock is held
by whoever creates the index: a blocking wait is a deadlock. Between two polls nothing is open.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from migrator.errors import TryAgain

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

KEY = 0x4D44574D  # "MDWM"; objsubid 1 and classid 0 in pg_locks
POLL = 0.05
SAY_EVERY = 5.0

TRY = "SELECT pg_try_advisory_lock($1)"
# A file can give the lock away, with pg_advisory_unlock_all().
HELD = """
SELECT EXISTS (
  SELECT FROM pg_locks
  WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
    AND classid = 0 AND objid = $1::bigint::oid AND objsubid = 1
)
"""
HOLDER = """
SELECT a.pid, a.application_name, a.usename, extract(epoch FROM clock_timestamp() - a.backend_start)::float8 AS age,
       a.state, left(coalesce(a.query, ''), 80) AS query
FROM pg_locks l
JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = $1::bigint::oid AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def acquire(conn: asyncpg.Connection, wait: float, say: Callable[[str], None]) -> None:
    """Takes the lock for the life of the session; raises TryAgain, naming the holder, after `wait` seconds."""
    started = time.monotonic()
    say_at = started + 1.0
    while not await conn.fetchval(TRY, KEY):
        now = time.monotonic()
        if now - started >= wait:
            raise TryAgain.of("", f"another migrator held the lock for {wait:.0f} s: {await holder(conn)}")
        if now >= say_at:
            say(f"waiting for another migrator ({now - started:.0f} s): {await holder(conn)}")
            say_at = now + SAY_EVERY
        await asyncio.sleep(POLL)


async def holder(conn: asyncpg.Connection) -> str:
    """Describes who has the lock: pid, application, age."""
    row = await conn.fetchrow(HOLDER, KEY)
    if row is None:
        return "it has just gone"
    who = f"pid {row['pid']}, application {row['application_name'] or '(unnamed)'}, user {row['usename']}"
    query = " ".join(row["query"].split())
    return f"{who}, connected for {row['age']:.0f} s, {row['state']}: {query}"
