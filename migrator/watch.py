"""Looks, over a second connection, at who holds up a file that waits for a lock."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import asyncpg

from migrator.connect import SESSION, UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOOK_EVERY = 0.03

BLOCKERS = """
SELECT a.pid, a.application_name, a.usename, a.state, left(coalesce(a.query, ''), 60) AS query,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age
FROM pg_stat_activity a
WHERE a.pid = ANY (pg_blocking_pids($1))
ORDER BY a.pid
"""


class Watch:
    """Remembers the sessions that were last seen in the way; opens its connection at the first conflict only."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._conn: asyncpg.Connection | None = None
        self._armed = False
        self._seen: list[str] = []

    @contextlib.asynccontextmanager
    async def over(self, conn: asyncpg.Connection) -> AsyncIterator[None]:
        """Watches one attempt; the first is not watched, since most files wait for nobody."""
        if not self._armed:
            self._armed = True
            yield
            return
        task = asyncio.create_task(self._look(conn.get_server_pid()))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def blockers_text(self) -> str:
        """Names the sessions last seen in the way, if any."""
        return "; in the way: " + "; ".join(self._seen) if self._seen else ""

    async def close(self) -> None:
        """Ends the second connection."""
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None

    async def _look(self, pid: int) -> None:
        with contextlib.suppress(*UNREACHABLE):  # a picture of the blockers is worth nothing's failure
            if self._conn is None or self._conn.is_closed():
                self._conn = await asyncpg.connect(
                    self._dsn, timeout=2, statement_cache_size=0, server_settings=SESSION
                )
            while True:
                rows = await self._conn.fetch(BLOCKERS, pid)
                if rows:
                    self._seen = [_describe(row) for row in rows]
                await asyncio.sleep(LOOK_EVERY)


def _describe(row: asyncpg.Record) -> str:
    query = " ".join(row["query"].split())
    age = "" if row["age"] is None else f" for {row['age']:.0f} s"
    return f"pid {row['pid']} ({row['application_name'] or row['usename']}, {row['state']}{age}: {query})"
