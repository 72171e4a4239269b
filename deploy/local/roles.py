"""Creates the database, its owner and the services' login roles: what compose and CloudNativePG declare elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

OWNER = "mdw_owner"
LOGINS = {"mdw_auth_login": "mdw_auth", "mdw_symbols_login": "mdw_symbols", "mdw_ingest_login": "mdw_ingest"}

ROLE_EXISTS = "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1"
DATABASE_EXISTS = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1"
CREATE_GROUP = "SELECT format('CREATE ROLE %I NOLOGIN', $1::text)"
CREATE_LOGIN = "SELECT format('CREATE ROLE %I LOGIN', $1::text)"
SET_PASSWORD = "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)"  # noqa: S105 - no password
JOIN_GROUP = "SELECT format('GRANT %I TO %I', $1::text, $2::text)"
CREATE_DATABASE = "SELECT format('CREATE DATABASE %I OWNER %I', $1::text, $2::text)"


async def ensure_logins(conn: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    """Creates the groups and the logins named in `passwords`, and sets these passwords; needs CREATEROLE."""
    for group in LOGINS.values():
        if not await conn.fetchval(ROLE_EXISTS, group):
            await _run(conn, CREATE_GROUP, group)
    for login, password in passwords.items():
        if not await conn.fetchval(ROLE_EXISTS, login):
            await _run(conn, CREATE_LOGIN, login)
        await _run(conn, SET_PASSWORD, login, password)
        if login in LOGINS:
            await _run(conn, JOIN_GROUP, LOGINS[login], login)


async def ensure_database(conn: asyncpg.Connection, name: str, owner: str = OWNER) -> None:
    """Creates the database if it is absent."""
    if not await conn.fetchval(DATABASE_EXISTS, name):
        await _run(conn, CREATE_DATABASE, name, owner)


async def _run(conn: asyncpg.Connection, template: str, *names: str) -> None:
    await conn.execute(await conn.fetchval(template, *names))


def with_login(url: str, login: str, password: str, database: str = "") -> str:
    """Returns the URL of the same server for another login, and another database if one is named."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    path = f"/{quote(database)}" if database else parts.path
    return urlunsplit(parts._replace(netloc=f"{quote(login)}:{quote(password, safe='')}@{host}", path=path))
