"""Files that come, change and go, and runs that succeed, fail or are cut off: the history is what a model says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.bridge import Bridge, in_thread
from tests.migrator.story import Story

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.migrator.conftest import Folder

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

QUIET = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), stateful_step_count=20
)


async def tell(url: str, folder: Path, conn: asyncpg.Connection, options: settings) -> None:
    """Tells so many stories of one database."""
    facts = {"bridge": Bridge(), "url": url, "folder": folder, "conn": conn}
    machine = type("Story", (Story,), facts)
    await in_thread(lambda: run_state_machine_as_test(machine, settings=options))


async def test_a_database_is_what_its_story_says(empty_database: str, folder: Folder, conn: asyncpg.Connection) -> None:
    await tell(empty_database, folder.path, conn, settings(QUIET, max_examples=6))
