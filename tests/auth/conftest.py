"""Fixtures of the auth service's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support import auth_serving, make_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="module")
async def target(database) -> AsyncIterator[str]:
    """The address of an auth service in this process, for all tests of a module."""
    async with auth_serving(database) as target:
        yield target


@pytest.fixture
async def channel(target: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield channel


@pytest.fixture
async def admin(database) -> str:
    """The secret of an administrator."""
    return await make_key(database, "admin", name="admin")
