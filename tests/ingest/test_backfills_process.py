"""The ingest service as a process: its settings, and a schema that lacks what its SQL uses."""

from __future__ import annotations

import asyncpg
import pytest

from services.ingest.required import SCHEMA
from services.ingest.settings import IngestSettings
from services.kit.db import Database
from services.kit.schema import SchemaError, wait_for_schema
from services.kit.settings import SettingsError

BASE = {"DATABASE_URL": "postgresql://x@127.0.0.1/x", "SERVICE_KEY": "mdw_x"}


def test_the_defaults_are_those_of_the_free_plan_and_a_worker_a_core():
    settings = IngestSettings.from_environment(BASE)
    assert (settings.listen_address, settings.polygon_requests_per_minute) == ("127.0.0.1:15053", 5)
    assert (settings.slice_retention_days, settings.reject_retention_days) == (30, 400)
    assert settings.workers >= 1
    assert IngestSettings.from_environment({**BASE, "INGEST_WORKERS": "3"}).workers == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLICE_RETENTION_DAYS", "0"),
        ("REJECT_RETENTION_DAYS", "many"),
        ("POLYGON_REQUESTS_PER_MINUTE", "-1"),
        ("INGEST_WORKERS", "1000"),
        ("STREAM_POOL_SIZE", "0"),
    ],
)
def test_a_bad_setting_is_named(name, value):
    with pytest.raises(SettingsError, match=f"^{name}: "):
        IngestSettings.from_environment({**BASE, name: value})


def test_a_missing_service_key_is_named():
    with pytest.raises(SettingsError, match="SERVICE_KEY"):
        IngestSettings.from_environment({"DATABASE_URL": BASE["DATABASE_URL"]})


def test_urls_of_readers_are_not_shown():
    settings = IngestSettings.from_environment({**BASE, "READ_DATABASE_URLS": "postgresql://a:secret@h/x"})
    assert "secret" not in repr(settings)


async def test_the_migrated_schema_has_all_that_is_required(database):
    db = await Database.open(database.ingest_url, size=1)
    assert await wait_for_schema(db, SCHEMA, 1) >= SCHEMA.version
    await db.close()


async def test_a_column_that_is_missing_is_named(database):
    db = await Database.open(database.ingest_url, size=1)
    conn = await asyncpg.connect(database.admin_url)
    await conn.execute("ALTER TABLE ingest.backfills RENAME totals TO sums")
    try:
        with pytest.raises(SchemaError, match=r"ingest\.backfills\.totals"):
            await wait_for_schema(db, SCHEMA, 1)
    finally:
        await conn.execute("ALTER TABLE ingest.backfills RENAME sums TO totals")
        await conn.close()
        await db.close()
