"""Hands out slices under leases, takes them back, and frees those whose worker is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from services.ingest.store.rows import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from services.kit.db import Database

RANGE, DAY, FILE, DELETE, SYMBOLS, ACTIONS = 1, 2, 3, 4, 5, 6
"""mdw.ingest.v1.Slice.Kind."""

PENDING, RUNNING, SUCCEEDED, FAILED, OUTSIDE_PLAN = 1, 2, 3, 4, 5
ENDED = frozenset({3, 4, 5, 6})

HAS_DUE = """
SELECT EXISTS (
  SELECT FROM ingest.slices
  WHERE state = 1
    AND NOT held
    AND kind = ANY ($1::smallint[])
    AND (next_try_time IS NULL OR next_try_time <= clock_timestamp())
)
"""

CLAIM = """
SELECT slice_id, token, write_id, symbol_id, timeframe, asset_class, provider_ticker, first_date, last_date, cursor,
       fetch_time, attempts, reason, kind, mode, position, subject, page
FROM ingest.claim_slice($1::smallint[], $2, $3)
"""

# A cancelled slice has another token already; one whose jobs end now is ended by the next claim.
RELEASE = """
UPDATE ingest.slices
SET state = 1, lease_owner = NULL, lease_until = NULL, reason = $3, attempts = attempts + $4,
    requests = requests - $5, next_try_time = clock_timestamp() + $6
WHERE slice_id = $1
  AND token = $2
  AND state = 2
"""

# An answer counts from when it was asked for the last time.
ASK_AGAIN = """
UPDATE ingest.slices
SET requests = requests + 1, fetch_time = clock_timestamp()
WHERE slice_id = $1
  AND token = $2
  AND state = 2
RETURNING fetch_time
"""

GIVE_UP = """
SELECT ingest.give_up($1, $2, $3, $4, $5, $6, $7)
"""

CLOSE = """
SELECT ingest.close_slice($1, $2, $3, $4)
"""

LEASED = """
SELECT slice_id, token, write_id, lease_owner, lease_until < clock_timestamp() AS expired
FROM ingest.slices
WHERE state = 2
ORDER BY lease_until
LIMIT 1000
"""

# The backend of a part is found by the lock on its write. A stopped process keeps its locks whatever timeouts are set.
TERMINATE = """
SELECT count(pg_terminate_backend(pid, 2000))
FROM pg_locks
WHERE locktype = 'advisory'
  AND classid = 1833045
  AND objid::bigint = $1::bigint
  AND objsubid = 2
  AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

FREE = """
WITH lost AS (
  SELECT slice_id
  FROM ingest.slices
  WHERE slice_id = $1
    AND token = $2
    AND state = 2
  FOR UPDATE SKIP LOCKED
)
UPDATE ingest.slices s
SET state = 1, token = token + 1, lease_owner = NULL, lease_until = NULL, attempts = attempts + 1,
    reason = 'the worker was lost'
FROM lost
WHERE s.slice_id = lost.slice_id
"""


# What a connection that broke has left behind. A part whose COMMIT got through has put its slice back already.
FREE_OWN = """
WITH left_behind AS (
  SELECT slice_id
  FROM ingest.slices
  WHERE state = 2
    AND lease_owner = $1
  ORDER BY slice_id
  FOR UPDATE SKIP LOCKED
)
UPDATE ingest.slices s
SET state = 1, lease_owner = NULL, lease_until = NULL
FROM left_behind l
WHERE s.slice_id = l.slice_id
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A slice that is ours until the lease ends or another token is handed out.

    One of many series has 0 in its key, one without a span date.min.
    """

    slice_id: int
    token: int
    write_id: int
    key: SeriesKey
    asset_class: int
    provider_ticker: str
    first_date: date
    last_date: date
    cursor: datetime | None
    fetch_time: datetime
    attempts: int
    reason: str
    kind: int = RANGE
    mode: int = 1
    lease: timedelta = timedelta(0)
    position: int | None = None
    """The symbol_id of the last series that is written, of a slice of many."""
    subject: str = ""
    page: str = ""
    """Where the work goes on when a date does not say it."""


async def has_due(db: Database, kinds: Sequence[int] = (RANGE,)) -> bool:
    """Says whether there is work, without taking any."""
    return bool(await db.fetchval(HAS_DUE, kinds))


async def claim(db: Database, owner: str, lease: timedelta, kinds: Sequence[int] = (RANGE,)) -> Claim | None:
    """Takes the slice whose turn it is; its fetch_time is now, so the request must follow."""
    row = await db.fetchrow(CLAIM, kinds, owner, lease)
    if row is None:
        return None
    return Claim(
        row["slice_id"],
        row["token"],
        row["write_id"],
        SeriesKey(row["symbol_id"] or 0, row["timeframe"] or 0),
        row["asset_class"] or 0,
        row["provider_ticker"],
        row["first_date"] or date.min,
        row["last_date"] or date.min,
        row["cursor"],
        row["fetch_time"],
        row["attempts"],
        row["reason"],
        row["kind"],
        row["mode"],
        lease,
        row["position"],
        row["subject"],
        row["page"],
    )


async def ask_again(db: Database, claimed: Claim) -> Claim | None:
    """Notes another request under the same claim; None when it is no longer ours."""
    fetch_time = await db.fetchval(ASK_AGAIN, claimed.slice_id, claimed.token)
    return replace(claimed, fetch_time=fetch_time) if fetch_time else None


async def release(
    db: Database, claimed: Claim, *, reason: str, wait: float = 0, attempt: bool = False, sent: bool = True
) -> bool:
    """Puts a slice back, to be taken again in `wait` seconds; False, and nothing happens, when it is no longer ours."""
    pause = timedelta(seconds=wait) if wait else None
    done = await db.execute(RELEASE, claimed.slice_id, claimed.token, reason, int(attempt), int(not sent), pause)
    return done != "UPDATE 0"


async def give_up(
    db: Database, claimed: Claim, *, state: int, reason: str, first: date, end: date, cursor: datetime | None = None
) -> int | None:
    """Gives up the sessions from first to end, exclusive, and the rest with them unless there is a cursor.

    Returns the slice's state; None when it is no longer ours.
    """
    found: int | None = await db.fetchval(GIVE_UP, claimed.slice_id, claimed.token, state, reason, first, end, cursor)
    return found


async def close(db: Database, claimed: Claim, state: int, reason: str) -> int | None:
    """Ends a slice that covers no sessions of its own; returns its state, None when it is no longer ours."""
    found: int | None = await db.fetchval(CLOSE, claimed.slice_id, claimed.token, state, reason)
    return found


async def free_lost(db: Database, is_gone: Callable[[str], bool]) -> int:
    """Frees slices whose lease has ended or whose worker is gone, and ends what it left open; returns how many."""
    freed = 0
    for row in await db.fetch(LEASED):
        if row["expired"] or is_gone(row["lease_owner"]):
            await db.fetchval(TERMINATE, row["write_id"])
            freed += (await db.execute(FREE, row["slice_id"], row["token"])) == "UPDATE 1"
    return freed


async def free_own(db: Database, owner: str) -> None:
    """Puts back what an owner holds; for an owner that works on nothing now."""
    await db.execute(FREE_OWN, owner)
