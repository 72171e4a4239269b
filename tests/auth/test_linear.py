"""Uses, revocations, restorations and rotations of a key, over several replicas, happen in one order."""

from __future__ import annotations

from contextlib import AsyncExitStack

import grpc
import pytest

from tests.auth.linear import Change, History, Use, record
from tests.support import auth_serving, make_key

MADE = Change(1, valid=True, start=0, end=1)
REVOKED = Change(2, valid=False, start=4, end=6)
RESTORED = Change(3, valid=True, start=8, end=9.5)


@pytest.mark.parametrize(
    ("uses", "explained"),
    [
        ([Use(valid=True, start=2, end=3), Use(valid=False, start=7, end=8)], True),
        ([Use(valid=True, start=3, end=5), Use(valid=False, start=5, end=7)], True),
        ([Use(valid=True, start=5, end=9)], True),
        ([Use(valid=True, start=7, end=7.9)], False),  # after the revocation had returned
        ([Use(valid=False, start=2, end=3)], False),  # before it began
        ([Use(valid=True, start=10, end=11)], True),  # restored
        ([Use(valid=False, start=10, end=11)], True),  # so lately that a process may not have noticed
        ([Use(valid=False, start=12, end=13)], False),  # and that it must have
        ([Use(valid=True, start=8.1, end=8.2), Use(valid=True, start=8.3, end=8.4)], True),
    ],
)
def test_the_check_finds_what_no_order_explains(uses, explained):
    assert (History([MADE, REVOKED, RESTORED], uses).explained() == "") == explained


async def test_every_history_over_three_replicas_is_explained_by_one_order(database):
    admin = await make_key(database)
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(auth_serving(database)) for _ in range(3)]
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(target)) for target in targets]
        for _ in range(3):
            history = await record(channels, admin, changes=6)
            assert history.explained() == ""
            assert {use.valid for use in history.uses} == {True, False}
