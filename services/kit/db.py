"""The database: a pool in which every wait has a bound, and one place that reads Postgres's errors."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from services.kit import tracing
from services.kit.errors import Aborted, InvalidArgument, MdwError, Unavailable
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy | asyncpg.Connection

log = get(__name__)

READ_ONLY = "25006"
"""A primary that became a replica keeps its connections; only new ones find the new primary."""

LOCK_NOT_AVAILABLE = "55P03"

# 23503: what a row refers to was deleted meanwhile.
_CONFLICTS = frozenset({"40001", "40P01", "23503", LOCK_NOT_AVAILABLE})
# A NUL or a broken character, a number or a time beyond the column's type.
_UNSTORABLE = frozenset({"22021", "22P05", "22003", "22008"})
_DISK_FULL = "53100"
_NO_SPACE = "No space left on device"
# A cluster's node answers, or does not, through the server. Citus has no code for it, or that of a connection of ours;
# the last six are libpq's, of the connection between them.
_NODE_WORDS = (
    "connection to the remote node",
    "connection marked as essential",
    "any connections to the node",
    "multiple connection failures",
    "failed to prepare transaction",
    "failed to COPY to shard",
    "failed to complete COPY on",
    "any active placements",
    "server closed the connection unexpectedly",
    "SSL SYSCALL error",
    "SSL connection has been closed unexpectedly",
    "could not receive data from server",
    "could not send data to server",
    "no connection to the server",
)
_NODE_CONTEXT = "while executing command on"
IN_DOUBT = "MD006"
"""A node was lost between the two phases of a commit, and has not made up its mind: ingest.await_nodes."""

# 08: connection; 53: out of connections, memory, disk; 57: shutting down, cancelled, starting.
_AWAY_CLASSES = ("08", "53", "57")
# A transaction that was idle, or open, for too long: the server has ended the connection.
_ENDED = frozenset({"25P03", "25P04"})
_AWAY = frozenset({READ_ONLY, IN_DOUBT, *_ENDED})

_LOST: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InternalClientError,  # asyncpg raises it when a connection is lost in an unlucky moment
    asyncpg.PostgresConnectionError,
)
# asyncpg has one class for a connection that is gone and for calls that are wrong; only the words differ.
_GONE_WORDS = ("closed", "closing", "released")

FAILURES: tuple[type[BaseException], ...] = (*_LOST, asyncpg.InterfaceError, asyncpg.PostgresError)
"""All that a call into asyncpg may raise."""

RELEASE_SECONDS = 1.0
CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Use:
    """How many connections of a pool are lent, how many wait to be, and how many there may be."""

    used: int
    idle: int
    limit: int


class Database:
    """A pool of connections to one database; raises MdwErrors for what a caller can do something about."""

    def __init__(self, pool: asyncpg.Pool, *, dsn: str, pooler: bool, acquire_timeout: float) -> None:
        self._pool = pool
        self._acquire_timeout = acquire_timeout
        self.dsn = dsn
        self.pooler = pooler
        self.waiting = 0
        """How many wait for a connection: whoever holds one for long may want to let them in between."""

    def __repr__(self) -> str:
        return "Database(...)"

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        size: int = 8,
        application_name: str = "mdw",
        pooler: bool = False,
        command_timeout: float = 5.0,
        acquire_timeout: float = 2.0,
    ) -> Database:
        """Makes the pool without connecting: the database may still be away."""
        pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=size,
            timeout=acquire_timeout,
            command_timeout=command_timeout,
            max_inactive_connection_lifetime=300.0,
            init=tracing.watch,
            **connect_options(application_name, pooler=pooler),
        )
        await pool
        return cls(pool, dsn=dsn, pooler=pooler, acquire_timeout=acquire_timeout)

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[Connection]:  # noqa: ASYNC109
        """Lends a connection; waits for one at most `timeout` seconds (default: the pool's bound)."""
        connection: Any = None
        try:
            connection = await self._acquire(self._acquire_timeout if timeout is None else timeout)
            yield connection
        except FAILURES as error:
            if connection is not None and is_lost(error):
                terminate(connection)
            await self._expire_if_read_only(error)
            raise translate(error) from error
        finally:
            if connection is not None:
                await self._release(connection)

    @asynccontextmanager
    async def transaction(self, *, timeout: float | None = None) -> AsyncIterator[Connection]:  # noqa: ASYNC109
        """Lends a connection in a READ COMMITTED transaction: committed at the end, rolled back on any exception."""
        async with self.connection(timeout=timeout) as connection:
            await begin(connection)
            try:
                yield connection
            except BaseException:
                await roll_back(connection)
                raise
            await connection.execute("COMMIT")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Lends a connection in a transaction that is rolled back: for reads that SET LOCAL something."""
        async with self.connection() as connection:
            await begin(connection)
            try:
                yield connection
            finally:
                await roll_back(connection)

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            return await connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        async with self.connection() as connection:
            return await connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        async with self.connection() as connection:
            return await connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        async with self.connection() as connection:
            return await connection.execute(sql, *args)

    async def connect(self, application_name: str, *, command_timeout: float) -> asyncpg.Connection:
        """Opens a connection outside of the pool; raises what asyncpg raises."""
        options = connect_options(application_name, pooler=self.pooler)
        connection: asyncpg.Connection = await asyncpg.connect(
            self.dsn, timeout=self._acquire_timeout, command_timeout=command_timeout, **options
        )
        return connection

    def use(self) -> Use:
        """Returns how far the pool is used now; may be called from any thread."""
        idle = self._pool.get_idle_size()
        return Use(max(0, self._pool.get_size() - idle), idle, self._pool.get_max_size())

    async def close(self) -> None:
        """Closes the pool within a second, whatever its connections do."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._pool.close()
        except FAILURES:
            self._pool.terminate()

    async def _acquire(self, timeout: float) -> Any:  # noqa: ASYNC109 - the pool bounds it
        self.waiting += 1
        try:
            return await self._pool.acquire(timeout=timeout)
        finally:
            self.waiting -= 1

    async def _release(self, connection: Any) -> None:
        try:
            await self._pool.release(connection, timeout=RELEASE_SECONDS)
        except FAILURES:
            terminate(connection)

    async def _expire_if_read_only(self, error: BaseException) -> None:
        if getattr(error, "sqlstate", None) == READ_ONLY:
            log.warning("database_read_only")
            await self._pool.expire_connections()


def connect_options(application_name: str, *, pooler: bool) -> dict[str, Any]:
    """Returns what every connection is opened with; a pooler in transaction mode allows no prepared statements."""
    settings = {"application_name": application_name}
    if pooler:
        return {"server_settings": settings, "statement_cache_size": 0}
    # A cluster hides its shards from the catalog, row by row: asyncpg's look at the types would take a second. One
    # server keeps the setting and knows nothing of it; a pooler refuses settings that it does not know.
    return {"server_settings": {**settings, "citus.override_table_visibility": "off"}}


async def begin(connection: Connection) -> None:
    """Starts a READ COMMITTED transaction, whatever the server's default is."""
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")


async def roll_back(connection: Connection) -> None:
    """Rolls back; a connection that cannot is ended, which rolls back, too."""
    try:
        if connection.is_closed():
            return
        await asyncio.shield(asyncio.ensure_future(connection.execute("ROLLBACK", timeout=RELEASE_SECONDS)))
    except FAILURES:
        terminate(connection)
    except asyncio.CancelledError:
        terminate(connection)
        raise


def terminate(connection: Connection) -> None:
    """Ends a connection without a word to the server; one that the pool has taken back already is fine."""
    with suppress(*FAILURES):
        connection.terminate()


def is_lost(error: BaseException) -> bool:
    """Says whether an error leaves a connection in a state in which nobody knows what it did."""
    if isinstance(error, asyncpg.InterfaceError):
        return any(word in str(error) for word in _GONE_WORDS)
    if is_node_away(error):
        return False
    return isinstance(error, _LOST) or _state(error)[:2] in ("08", "57") or _state(error) in _ENDED


def is_node_away(error: BaseException | None) -> bool:
    """Says whether a server that answers well reports of a node of its cluster that does not."""
    if not isinstance(error, asyncpg.PostgresError):
        return False
    if _NODE_CONTEXT in (getattr(error, "context", None) or "") and _state(error)[:2] in ("08", "57"):
        return True  # it shuts down, or starts
    return _state(error) == IN_DOUBT or any(word in str(error) for word in _NODE_WORDS)


def is_disk_full(error: BaseException | None) -> bool:
    """Says whether a disk is full: the server's, or that of a node of its cluster, whose code it does not pass on."""
    return isinstance(error, asyncpg.PostgresError) and (_state(error) == _DISK_FULL or _NO_SPACE in str(error))


def is_away(error: BaseException) -> bool:
    """Says whether an error means that the database cannot serve now."""
    state = _state(error)
    return is_lost(error) or state[:2] in _AWAY_CLASSES or state in _AWAY or is_node_away(error) or is_disk_full(error)


def translate(error: BaseException) -> BaseException:
    """Returns the MdwError that fits a database's error, or the error itself if it is a bug of ours."""
    if isinstance(error, MdwError):
        return error
    if is_node_away(error):
        return Unavailable("DATABASE_UNAVAILABLE", "a node of the database is away", retry_after=1.0)
    if is_away(error):
        return Unavailable("DATABASE_UNAVAILABLE", "the database is away", retry_after=1.0)
    if _state(error) in _CONFLICTS:
        return Aborted("CONFLICT", "the change met another one; try again")
    if _state(error) in _UNSTORABLE:
        return InvalidArgument("request", "holds a character, a number or a time that cannot be stored")
    return error


def _state(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""
