"""Opens the one connection that a run needs, and refuses servers that a migration must not meet."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from migrator.errors import BadFiles, MigratorError, SqlFailed, TryAgain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONNECT_TIMEOUT = 10.0
RETRY_EVERY = 0.25
MINIMUM_SERVER = 150000

READER = {"application_name": "mdw-migrator"}
# Start-up settings, because RESET ALL after each file goes back to these and to nothing else.
SESSION = {
    **READER,
    # What a file means, and what the catalog prints, must not hang on a role's or a database's own settings.
    "search_path": "public",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    # The server notices a killed migrator within a second, also in the middle of a statement, and frees its locks.
    "client_connection_check_interval": "1000",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "10000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # On a cluster (elsewhere these mean nothing): schemas and functions are the coordinator's own and stay there, and a
    # lock_timeout set in a transaction holds on every node.
    "citus.create_object_propagation": "deferred",
    "citus.propagate_set_commands": "local",
}

LOOK = """
SELECT pg_backend_pid() AS pid, pg_is_in_recovery() AS standby,
       current_setting('transaction_read_only') = 'on' AS read_only,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       current_database() AS database, current_user AS role,
       current_setting('server_version_num')::int AS server_version,
       to_regclass('migrator.history') IS NOT NULL AS has_history
"""
POOLER_HINT = (
    "its sessions are shared, so the lock would hold nothing: "
    "set MIGRATION_DATABASE_URL to the address of PostgreSQL itself"
)

# Not worth waiting for: the server answered, and will answer the same again.
FATAL = (
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidParameterValueError,
    asyncpg.UndefinedObjectError,
    asyncpg.InsufficientPrivilegeError,
)
# Not QueryCanceledError, which is of the same class: a statement_timeout is the file's own affair.
LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(frozen=True, slots=True)
class Server:
    """What the server says about itself and about us."""

    pid: int
    standby: bool
    read_only: bool
    may_create: bool
    database: str
    role: str
    server_version: int
    has_history: bool


def nothing() -> None:
    """Does nothing."""


async def connect(
    dsn: str,
    wait: float,
    say: Callable[[str], None],
    *,
    before_waiting: Callable[[], None] = nothing,
    settings: Mapping[str, str] = SESSION,
) -> asyncpg.Connection:
    """Connects, trying for up to `wait` seconds while the server is away or starting.

    `before_waiting` runs once, when the first try has failed: whatever else is wrong should be said before the wait.
    """
    deadline = time.monotonic() + wait
    waiting = False
    while True:
        try:
            return await _open(dsn, settings)
        except UNREACHABLE as error:
            if not waiting:
                before_waiting()
            if time.monotonic() >= deadline:
                raise TryAgain.of("", f"the database cannot be reached: {_plain(error)}") from error
            if not waiting:
                say(f"waiting up to {wait:.0f} s for the database: {_plain(error)}")
            waiting = True
        await asyncio.sleep(RETRY_EVERY)


async def _open(dsn: str, settings: Mapping[str, str]) -> asyncpg.Connection:
    """Connects once; raises BadFiles where trying again would not help."""
    try:
        return await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT, statement_cache_size=0, server_settings=dict(settings)
        )
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" not in str(error):
            raise
        raise BadFiles.of("", f"a connection pooler answered: {error}", POOLER_HINT) from error
    except FATAL as error:
        raise BadFiles.of("", f"the database refuses the connection: {_plain(error)}") from error
    except (ValueError, OverflowError):  # its text may hold what was taken for a port, and was a piece of the password
        hint = "it begins with postgresql://, and a password's @ : / are written %40 %3A %2F"
        raise BadFiles.of("", "the database URL is not understood", hint) from None


async def look(conn: asyncpg.Connection) -> Server:
    """Asks what kind of server this is; raises BadFiles where a pooler stands in between."""
    row = await conn.fetchrow(LOOK)
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    server = Server(*row)
    if server.pid != conn.get_server_pid():
        raise BadFiles.of("", "a connection pooler stands between the migrator and PostgreSQL", POOLER_HINT)
    return server


def require_writable(server: Server, *, first_run: bool) -> None:
    """Raises BadFiles unless this role may migrate this server."""
    if server.server_version < MINIMUM_SERVER:
        raise BadFiles.of("", f"PostgreSQL {server.server_version // 10000} is too old", "15 or newer is needed")
    if server.standby or server.read_only:
        kind = "a standby" if server.standby else "read-only"
        raise BadFiles.of("", f"the server is {kind}", "point MIGRATION_DATABASE_URL at the primary")
    if first_run and not server.may_create:
        message = f"role {server.role} may not create schemas in database {server.database}"
        hint = f"as its owner: GRANT CREATE ON DATABASE {server.database} TO {server.role}"
        raise BadFiles.of("", message, hint)


async def close(conn: asyncpg.Connection) -> None:
    """Ends the session, and with it every lock, whatever state it is in."""
    try:
        await conn.close(timeout=2)
    except UNREACHABLE:
        conn.terminate()


def explained(error: Exception) -> MigratorError:
    """Returns what an error of the connection or of a statement means for the exit code."""
    if isinstance(error, MigratorError):
        return error
    if isinstance(error, (TimeoutError, *LOST)):
        return TryAgain.of("", f"the connection was lost: {_plain(error)}", "run it again")
    hint = "run it as the role that owns the schema" if isinstance(error, asyncpg.InsufficientPrivilegeError) else ""
    return SqlFailed.of("", _plain(error), hint)


def _plain(error: Exception) -> str:
    code = getattr(error, "sqlstate", None)
    text = str(error) or type(error).__name__
    return f"{text} ({code})" if code else text
