"""A key's life in any order of steps, over two replicas, is what a model of four facts says."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.auth.life import Life
from tests.bridge import Bridge, in_thread
from tests.support import auth_serving, make_key

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

QUIET = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), stateful_step_count=20
)


async def live(database, options: settings) -> None:
    """Runs so many lives against two auth services over one database."""
    service = await make_key(database, "service", name="service")
    async with (
        auth_serving(database) as one,
        auth_serving(database) as two,
        grpc.aio.insecure_channel(one) as a,
        grpc.aio.insecure_channel(two) as b,
    ):
        facts = {"bridge": Bridge(), "channels": [a, b], "database": database, "service": service}
        machine = type("Life", (Life,), facts)
        await in_thread(lambda: run_state_machine_as_test(machine, settings=options))


async def test_keys_live_as_the_model_says(database):
    await live(database, settings(QUIET, max_examples=6))
