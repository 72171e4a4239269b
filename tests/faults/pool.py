"""The long run of tests/ingest/test_faulty_pool.py: many seeds and higher rates.

Not collected by `make test`: `python -m pytest tests/faults/pool.py`.
"""

from __future__ import annotations

import pytest

from tests.ingest.test_faulty_pool import under_fire


@pytest.mark.parametrize("seed", range(100, 115))
async def test_a_worker_whose_statements_get_lost_ends_in_the_same_tables(database, seed):
    assert await under_fire(database, seed, error=0.02, lost=0.03, late=0.02) > 0
