"""Partitions ahead, retention, usage folded, heads in the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from services.auth.housekeeping import DAYS_AHEAD, Housekeeping
from services.auth.store.audit import AuditStore
from services.auth.store.keys import KeyStore
from services.kit.db import Database
from services.kit.requests import Requests
from tests.auth.test_audit import fill, row
from tests.support import make_key

PART = "CREATE TABLE auth.{0}_{1} PARTITION OF auth.{0} FOR VALUES FROM ('{2} 00:00:00+00') TO ('{3} 00:00:00+00')"


@pytest.fixture
async def db(database):
    db = await Database.open(database.auth_url)
    yield db
    await db.close()


@pytest.fixture
def house(db) -> Housekeeping:
    return Housekeeping(audit=AuditStore(db), keys=KeyStore(db), requests=Requests("auth"), db=db, retention_days=400)


@pytest.fixture
async def owner(database):
    conn = await asyncpg.connect(database.owner_url)
    yield conn
    await conn.close()


async def test_partitions_are_made_ahead_once(house, db):
    await house.make_partitions()
    assert house.days_ahead >= DAYS_AHEAD
    assert await AuditStore(db).make_partitions(DAYS_AHEAD) == 0
    assert await house.look_ahead() == ""


async def test_a_missing_tomorrow_is_a_problem(house, owner):
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    for table in ("audit_entries", "audit_batches"):
        await owner.execute(f"DROP TABLE auth.{table}_{tomorrow:%Y%m%d}")
    assert "tomorrow" in await house.look_ahead()
    assert house.days_ahead == 0
    await house.make_partitions()
    assert await house.look_ahead() == ""


async def test_days_beyond_retention_are_dropped_and_the_chains_still_verify(house, db, owner):
    day = datetime(2020, 1, 1, tzinfo=UTC).date()
    for offset in range(3):
        first, last = day + timedelta(days=offset), day + timedelta(days=offset + 1)
        for table in ("audit_entries", "audit_batches"):
            await owner.execute(PART.format(table, f"{first:%Y%m%d}", first, last))
    await house.drop_partitions()
    assert min(await AuditStore(db).days()) > day + timedelta(days=3)


async def test_the_log_stays_as_many_days_long_as_are_kept_and_made_ahead(db, owner):
    """However many days have passed, and however often the house is kept."""
    audit = AuditStore(db)
    today = await audit.today()
    for ago in range(1, 40):
        first = today - timedelta(days=ago)
        for table in ("audit_entries", "audit_batches"):
            await owner.execute(PART.format(table, f"{first:%Y%m%d}", first, first + timedelta(days=1)))
    house = Housekeeping(audit=audit, keys=KeyStore(db), requests=Requests("auth"), db=db, retention_days=10)
    for _ in range(5):  # a run drops twenty days at most, and gives way to readers
        await house.keep()
    days = await audit.days()
    assert (min(days), max(days), len(days)) == (
        today - timedelta(days=10),
        today + timedelta(days=DAYS_AHEAD),
        10 + 1 + DAYS_AHEAD,
    )
    await house.keep()
    assert await audit.days() == days


async def test_usage_of_silent_recorders_is_folded_and_stays_exact(database, house, owner, db):
    key = uuid4()
    await make_key(database, "admin", key_id=key)
    for _ in range(3):
        await fill(database, [[row("One", key=key)] for _ in range(2)])
    await owner.execute("UPDATE auth.audit_writers SET last_time = last_time - interval '2 hours'")
    await fill(database, [[row("One", key=key)]])
    await house.keep()
    rows = await db.fetch("SELECT kind, call_count FROM auth.key_usage WHERE key_id = $1 ORDER BY kind", key)
    assert [tuple(one) for one in rows] == [("folded", 6), ("reads", 1)]
    await house.keep()
    assert await db.fetchval("SELECT sum(call_count) FROM auth.key_usage") == 7


async def test_heads_are_logged_as_they_are(database, house, owner, capsys):
    writer = await fill(database, [[row("One")] for _ in range(3)])
    await house.log_heads()
    printed = capsys.readouterr().out
    head = await owner.fetchval("SELECT head_hash FROM auth.audit_writers WHERE writer = $1", writer)
    assert "audit_head" in printed
    assert str(writer) in printed
    assert head.hex() in printed
    assert "seq=3" in printed


async def test_a_change_whose_process_died_before_its_line_is_logged_by_the_next_one(database, house, owner, capsys):
    key_id, old = uuid4(), uuid4()
    await make_key(database, "admin", key_id=key_id)
    await make_key(database, "admin", key_id=old)
    await owner.execute("UPDATE auth.keys SET revoke_time = now(), version = 2 WHERE key_id = $1", key_id)
    await owner.execute("UPDATE auth.keys SET update_time = now() - interval '2 days' WHERE key_id = $1", old)
    await house.log_keys()
    lines = [line for line in capsys.readouterr().out.splitlines() if "key_changed" in line]
    assert [str(key_id) in line and "REVOKED" in line and "version=2" in line for line in lines] == [True]
