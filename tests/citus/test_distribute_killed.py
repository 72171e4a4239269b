"""Killed anywhere, the move is whole or not there, no row is lost or doubled, and the next run finishes."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.citus.moving import BOTH, LEFT_HERE, distributed, fill, rows
from tests.migrator.support import lock_is_free, running, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.citus.conftest import Joined
    from tests.migrator.conftest import Command

    Start = Callable[..., Awaitable[asyncio.subprocess.Process]]

WITHIN = 60.0  # seconds
# Stops each step in its middle: the first two write there, the others want the table for themselves.
STOPPED = [
    ("create_distributed_table", "LOCK TABLE pg_dist_shard IN EXCLUSIVE MODE", []),
    ("undistribute_table", "LOCK TABLE pg_dist_shard IN EXCLUSIVE MODE", ["--undo"]),
    ("truncate_local_data", "LOCK TABLE ingest.bars IN ACCESS SHARE MODE", []),
]


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    out, err = await process.communicate()
    return process.returncode, (out + err).decode()


@pytest.fixture
def programs(command: Command, start: Start) -> tuple[Command, Start]:
    """A migrator in this process, and one in a process of its own."""
    return command, start


@pytest.mark.parametrize("case", STOPPED, ids=lambda case: case[0])
async def test_killed_in_a_step_the_next_run_finishes(
    joined: Joined,
    owner: asyncpg.Connection,
    admin: asyncpg.Connection,
    programs: tuple[Command, Start],
    case: tuple[str, str, list[str]],
) -> None:
    (command, start), (step, obstacle, arguments) = programs, case
    before = await fill(owner)
    if arguments:
        assert (await command(joined.url(), "distribute")).code == 0
    await admin.execute("BEGIN")
    await admin.execute(obstacle)
    process = await start(joined.url(), "distribute", *arguments)
    await until(lambda: running(owner, step), within=WITHIN)
    process.kill()
    await process.wait()
    await until(lambda: lock_is_free(owner), within=WITHIN)
    await admin.execute("ROLLBACK")
    assert len(await distributed(owner)) in {0, 2}
    assert await rows(owner) == before
    assert (await command(joined.url(), "distribute", *arguments)).code == 0
    assert sorted(await distributed(owner)) == ([] if arguments else BOTH)
    assert await rows(owner) == before
    if not arguments:
        assert await owner.fetchval(LEFT_HERE) == 0
    assert (await command(joined.url(), "verify")).code == 0


async def test_killed_at_random_points_the_rows_are_always_the_same(
    joined: Joined, owner: asyncpg.Connection, start: Start
) -> None:
    before = await fill(owner)
    chance = random.Random(21)
    for number in range(6):
        arguments = ["--undo"] if number % 2 else []
        process = await start(joined.url(), "distribute", *arguments)
        await asyncio.sleep(chance.uniform(0.3, 3.0))  # wherever it is then, what follows holds
        if process.returncode is None:
            process.kill()
        await process.wait()
        assert await rows(owner) == before
        code, said = await ended(await start(joined.url(), "distribute", *arguments))
        assert code == 0, said
        assert len(await distributed(owner)) == (0 if arguments else 2)
        assert await rows(owner) == before


async def test_a_reader_who_stays_keeps_the_local_copy_and_the_next_run_frees_it(
    joined: Joined, owner: asyncpg.Connection, admin: asyncpg.Connection, command: Command
) -> None:
    before = await fill(owner)
    await admin.execute("BEGIN; LOCK TABLE ingest.bars IN ACCESS SHARE MODE")
    gave_up = await command(joined.url(), "distribute", "--retry-for", "1")
    assert gave_up.code == 75
    assert "the table has moved, and works" in gave_up.err
    assert await rows(owner) == before
    assert "is not freed: run distribute again" in (await command(joined.url(), "status")).out
    await admin.execute("ROLLBACK")
    assert (await command(joined.url(), "distribute")).code == 0
    assert await owner.fetchval(LEFT_HERE) == 0
    assert await rows(owner) == before
