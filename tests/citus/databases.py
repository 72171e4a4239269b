"""Makes databases on a cluster for tests: one on each node, joined, as an administrator would make them."""

from __future__ import annotations

import contextlib
import secrets
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from deploy.local.roles import LOGINS, OWNER, ensure_database, ensure_logins, with_login
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

WORKERS = """
SELECT nodename AS host, nodeport AS port
FROM pg_dist_node
WHERE groupid <> 0 AND noderole = 'primary'
ORDER BY groupid
"""
COORDINATOR = "SELECT nodename AS host, nodeport AS port FROM pg_dist_node WHERE groupid = 0"
SET_COORDINATOR = "SELECT citus_set_coordinator_host($1, $2)"
ADD_NODE = "SELECT citus_add_node($1, $2)"
# What an administrator lets the owner do once, so that `distribute` needs no superuser.
ALLOW = f"""
GRANT ALTER SYSTEM ON PARAMETER citus.recover_2pc_interval TO {OWNER};
GRANT EXECUTE ON FUNCTION pg_reload_conf() TO {OWNER};
"""
ROLES_LOCK = "SELECT pg_advisory_lock(hashtext('roles of the tests'))"
RECOVER = "SELECT recover_prepared_transactions()"


def at(url: str, host: str, port: int, database: str = "") -> str:
    """Returns the URL of another node for the same login, and of another database if one is named."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    where = f"{login}@{host}:{port}" if login else f"{host}:{port}"
    path = f"/{quote(database)}" if database else parts.path
    return urlunsplit(parts._replace(netloc=where, path=path))


async def node_urls(url: str) -> list[str]:
    """Returns the URLs of the cluster's nodes, the coordinator first, from a database that has them as its nodes."""
    async with connected(url) as conn:
        first = await conn.fetchrow(COORDINATOR)
        workers = await conn.fetch(WORKERS)
    coordinator = at(url, first["host"], first["port"]) if first else url
    return [coordinator, *(at(url, row["host"], row["port"]) for row in workers)]


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connects, and ends the connection after."""
    conn = await asyncpg.connect(url, statement_cache_size=0)
    try:
        yield conn
    finally:
        await conn.close()


async def create_logins(url: str, passwords: Mapping[str, str]) -> None:
    """Creates the roles on the coordinator, from where they go to the workers."""
    async with connected(url) as conn:
        await conn.execute(ROLES_LOCK)
        await ensure_logins(conn, passwords)


async def create_database(url: str, name: str, *, joined: bool = True, workers: int | None = None) -> None:
    """Creates a database on every node, with the extension, and joins them, or so many workers, unless told not to."""
    nodes = await node_urls(url)
    for node in nodes:
        async with connected(node) as conn:
            await ensure_database(conn, name)
        async with connected(database_at(node, name)) as conn:
            await conn.execute("CREATE EXTENSION citus")
    parts = [urlsplit(node) for node in nodes]
    async with connected(database_at(nodes[0], name)) as conn:
        await conn.execute(ALLOW)
        if joined:
            await conn.execute(SET_COORDINATOR, parts[0].hostname, parts[0].port)
            for part in parts[1:] if workers is None else parts[1 : workers + 1]:
                await conn.execute(ADD_NODE, part.hostname, part.port)


async def drop_database(url: str, name: str) -> None:
    """Drops the database on every node, and what was prepared in it and never committed."""
    nodes = await node_urls(url)
    with contextlib.suppress(asyncpg.PostgresError):  # a database that was never joined has nothing to recover
        async with connected(database_at(nodes[0], name)) as conn:
            await conn.execute(RECOVER)
    for node in nodes:
        await until(partial(_dropped, node, name))


async def _dropped(node: str, name: str) -> bool:
    """Tries to drop it; a process of the extension may need longer to end than the server waits for it."""
    async with connected(node) as conn:
        try:
            await conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        except asyncpg.ObjectInUseError:
            return False
    return True


@contextlib.asynccontextmanager
async def cluster_database(url: str, passwords: Mapping[str, str] | None = None) -> AsyncIterator[str]:
    """Gives the owner's URL of a fresh empty database on all nodes of the cluster, and drops it after.

    `url` is a superuser's, of a database of the coordinator that has the nodes; without `passwords` the logins, which
    all databases share, get new ones.
    """
    if passwords is None:
        passwords = {login: secrets.token_urlsafe(16) for login in (OWNER, *LOGINS)}
        await create_logins(url, passwords)
    name = f"mdw_test_{secrets.token_hex(6)}"
    await create_database(url, name)
    try:
        yield with_login(url, OWNER, passwords[OWNER], name)
    finally:
        await drop_database(url, name)


def database_at(url: str, name: str) -> str:
    """Returns the URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{quote(name)}"))
