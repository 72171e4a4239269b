"""A standby takes the place of its primary while callers write; the long form is tests/faults/failover.py."""

from __future__ import annotations

from tests.faults.failover import fail_over
from tests.standby import replicated
from tests.waiting import LONG


async def test_writes_go_on_after_a_promotion_and_nothing_that_was_answered_is_lost(tmp_path):
    """The address moves; the old primary stays up and refuses writes."""
    async with replicated(tmp_path) as pair:
        await fail_over(pair, moves=True, gone=False, within=LONG)
