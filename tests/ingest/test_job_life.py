"""Jobs and slices agree after every step, whatever callers and workers do in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.bridge import Bridge, in_thread
from tests.ingest.job_life import TICKERS, JobLife

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

QUIET = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), stateful_step_count=25
)


async def live(ingest, options: settings) -> None:
    """Runs so many lives against one service."""
    for ticker in TICKERS:
        await ingest.symbol(ticker)
    machine = type("JobLife", (JobLife,), {"bridge": Bridge(), "ingest": ingest})
    await in_thread(lambda: run_state_machine_as_test(machine, settings=options))


async def test_jobs_and_slices_agree_after_every_step(ingest):
    await live(ingest, settings(QUIET, max_examples=8))
