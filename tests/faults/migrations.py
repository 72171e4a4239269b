"""Two migrators at once on an empty database, one of them killed at a random moment, again and again.

Not collected by `make test`: `python -m pytest tests/faults/migrations.py`.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from random import Random
from typing import Any

import asyncpg
import pytest

from deploy.local.roles import OWNER, ensure_database
from tests.migrator.conftest import REPOSITORY
from tests.waiting import LONG

ROUNDS = 20
EACH_ONCE = "SELECT count(*) = max(version) AND bool_and(state = 'APPLIED') FROM migrator.history"


async def start(url: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "migrator",
        *arguments,
        cwd=REPOSITORY,
        env={"DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    async with asyncio.timeout(5 * LONG):
        out, err = await process.communicate()
    return process.returncode or 0, (out + err).decode()


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_one_of_two_migrators_is_killed_and_the_schema_is_that_of_a_clean_run(postgres: Any, seed: int):
    chance, name = Random(seed), f"mdw_faults_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(postgres.admin_url)
    await ensure_database(admin, name)
    url = postgres.url(name, OWNER)
    try:
        one, two = await start(url, "up"), await start(url, "up")
        await asyncio.sleep(chance.uniform(0.2, 2.5))
        if one.returncode is None:
            one.kill()
        await ended(one)
        code, said = await ended(two)
        assert code == 0, said
        code, said = await ended(await start(url, "up"))
        assert code == 0, said
        code, said = await ended(await start(url, "verify"))
        assert code == 0, said
        conn = await asyncpg.connect(url)
        assert await conn.fetchval(EACH_ONCE)
        await conn.close()
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.close()
