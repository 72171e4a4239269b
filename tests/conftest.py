"""Fixtures: one Postgres and one migrated database a session, emptied between tests."""

from __future__ import annotations

import os
import random
import secrets
from dataclasses import dataclass
from graphlib import TopologicalSorter
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from deploy.local.postgres import FAST_SETTINGS, EmbeddedPostgres
from deploy.local.roles import LOGINS, OWNER, ensure_database, ensure_logins, with_login
from migrator import cli, runner
from migrator.usage import parse
from tests.citus.databases import create_database, drop_database
from tests.pooler import front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TABLES = """
SELECT n.nspname || '.' || c.relname AS name, c.oid::bigint AS oid
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('auth', 'symbols', 'ingest')
  AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition
ORDER BY 1
"""
REFERENCES = (
    "SELECT conrelid::bigint AS child, confrelid::bigint AS parent FROM pg_catalog.pg_constraint WHERE contype = 'f'"
)
# The URL of a Citus coordinator, as a superuser: `database` and `empty_database` are then on all nodes of that cluster,
# and the bars of `database` are distributed.
CITUS_URL = os.environ.get("CITUS_URL", "")
if CITUS_URL:
    os.environ.setdefault("PGSSLMODE", "disable")  # proxies of the tests read what goes through them
# An example may take as long as a busy machine needs for it, and the examples are the same in every run.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
# Children are started while gRPC's threads run, and what it does around a fork crashes one of them now and then.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Their rows are the migrations' own and no test changes them.
BARS = {"ingest.bars", "ingest.bar_revisions"}
UNTOUCHED = {"ingest.sessions", "auth.token_key", "symbols.token_key", "ingest.token_key"}


@dataclass(frozen=True)
class PostgresServer:
    """The server of the session: `admin_url` may create roles and databases."""

    admin_url: str
    passwords: dict[str, str]

    def url(self, database: str, user: str | None = None) -> str:
        """Returns the URL of a database for one of the roles, default the admin."""
        if user is None:
            return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{database}"))
        return with_login(self.admin_url, user, self.passwords[user], database)


@dataclass(frozen=True)
class MigratedDatabase:
    """A database at the newest schema version, as each role reaches it."""

    name: str
    admin_url: str
    owner_url: str
    auth_url: str
    symbols_url: str
    ingest_url: str


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    """The server CITUS_URL or DATABASE_URL names, else an embedded one that lasts as long as the session."""
    embedded = None
    admin_url = CITUS_URL or os.environ.get("DATABASE_URL", "")
    if not admin_url:
        embedded = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings=FAST_SETTINGS)
        embedded.start()
        admin_url = embedded.url()
    # Processes that share a server share its roles, and so their passwords.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_urlsafe(16)
    passwords = {login: sha256(f"{run} {login}".encode()).hexdigest() for login in (OWNER, *LOGINS)}
    server = PostgresServer(admin_url, passwords)
    conn = await asyncpg.connect(admin_url)
    await conn.execute("SELECT pg_advisory_lock(hashtext('roles of the tests'))")
    await ensure_logins(conn, server.passwords)
    await conn.close()
    yield server
    if embedded:
        embedded.stop()


async def _new_database(server: PostgresServer) -> str:
    name = f"mdw_test_{secrets.token_hex(6)}"
    if CITUS_URL:
        await create_database(CITUS_URL, name)
        return name
    conn = await asyncpg.connect(server.admin_url)
    await ensure_database(conn, name)
    await conn.close()
    return name


async def _drop_database(server: PostgresServer, name: str) -> None:
    if CITUS_URL:
        await drop_database(CITUS_URL, name)
        return
    conn = await asyncpg.connect(server.admin_url)
    await conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await conn.close()


@pytest.fixture
async def empty_database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The owner's URL of a fresh empty database, dropped after the test."""
    name = await _new_database(postgres)
    yield postgres.url(name, OWNER)
    await _drop_database(postgres, name)


@pytest.fixture(scope="session")
async def database(postgres: PostgresServer) -> AsyncIterator[MigratedDatabase]:
    """The session's migrated database; `clean` empties it before each test that uses it."""
    name = await _new_database(postgres)
    await runner.up(postgres.url(name, OWNER))
    if CITUS_URL:
        await distribute(postgres.url(name, OWNER))
    with front(postgres.admin_url, postgres.passwords) as lead:
        auth, symbols, ingest = (lead(postgres.url(name, login)) for login in LOGINS)
        yield MigratedDatabase(name, postgres.url(name), postgres.url(name, OWNER), auth, symbols, ingest)
    await _drop_database(postgres, name)


async def distribute(owner_url: str) -> None:
    """Moves the bars of a migrated database to the nodes of its cluster."""
    conn = await asyncpg.connect(owner_url)
    # As services/kit/db.py does for each connection of a service.
    await conn.execute(f'ALTER DATABASE "{urlsplit(owner_url).path[1:]}" SET citus.override_table_visibility = off')
    await conn.close()
    assert await cli.execute(parse(["distribute"]), {"DATABASE_URL": owner_url}) == 0


RESTORE = "INSERT INTO {0} SELECT * FROM jsonb_populate_recordset(NULL::{0}, $1::text::jsonb)"


def _children_first(tables: dict[int, str], references: list[tuple[int, int]]) -> list[str]:
    order = TopologicalSorter({oid: set[int]() for oid in tables})
    for child, parent in references:
        if child != parent and child in tables and parent in tables:
            order.add(parent, child)
    return [tables[oid] for oid in order.static_order()]


class Cleaner:
    """Puts the tables back to what the migrations left in them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._deletes = ""
        self._seeds: list[tuple[str, str]] = []

    async def open(self) -> None:
        """Connects."""
        settings = {"lock_timeout": "60s", "application_name": "tests clean"}
        self._conn = await asyncpg.connect(self._url, server_settings=settings)

    async def close(self) -> None:
        await self._conn.close()

    async def learn(self) -> None:
        """Notes the tables, children first, and the rows that migrations put there."""
        tables = {row["oid"]: row["name"] for row in await self._conn.fetch(TABLES)}
        references = [(row["child"], row["parent"]) for row in await self._conn.fetch(REFERENCES)]
        names = [name for name in _children_first(tables, references) if name not in UNTOUCHED]
        self._deletes = ";".join(f"DELETE FROM {name}" for name in names)
        for name in reversed(names):
            if name in BARS:
                continue
            rows = await self._conn.fetchval(f"SELECT jsonb_agg(to_jsonb(t))::text FROM {name} AS t")
            if rows:
                self._seeds.append((RESTORE.format(name), rows))

    async def clean(self) -> None:
        if self._conn.is_closed():  # tests of a cluster kill its servers
            await self.open()
        async with self._conn.transaction():
            await self._conn.execute(self._deletes)
            for statement, rows in self._seeds:
                await self._conn.execute(statement, rows)


@pytest.fixture(scope="session")
async def _cleaner(database: MigratedDatabase) -> AsyncIterator[Cleaner]:
    cleaner = Cleaner(database.admin_url)
    await cleaner.open()
    await cleaner.learn()
    yield cleaner
    await cleaner.close()


@pytest.fixture
async def _emptied(_cleaner: Cleaner) -> None:
    await _cleaner.clean()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> None:
    """Empties the database before each test that uses it."""
    if "database" in request.fixturenames:
        request.getfixturevalue("_emptied")


@pytest.fixture(autouse=True)
def drawn(request: pytest.FixtureRequest) -> None:
    """Lets a test draw the same at random in every run; with SEED=7, and so on, something else."""
    random.seed(request.node.nodeid + os.environ.get("SEED", ""))
