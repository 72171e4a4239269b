"""The limiter: never more than set in any sliding minute, whoever asks; a minute is shorter here."""

from __future__ import annotations

import asyncio
import time
from math import inf

import pytest

from services.ingest.store.limiter import GRANT_SECONDS, Limiter
from services.kit.db import Database

SLOTS, MINUTE = 5, 0.4


@pytest.fixture
async def db(database):
    opened = await Database.open(database.ingest_url, size=16, acquire_timeout=10)
    await opened.execute("DELETE FROM ingest.limiter")
    yield opened
    await opened.close()


async def make(db, per_minute=SLOTS, minute=MINUTE):
    limiter = Limiter(db, per_minute, slot_seconds=minute)
    await limiter.prepare()
    return limiter


async def test_sixteen_clients_never_get_more_than_the_limit_in_any_window(db):
    limiter = await make(db)
    grants = []

    async def client():
        while len(grants) <= 3 * SLOTS:
            grant = await limiter.take()
            if grant:
                grants.append(grant.grant_time)
            await asyncio.sleep(0.005)

    await asyncio.gather(*(client() for _ in range(16)))
    grants.sort()
    for first, beyond in zip(grants, grants[SLOTS:], strict=False):
        assert (beyond - first).total_seconds() >= MINUTE


async def test_all_slots_may_be_used_at_once_and_then_none(db):
    limiter = await make(db, minute=60)
    assert [bool(await limiter.take()) for _ in range(SLOTS + 1)] == [True] * SLOTS + [False]
    assert 50 < await limiter.wait() <= 60


async def test_a_restart_forgets_nothing(db):
    limiter = await make(db, minute=60)
    for _ in range(SLOTS):
        await limiter.take()
    assert await (await make(db, minute=60)).take() is None


async def test_a_lowered_limit_counts_what_was_granted_under_the_higher_one(db):
    higher = await make(db, per_minute=8, minute=60)
    for _ in range(6):
        await higher.take()
    assert await (await make(db, minute=60)).take() is None


async def test_a_grant_that_is_given_back_can_be_granted_again(db):
    limiter = await make(db, per_minute=1, minute=60)
    grant = await limiter.take()
    assert await limiter.take() is None
    await limiter.give_back(grant)
    assert await limiter.take()


async def test_the_second_of_a_grant_runs_from_before_it_was_asked_for(db):
    """What the statement itself takes comes off the second."""
    limiter = await make(db)
    before = time.monotonic()
    grant = await limiter.take()
    after = time.monotonic()
    assert before + GRANT_SECONDS <= grant.sent_by < after + GRANT_SECONDS


async def test_no_limit_means_no_waiting(db):
    limiter = await make(db, per_minute=0)
    assert (await limiter.take()).sent_by == inf
    await limiter.give_back(await limiter.take())
    assert await limiter.wait() == 0
