"""What the tests on a cluster share; without CITUS_URL none of them is collected."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import pytest

from deploy.local.roles import LOGINS, OWNER, with_login
from migrator import runner
from tests.citus.databases import create_database, create_logins, database_at, drop_database, node_urls
from tests.citus.nodes import CAN_KILL, Node
from tests.conftest import MigratedDatabase, distribute
from tests.migrator.conftest import command, connect, folder, start  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import PostgresServer

CITUS_URL = os.environ.get("CITUS_URL", "")
collect_ignore_glob = [] if CITUS_URL else ["test_*.py"]
if not CAN_KILL:
    collect_ignore_glob.append("test_nodes_*.py")
if "CITUS_SMALL_FOLDER" not in os.environ:
    collect_ignore_glob.append("test_full_disk.py")


@dataclass(frozen=True)
class Joined:
    """A database on every node of the cluster."""

    name: str
    nodes: tuple[str, ...]
    passwords: dict[str, str]

    def url(self, user: str | None = OWNER, node: int = 0) -> str:
        """Returns the URL for one of the roles, None the administrator; node 0 is the coordinator."""
        url = database_at(self.nodes[node], self.name)
        return url if user is None else with_login(url, user, self.passwords[user])


@pytest.fixture(scope="session")
async def _passwords(postgres: PostgresServer) -> dict[str, str]:
    """The session's passwords, which one server's roles share whatever their database."""
    await create_logins(CITUS_URL, postgres.passwords)
    return postgres.passwords


@pytest.fixture
async def apart(_passwords: dict[str, str]) -> AsyncIterator[Joined]:
    """A fresh empty database on every node, with the extension, but not joined yet; dropped after the test."""
    name = f"mdw_test_{secrets.token_hex(6)}"
    await create_database(CITUS_URL, name, joined=False)
    yield Joined(name, tuple(await node_urls(CITUS_URL)), _passwords)
    await drop_database(CITUS_URL, name)


@pytest.fixture
async def joined(_passwords: dict[str, str]) -> AsyncIterator[Joined]:
    """A fresh migrated database of the whole cluster, dropped after the test."""
    name = f"mdw_test_{secrets.token_hex(6)}"
    await create_database(CITUS_URL, name)
    database = Joined(name, tuple(await node_urls(CITUS_URL)), _passwords)
    await runner.up(database.url())
    yield database
    await drop_database(CITUS_URL, name)


@pytest.fixture
async def owner(joined: Joined) -> AsyncIterator[asyncpg.Connection]:
    """The owner's connection to the coordinator."""
    conn = await asyncpg.connect(joined.url(), statement_cache_size=0)
    yield conn
    conn.terminate()


@pytest.fixture
async def admin(joined: Joined) -> AsyncIterator[asyncpg.Connection]:
    """The administrator's connection to the coordinator."""
    conn = await asyncpg.connect(joined.url(None), statement_cache_size=0)
    yield conn
    conn.terminate()


async def distributed_database(joined: Joined) -> MigratedDatabase:
    """Distributes the bars of a fresh database of the cluster; returns it as each role reaches it."""
    await distribute(joined.url())
    return MigratedDatabase(joined.name, joined.url(None), joined.url(), *(joined.url(login) for login in LOGINS))


@pytest.fixture
async def warehouse(joined: Joined) -> MigratedDatabase:
    """A fresh database of the cluster, its bars distributed."""
    return await distributed_database(joined)


@pytest.fixture
async def nodes(joined: Joined, warehouse: MigratedDatabase) -> AsyncIterator[list[Node]]:
    """All nodes, the coordinator first; those that a test left down are started again."""
    made = [Node(number, url) for number, url in enumerate(joined.nodes)]
    yield made
    for node in made:
        if not await node.answers():
            await node.start()
