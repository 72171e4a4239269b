"""Fixtures of the symbols service's tests: a running service, and what its callers hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from mdw.symbols.v1 import symbols_pb2_grpc
from mdw_client.channel import aio_channel
from services.symbols.__main__ import build
from services.symbols.settings import SymbolsSettings
from tests.support import auth_serving, environment, make_key, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def auth_target(database) -> AsyncIterator[str]:
    """The address of an auth service in this process."""
    async with auth_serving(database) as target:
        yield target


@pytest.fixture
async def target(database, auth_target: str) -> AsyncIterator[str]:
    """The address of a symbols service in this process."""
    secret = await make_key(database, "service", name="symbols")
    variables = environment(database.symbols_url, auth_target=auth_target, service_key=secret)
    async with serving(await build(SymbolsSettings.from_environment(variables))) as address:
        yield address


@pytest.fixture
async def admin(database) -> str:
    """The secret of an administrator."""
    return await make_key(database, "admin", name="admin")


@pytest.fixture
async def symbols(target: str, admin: str) -> AsyncIterator[Any]:
    """The service's stub, with an administrator's key."""
    async with aio_channel(target, key=admin) as channel:
        yield symbols_pb2_grpc.SymbolServiceStub(channel)


@pytest.fixture
async def admin_db(database) -> AsyncIterator[asyncpg.Connection]:
    """A connection that may do everything."""
    conn = await asyncpg.connect(database.admin_url)
    yield conn
    await conn.close()
