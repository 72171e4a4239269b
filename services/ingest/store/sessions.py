"""Reads the trading calendars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import EVERY_DAY, XNYS, Sessions, day_of

if TYPE_CHECKING:
    from services.kit.db import Connection, Database

# In one row: 22,000 rows would take the event loop twenty times as long.
SESSIONS = """
SELECT array_agg(session_date - date '1970-01-01' ORDER BY session_date) AS days,
       array_agg((extract(epoch FROM open_time) * 1000)::bigint ORDER BY session_date) AS open_ms,
       array_agg((extract(epoch FROM close_time) * 1000)::bigint ORDER BY session_date) AS close_ms
FROM ingest.sessions
WHERE calendar = $1
"""

LAST_CLOSED = """
SELECT calendar, max(session_date) AS session_date
FROM ingest.sessions
WHERE close_time <= clock_timestamp()
GROUP BY calendar
"""


async def load(db: Database) -> dict[str, Sessions]:
    """Returns all sessions by calendar; they change with a migration only, so that a process reads them once."""
    return {calendar: await _load(db, calendar) for calendar in (XNYS, EVERY_DAY)}


async def last_closed(conn: Connection) -> dict[str, int]:
    """Returns the day of the last session that is over, by calendar and the database's clock."""
    return {row["calendar"]: day_of(row["session_date"]) for row in await conn.fetch(LAST_CLOSED)}


async def _load(db: Database, calendar: str) -> Sessions:
    row = await db.fetchrow(SESSIONS, calendar)
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Sessions(calendar, *(np.array(row[name], np.int64) for name in ("days", "open_ms", "close_ms")))
