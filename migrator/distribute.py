"""Moves the tables of bars to the nodes of a Citus cluster, or back: all in one transaction, then the local copy goes.

A run that is killed has moved everything or nothing, and the next one sees which: what is left to do is read from the
catalog, never remembered.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import asyncpg

from migrator.apply import CONFLICTS
from migrator.catalog import read_objects
from migrator.cluster import INTERVAL, INTERVAL_MS
from migrator.connect import LOST
from migrator.errors import SqlFailed, TryAgain
from migrator.layout import KEY_COLUMN, MOVED, read_layout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from migrator.catalog import CatalogObject
    from migrator.options import Options

POLL = 0.1
RELOADED = 100
"""How often a setting is looked for after a reload."""

SET_INTERVAL = f"ALTER SYSTEM SET {INTERVAL} = {INTERVAL_MS}"
RELOAD = "SELECT pg_reload_conf()"
SEEN = "SELECT setting::int FROM pg_settings WHERE name = $1"

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
# Whoever claims a slice takes one of these rows first.
STOP_CLAIMS = "SELECT FROM ingest.turns ORDER BY priority FOR UPDATE"
UNDER_WAY = "SELECT count(*) FROM ingest.slices WHERE state = 2 AND lease_until > clock_timestamp()"
# Reads go on beside this lock, writers wait.
LOCK = f"LOCK TABLE {', '.join(MOVED)} IN EXCLUSIVE MODE"
SHARD_SETTINGS = "SET LOCAL citus.shard_replication_factor = 1"

DISTRIBUTE = "SELECT create_distributed_table($1::text::regclass, $2, colocate_with => $3)"
UNDISTRIBUTE = "SELECT undistribute_table($1::text::regclass)"
FREE = "SELECT truncate_local_data_after_distributing_table($1::text::regclass)"
LEFT_HERE = "SELECT pg_relation_size($1::text::regclass)"
# The logins that work on these tables through a group. Nodes connect to each other as the caller's own role.
LOGINS = """
WITH RECURSIVE working AS (
  SELECT a.grantee AS oid
  FROM pg_class c, aclexplode(c.relacl) a
  WHERE c.oid = 'ingest.bars'::regclass AND a.grantee NOT IN (0, c.relowner)
  UNION
  SELECT m.member FROM pg_auth_members m JOIN working w ON m.roleid = w.oid
)
SELECT r.rolname::text
FROM pg_roles r
JOIN working USING (oid)
WHERE r.rolcanlogin AND NOT r.rolsuper
  AND NOT EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
                  WHERE n.nspname = 'ingest' AND a.grantee = r.oid)
ORDER BY 1
"""
TO_EACH = "SELECT format($1, string_agg(quote_ident(name), ', ')) FROM unnest($2::text[]) AS name"
# A node's error comes through with its words, and not always with its code.
NO_SPACE = "No space left on device"
CONCURRENT = "tuple concurrently updated"
NAME, UNNAME = "GRANT USAGE ON SCHEMA ingest TO %s", "REVOKE USAGE ON SCHEMA ingest FROM %s"


class Mover:
    """One run over one connection, under the migrator's lock."""

    def __init__(self, conn: asyncpg.Connection, options: Options, say: Callable[[str], None]) -> None:
        self._conn = conn
        self._options = options
        self._say = say
        self._deadline = time.monotonic() + options.retry_for

    async def shorten_recovery(self) -> None:
        """Lets the cluster look every 2 s for commits that a lost node left open."""
        await self._conn.execute(SET_INTERVAL)
        await self._conn.execute(RELOAD)
        for _ in range(RELOADED):  # the next run must see it, else it would find something to do
            if await self._conn.fetchval(SEEN, INTERVAL) == INTERVAL_MS:
                return
            await asyncio.sleep(POLL)

    async def distribute(self) -> None:
        """Moves what is not moved yet; readers go on, writers wait."""
        there = (await read_layout(self._conn)).spread

        async def move() -> None:
            await self._conn.execute(SHARD_SETTINGS)
            logins = await self._named_logins()
            beside = next((name for name in MOVED if name in there), "none")
            for name in MOVED:
                if name not in there:
                    await self._conn.execute(DISTRIBUTE, name, KEY_COLUMN, beside)
                    beside = name
            if logins:
                await self._conn.execute(await self._conn.fetchval(TO_EACH, UNNAME, logins))

        await self._alone(move)
        await self._conn.execute(f"ANALYZE {', '.join(MOVED)}")

    async def free(self) -> None:
        """Frees the local copies, each when no reader is in it."""
        for name in MOVED:
            if await self._conn.fetchval(LEFT_HERE, name):
                await self._free(name)

    async def undistribute(self) -> None:
        """Brings back whichever of the tables is distributed; readers wait at the end, writers all the time."""
        there = (await read_layout(self._conn)).spread

        async def move() -> None:
            comments = await self._comments()
            for name in MOVED:
                if name in there:
                    await self._conn.execute(UNDISTRIBUTE, name)
            for comment in comments:  # Citus makes the table anew and leaves out what is said of its columns
                await self._conn.execute(comment.sql)

        await self._alone(move)
        await self._conn.execute(f"ANALYZE {', '.join(MOVED)}")

    async def _named_logins(self) -> Sequence[str]:
        """Names the services' logins in the schema's grants, for this transaction: so Citus takes them to the nodes."""
        logins = [row[0] for row in await self._conn.fetch(LOGINS)]
        if logins:
            await self._conn.execute(await self._conn.fetchval(TO_EACH, NAME, logins))
        return logins

    async def _comments(self) -> list[CatalogObject]:
        objects = await read_objects(self._conn, ["ingest"])
        names = {f"on table {name}" for name in MOVED}
        return [item for item in objects if item.kind == "comment" and item.name.partition(" column ")[0] in names]

    async def _alone(self, move: Callable[[], Awaitable[None]]) -> None:
        """Runs `move` in one transaction, again where another session was in its way."""
        while True:
            try:
                return await self._once(move)
            except asyncpg.PostgresError as error:
                if isinstance(error, LOST):
                    raise
                if not _passes(error) or time.monotonic() >= self._deadline:
                    raise _failed(error) from error
                self._say(f"{error}; trying again")
            await asyncio.sleep(POLL)

    async def _once(self, move: Callable[[], Awaitable[None]]) -> None:
        """Runs `move` in one transaction, when no part is under way and none can begin."""
        await self._conn.execute(BEGIN)
        try:
            await self._conn.execute(STOP_CLAIMS)
            await self._until_parts_end()
            await self._locked(LOCK)
            self._say("no part is under way; the tables move now")
            await move()
            await self._conn.execute("COMMIT")
        finally:
            await self._rolled_back()

    async def _rolled_back(self) -> None:
        if not self._conn.is_closed() and self._conn.is_in_transaction():
            await self._conn.execute("ROLLBACK")

    async def _until_parts_end(self) -> None:
        said = False
        while count := await self._conn.fetchval(UNDER_WAY):
            if time.monotonic() >= self._deadline:
                raise self._gave_up(f"{count} slices are still worked on")
            if not said:
                self._say(f"waiting for {count} slices under way")
                said = True
            await asyncio.sleep(POLL)

    async def _locked(self, statement: str) -> None:
        """Takes a lock without queueing for long: readers and writers would queue behind it."""
        while True:
            await self._conn.execute(f"SAVEPOINT locking; SET LOCAL lock_timeout = {self._options.lock_timeout_ms}")
            try:
                await self._conn.execute(statement)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                await self._conn.execute("ROLLBACK TO SAVEPOINT locking")
                if time.monotonic() >= self._deadline:
                    raise self._gave_up(str(error)) from error
                await asyncio.sleep(POLL)
            else:
                await self._conn.execute("SET LOCAL lock_timeout = 0")
                return

    async def _free(self, name: str) -> None:
        await self._conn.execute(BEGIN)
        try:
            await self._locked(FREE.replace("$1", f"'{name}'"))
            await self._conn.execute("COMMIT")
        except TryAgain as error:
            hint = "the table has moved, and works; run it again to free the local copy"
            raise TryAgain.of(name, error.problems[0].message, hint) from error
        finally:
            await self._rolled_back()

    def _gave_up(self, why: str) -> TryAgain:
        message = f"gave up after {self._options.retry_for:.0f} s: {why}; nothing was moved"
        return TryAgain.of("", message, "run it again when less is going on, or with a longer --retry-for")


def _passes(error: asyncpg.PostgresError) -> bool:
    """Whether it passes by itself: roles are shared by all databases, and another one's may change at this moment."""
    return isinstance(error, CONFLICTS) or CONCURRENT in str(error)


def _failed(error: asyncpg.PostgresError) -> SqlFailed:
    """Says in one line why the move was undone."""
    text = " ".join(str(error.message if hasattr(error, "message") else error).split())
    where = f" ({error.context})" if getattr(error, "context", None) else ""
    if (error.sqlstate or "").startswith("53") or NO_SPACE in text:
        hint = "make room there, then run it again"
        return SqlFailed.of("", f"a node has no room: {text}{where}; nothing was changed", hint)
    return SqlFailed.of("", f"{text}{where} ({error.sqlstate}); nothing was changed", "put that right and run it again")
