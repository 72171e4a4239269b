"""Reads the trading calendars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import EVERY_DAY, XNYS, Sessions, day_of

if TYPE_CHECKING:
    from services.kit.db import Connection, Database

SESSIONS = """
SELECT session_date,
       (extract(epoch FROM open_time) * 1000)::bigint AS open_ms,
       (extract(epoch FROM close_time) * 1000)::bigint AS close_ms
FROM ingest.sessions
WHERE calendar = $1
ORDER BY session_date
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
    rows = await db.fetch(SESSIONS, calendar)
    days, opens, closes = (
        np.array(column, np.int64)
        for column in (
            [day_of(row["session_date"]) for row in rows],
            [row["open_ms"] for row in rows],
            [row["close_ms"] for row in rows],
        )
    )
    return Sessions(calendar, days, opens, closes)
