"""The tests of the services behind pgbouncer in transaction mode: the same ones pass as without it.

Not collected by `make test`: `python -m pytest tests/faults/pooler.py`. It needs pgbouncer on the PATH; `make faults`
says so where there is none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from migrator.errors import MigratorError
from migrator.runner import up
from tests.pooler import pooling
from tests.proxy import through

FOLDERS = ("tests/auth", "tests/kit", "tests/symbols", "tests/ingest", "tests/e2e")
ELSEWHERE = (
    # What it sets for a session stays with one server connection, and a pooler hands out another.
    "tests/kit/test_db.py::test_a_read_only_primary_costs_the_pool_its_connections",
)


def test_the_services_do_behind_a_pooler_what_they_do_without():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "--show-capture=no"]
    left_out = [part for name in ELSEWHERE for part in ("--deselect", name)]
    environ = {**os.environ, "TESTS_POOLER": "1"}
    done = subprocess.run(
        [*command, *left_out, *FOLDERS],
        env=environ,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    print("\n" + done.stdout.strip().splitlines()[-1])  # noqa: T201
    assert done.returncode == 0, done.stdout[-5_000:]


async def test_the_migrator_refuses_a_pooler_and_changes_nothing(postgres, empty_database):
    with pooling(postgres.admin_url, postgres.passwords) as port, pytest.raises(MigratorError, match="pooler"):
        await up(through(empty_database, port))
    conn = await asyncpg.connect(empty_database)
    assert await conn.fetchval("SELECT to_regclass('migrator.history')") is None
    await conn.close()
