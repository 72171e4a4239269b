"""The audit log: records batches for other languages, lists entries, looks after partitions and usage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from services.kit.entries import RECORD, Entry, columns
from services.kit.errors import InvalidArgument, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import date, datetime
    from uuid import UUID

    from asyncpg import Record

    from services.kit.db import Database

# A piece of one day, so that the planner reads one partition; newest first.
LIST = """
SELECT time, id, call_id, key_id, key_preview, service, method, code, reason, peer, request_id, duration_us, messages,
       call_count
FROM auth.audit_entries
WHERE time >= $1 AND time < $2
  AND (time, id) < ($3, $4)
  AND ($5::uuid IS NULL OR key_id = $5)
  AND ($6::text = '' OR service = $6)
  AND ($7::text = '' OR method = $7)
  AND ($8::smallint[] IS NULL OR code = ANY ($8))
ORDER BY time DESC, id DESC
LIMIT $9
"""

DAYS = """
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'auth.audit_entries'::regclass
ORDER BY 1
"""

MAKE_PARTITIONS = "SELECT auth.make_partitions($1)"
DROP_PARTITIONS = "SELECT auth.drop_partitions($1)"
FOLD_USAGE = "SELECT auth.fold_usage()"
NOW = "SELECT clock_timestamp()"
TODAY = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date"

HEADS = """
SELECT writer, kind, service, last_seq, last_time, head_hash, base_seq, base_hash
FROM auth.audit_writers
WHERE last_time >= $1
ORDER BY last_time
"""

_REFUSED, _UNKNOWN_SEQ = "MD001", "MD002"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One row of the log."""

    time: datetime
    id: int
    call_id: UUID
    key_id: UUID | None
    key_preview: str
    service: str
    method: str
    code: int
    reason: str
    peer: str
    request_id: str
    duration_us: int
    messages: int
    call_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What ListAuditEntries selects by; empty means all."""

    key_id: UUID | None = None
    service: str = ""
    method: str = ""
    codes: Sequence[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The row of one chain of a recorder."""

    writer: UUID
    kind: str
    service: str
    last_seq: int
    last_time: datetime
    head_hash: bytes
    base_seq: int
    base_hash: bytes


class Position(NamedTuple):
    """A place in the log; a list goes on with what is older."""

    time: datetime
    id: int


class AuditStore:
    """Reads and keeps the audit log; the role may neither change nor delete its rows."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def record(self, writer: UUID, kind: str, seq: int, service: str, rows: Sequence[Entry]) -> list[UUID]:
        """Records a batch and returns the refused calls; raises Unauthenticated for a refused change."""
        try:
            return list(await self._db.fetchval(RECORD, writer, kind, seq, service, *columns(rows)))
        except asyncpg.PostgresError as error:
            if error.sqlstate == _REFUSED:
                raise Unauthenticated("KEY_REFUSED") from None
            if error.sqlstate == _UNKNOWN_SEQ:
                raise InvalidArgument("seq", "is not the next one of this writer: take a new writer") from None
            raise

    async def entries(
        self, filters: Filters, *, start: datetime, end: datetime, before: Position, limit: int, seconds: float
    ) -> list[AuditRow]:
        """Returns rows of a piece of one day, older than `before`, newest first; TimeoutError after `seconds`."""
        async with self._db.connection() as conn:
            rows = await _bounded(
                conn.fetch(
                    LIST,
                    start,
                    end,
                    before.time,
                    before.id,
                    filters.key_id,
                    filters.service,
                    filters.method,
                    filters.codes,
                    limit,
                    timeout=seconds,
                )
            )
        if rows is None:
            raise TimeoutError
        return [AuditRow(**row) for row in rows]

    async def days(self) -> list[date]:
        """Returns the days that have a partition, oldest first."""
        return [row["day"] for row in await self._db.fetch(DAYS)]

    async def heads(self, since: datetime) -> list[Head]:
        """Returns the chains that were written to since then, oldest first."""
        return [Head(**row) for row in await self._db.fetch(HEADS, since)]

    async def today(self) -> date:
        """Returns the database's day, in UTC."""
        day: date = await self._db.fetchval(TODAY)
        return day

    async def now(self) -> datetime:
        """Returns the database's clock."""
        instant: datetime = await self._db.fetchval(NOW)
        return instant

    async def make_partitions(self, ahead: int) -> int:
        return int(await self._db.fetchval(MAKE_PARTITIONS, ahead))

    async def drop_partition(self, before: date) -> date | None:
        """Drops the oldest day that ended before a day, and returns it; None when there is none."""
        day: date | None = await self._db.fetchval(DROP_PARTITIONS, before)
        return day

    async def fold_usage(self) -> int:
        return int(await self._db.fetchval(FOLD_USAGE))


async def _bounded(reading: Awaitable[Sequence[Record]]) -> Sequence[Record] | None:
    """Returns None when the reading took too long; asyncpg has cancelled it and the connection is still good."""
    try:
        return await reading
    except TimeoutError:
        return None
