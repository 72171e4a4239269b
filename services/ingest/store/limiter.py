"""The limiter that all replicas share: one row a request that a minute may have, on the database's clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from services.kit.db import Database

GRANT_SECONDS = 1.0
"""A request that is not sent within this needs a new grant."""

# A minute, the second until the request is sent, and one for its way to Polygon.
SLOT_SECONDS = 62

ADD_SLOTS = """
INSERT INTO ingest.limiter (slot)
SELECT generate_series(1, $1::integer)
ON CONFLICT (slot) DO NOTHING
"""

# Slots above the setting are not granted. While the minute of one of them lasts, since the setting was higher then, no
# other is either.
GRANT = """
WITH free AS (
  SELECT slot
  FROM ingest.limiter
  WHERE slot <= $1
    AND grant_time <= clock_timestamp() - make_interval(secs => $2)
    AND NOT EXISTS (
      SELECT FROM ingest.limiter
      WHERE slot > $1
        AND grant_time > clock_timestamp() - make_interval(secs => $2)
    )
  ORDER BY grant_time, slot
  LIMIT 1
  FOR UPDATE SKIP LOCKED
)
UPDATE ingest.limiter l
SET grant_time = clock_timestamp()
FROM free
WHERE l.slot = free.slot
RETURNING l.slot, l.grant_time
"""

# What was granted before is at least as long ago.
GIVE_BACK = """
UPDATE ingest.limiter
SET grant_time = clock_timestamp() - make_interval(secs => $3)
WHERE slot = $1
  AND grant_time = $2
"""

NEXT_GRANT = """
SELECT greatest(0, extract(epoch FROM greatest(
         min(grant_time) FILTER (WHERE slot <= $1 AND grant_time > '-infinity'),
         max(grant_time) FILTER (WHERE slot > $1 AND grant_time > '-infinity')
       ) - clock_timestamp()) + $2)::double precision
FROM ingest.limiter
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """Allows one request to be sent until sent_by, on time.monotonic's clock."""

    sent_by: float
    slot: int = 0
    grant_time: datetime | None = None


class Limiter:
    """Grants requests; 0 a minute means no limit."""

    def __init__(self, db: Database, per_minute: int, *, slot_seconds: float = SLOT_SECONDS) -> None:
        self._db = db
        self._per_minute = per_minute
        self._slot_seconds = slot_seconds

    async def prepare(self) -> None:
        """Adds the slots that the setting needs; called once, before the first grant."""
        await self._db.execute(ADD_SLOTS, self._per_minute)

    async def take(self) -> Grant | None:
        """Returns a grant if a slot is free now."""
        if not self._per_minute:
            return Grant(inf)
        # Read before the grant is made: what the statement takes comes off the second.
        sent_by = time.monotonic() + GRANT_SECONDS
        row = await self._db.fetchrow(GRANT, self._per_minute, self._slot_seconds)
        return Grant(sent_by, row["slot"], row["grant_time"]) if row else None

    async def give_back(self, grant: Grant) -> None:
        """Takes back a grant under which nothing was sent."""
        if grant.slot:
            await self._db.execute(GIVE_BACK, grant.slot, grant.grant_time, self._slot_seconds)

    async def wait(self) -> float:
        """Returns in how many seconds a slot is free."""
        seconds = await self._db.fetchval(NEXT_GRANT, self._per_minute, self._slot_seconds)
        return float(seconds or 0)
