"""What the move means for those who work meanwhile: parts end first, no slice is handed out, reads go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.citus.moving import BOTH, distributed, fill, rows
from tests.migrator.support import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.citus.conftest import Joined
    from tests.migrator.conftest import Command

    Start = Callable[..., Awaitable[asyncio.subprocess.Process]]

SLICE = """
INSERT INTO ingest.slices (kind, state, priority, symbol_id, timeframe, first_date, last_date, lease_until)
VALUES (2, 2, 3, NULL, 1, '2024-01-02', '2024-01-02', clock_timestamp() + $1::interval)
"""
END = "UPDATE ingest.slices SET state = 3, lease_until = NULL, end_time = clock_timestamp()"
CLAIM = "SELECT count(*) FROM ingest.claim_slice('{2}', 'test', '1 min')"
BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%claim_slice%' AND wait_event_type = 'Lock'"


@pytest.fixture
async def working(joined: Joined) -> AsyncIterator[asyncpg.Connection]:
    """A connection as a worker has it."""
    conn = await asyncpg.connect(joined.url("mdw_ingest_login"))
    yield conn
    conn.terminate()


async def test_slices_under_way_end_first_and_none_is_handed_out_meanwhile(
    joined: Joined, owner: asyncpg.Connection, admin: asyncpg.Connection, working: asyncpg.Connection, start: Start
) -> None:
    before = await fill(owner)
    await owner.execute(
        "INSERT INTO ingest.slices (kind, priority, first_date, last_date) VALUES (2, 3, '2024-01-03', '2024-01-03')"
    )
    await owner.execute(SLICE.replace("$1", "'1 hour'"))
    process = await start(joined.url(), "distribute")
    assert process.stdout is not None
    while b"waiting for 1 slices under way" not in await asyncio.wait_for(process.stdout.readline(), 60):
        pass
    claim = asyncio.ensure_future(working.fetchval(CLAIM))
    await until(lambda: admin.fetchval(BLOCKED), within=60)
    assert await rows(owner) == before  # who only reads is not held up
    assert await distributed(owner) == []
    await owner.execute(END + " WHERE state = 2")
    assert await asyncio.wait_for(process.wait(), 120) == 0
    assert await asyncio.wait_for(claim, 60) == 0  # no job wants the slice: it was looked at, and the claim ended
    assert sorted(await distributed(owner)) == BOTH
    assert await rows(owner) == before


async def test_a_lease_that_has_expired_is_not_waited_for(
    joined: Joined, owner: asyncpg.Connection, command: Command
) -> None:
    await owner.execute(SLICE.replace("$1", "'-1 s'"))
    assert (await command(joined.url(), "distribute")).code == 0


async def test_it_gives_up_on_slices_that_do_not_end(
    joined: Joined, owner: asyncpg.Connection, command: Command
) -> None:
    await owner.execute(SLICE.replace("$1", "'1 hour'"))
    ended = await command(joined.url(), "distribute", "--retry-for", "0.5")
    assert ended.code == 75
    assert "1 slices are still worked on; nothing was moved" in ended.err
    assert await distributed(owner) == []


async def test_a_writer_that_stays_is_given_up_on(
    joined: Joined, owner: asyncpg.Connection, working: asyncpg.Connection, command: Command
) -> None:
    await working.execute("BEGIN; UPDATE ingest.bars SET flags = 0 WHERE symbol_id = 1")
    ended = await command(joined.url(), "distribute", "--retry-for", "0.5")
    assert ended.code == 75
    assert "nothing was moved" in ended.err
    assert await distributed(owner) == []
