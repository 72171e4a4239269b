"""Long runs of the models: keys over two replicas, jobs and their slices, a database's migrations.

A failure prints how to replay it.

Not collected by `make test`: `python -m pytest tests/faults/life_cycles.py`.
"""

from __future__ import annotations

import asyncpg
import pytest
from hypothesis import settings

from tests.auth import test_life_cycle
from tests.ingest import test_job_life
from tests.ingest.backfilling import ingest_running
from tests.migrator import test_story
from tests.support import auth_serving

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

MANY = {"derandomize": False, "print_blob": True, "stateful_step_count": 50}


async def test_keys_live_as_the_model_says(database):
    await test_life_cycle.live(database, settings(test_life_cycle.QUIET, max_examples=60, **MANY))


async def test_jobs_and_slices_agree_after_every_step(database):
    async with auth_serving(database) as target, ingest_running(database, target) as ingest:
        await test_job_life.live(ingest, settings(test_job_life.QUIET, max_examples=60, **MANY))


async def test_a_database_is_what_its_story_says(empty_database, tmp_path):
    conn = await asyncpg.connect(empty_database)
    await test_story.tell(empty_database, tmp_path, conn, settings(test_story.QUIET, max_examples=100, **MANY))
    await conn.close()
