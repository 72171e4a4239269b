"""The long run of tests/e2e/test_fuzz.py: hundreds of random requests to each RPC; a failure prints how to replay it.

Not collected by `make test`: `python -m pytest tests/faults/fuzz.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.e2e.test_fuzz import QUIET, fuzz

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

VALUES, BYTES = 200, 60


async def test_no_request_gets_more_than_a_clean_refusal(database):
    await fuzz(database, settings(QUIET, derandomize=False, print_blob=True), VALUES, BYTES)
