"""Keys and their usage. Every change stands in a transaction that `Recorder.key_change` began: audit lock first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.kit.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from ipaddress import IPv4Network, IPv6Network
    from uuid import UUID

    from asyncpg import Record

    from services.kit.db import Connection, Database

COLUMNS = """
SELECT k.key_id, k.display_name, k.preview, k.scopes, k.allowed_peers, k.max_calls_per_second, k.max_streams, k.version,
       k.created_by, k.rotated_from, k.create_time, k.update_time, k.expire_time, k.revoke_time, k.delete_time,
       CASE
         WHEN k.delete_time IS NOT NULL THEN 'DELETED'
         WHEN k.revoke_time IS NOT NULL THEN 'REVOKED'
         WHEN k.expire_time <= clock_timestamp() THEN 'EXPIRED'
         ELSE 'ACTIVE'
       END AS state,
       u.call_count, u.last_use_time
FROM auth.keys k
CROSS JOIN LATERAL (
  SELECT coalesce(sum(call_count), 0)::bigint AS call_count, max(last_use_time) AS last_use_time
  FROM auth.key_usage
  WHERE key_id = k.key_id
) u
"""

GET = COLUMNS + "WHERE k.key_id = $1"

LIST = (
    COLUMNS
    + """
WHERE k.delete_time IS NULL
  AND (NOT $1 OR k.revoke_time IS NULL AND (k.expire_time IS NULL OR k.expire_time > clock_timestamp()))
  AND ($2::timestamptz IS NULL OR (k.create_time, k.key_id) < ($2, $3))
ORDER BY k.create_time DESC, k.key_id DESC
LIMIT $4
"""
)

VALID = """
SELECT key_id, display_name, preview, scopes, allowed_peers, max_calls_per_second, max_streams, version, create_time,
       update_time, expire_time
FROM auth.keys
WHERE digest = $1
  AND revoke_time IS NULL
  AND (expire_time IS NULL OR expire_time > clock_timestamp())
"""

CHANGED = COLUMNS + "WHERE k.update_time >= clock_timestamp() - $1::interval ORDER BY k.update_time"

INSERT = """
INSERT INTO auth.keys (key_id, display_name, preview, digest, scopes, allowed_peers, max_calls_per_second, max_streams,
  created_by, rotated_from, expire_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""

UPDATE = """
UPDATE auth.keys
SET display_name = $2, scopes = $3, allowed_peers = $4, max_calls_per_second = $5, max_streams = $6, expire_time = $7,
    version = version + 1, update_time = clock_timestamp()
WHERE key_id = $1
"""

REVOKE = """
UPDATE auth.keys
SET revoke_time = clock_timestamp(), update_time = clock_timestamp(), version = version + 1
WHERE key_id = $1 AND revoke_time IS NULL
"""

RESTORE = """
UPDATE auth.keys
SET revoke_time = NULL, update_time = clock_timestamp(), version = version + 1
WHERE key_id = $1 AND revoke_time IS NOT NULL
"""

END = """
UPDATE auth.keys
SET expire_time = least(expire_time, clock_timestamp() + $2), update_time = clock_timestamp(), version = version + 1
WHERE key_id = $1
"""

DELETE = """
UPDATE auth.keys
SET delete_time = clock_timestamp(), digest = NULL, update_time = clock_timestamp(), version = version + 1
WHERE key_id = $1 AND delete_time IS NULL
"""

ADMINISTRATOR_REMAINS = """
SELECT EXISTS (
  SELECT FROM auth.keys
  WHERE 'admin' = ANY (scopes) AND revoke_time IS NULL AND delete_time IS NULL AND expire_time IS NULL
)
"""

Networks = tuple["IPv4Network | IPv6Network", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What a key is made of. The secret itself is never stored."""

    key_id: UUID
    display_name: str
    preview: str
    digest: bytes
    scopes: Sequence[str]
    allowed_peers: Networks
    max_calls_per_second: int | None
    max_streams: int | None
    created_by: UUID | None
    expire_time: datetime | None
    rotated_from: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key with its usage."""

    key_id: UUID
    display_name: str
    preview: str
    scopes: Sequence[str]
    allowed_peers: Networks
    max_calls_per_second: int | None
    max_streams: int | None
    version: int
    create_time: datetime
    update_time: datetime
    expire_time: datetime | None
    created_by: UUID | None = None
    rotated_from: UUID | None = None
    revoke_time: datetime | None = None
    delete_time: datetime | None = None
    state: str = "ACTIVE"
    call_count: int | None = None
    last_use_time: datetime | None = None

    @property
    def lasting_administrator(self) -> bool:
        """True for an active administrator without expiry, of which one must remain."""
        return self.state == "ACTIVE" and "admin" in self.scopes and self.expire_time is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The fields that UpdateKey sets, all of them with their value after the change."""

    display_name: str
    scopes: Sequence[str]
    allowed_peers: Networks
    max_calls_per_second: int | None
    max_streams: int | None
    expire_time: datetime | None


class KeyStore:
    """Reads keys from the pool; changes them on the connection that they are handed."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, key_id: UUID) -> KeyRow:
        """Returns a key, a deleted one too; raises NotFound."""
        return _found(await self._db.fetchrow(GET, key_id), key_id)

    async def page(self, *, active_only: bool, after: tuple[datetime, UUID] | None, limit: int) -> list[KeyRow]:
        """Returns keys, newest first, older than `after` (create_time, key_id). Deleted ones are left out."""
        create_time, key_id = after or (None, None)
        return [_row(row) for row in await self._db.fetch(LIST, active_only, create_time, key_id, limit)]

    async def changed(self, since: timedelta) -> list[KeyRow]:
        """Returns the keys that changed within a span until now, deleted ones too, oldest change first."""
        return [_row(row) for row in await self._db.fetch(CHANGED, since)]

    async def valid(self, digest: bytes) -> KeyRow | None:
        """Returns the key with this digest if it is valid now, without usage."""
        row = await self._db.fetchrow(VALID, digest)
        return None if row is None else _row(row)

    async def living(self, conn: Connection, key_id: UUID) -> KeyRow:
        """Returns a key that is not deleted; raises NotFound."""
        row = _found(await conn.fetchrow(GET, key_id), key_id)
        if row.state == "DELETED":
            raise _not_found(key_id)
        return row

    async def any(self, conn: Connection, key_id: UUID) -> KeyRow:
        """Returns a key, a deleted one too; raises NotFound."""
        return _found(await conn.fetchrow(GET, key_id), key_id)

    async def insert(self, conn: Connection, key: NewKey) -> None:
        await conn.execute(
            INSERT,
            key.key_id,
            key.display_name,
            key.preview,
            key.digest,
            list(key.scopes),
            list(key.allowed_peers),
            key.max_calls_per_second,
            key.max_streams,
            key.created_by,
            key.rotated_from,
            key.expire_time,
        )

    async def update(self, conn: Connection, key_id: UUID, changes: Changes) -> None:
        await conn.execute(
            UPDATE,
            key_id,
            changes.display_name,
            list(changes.scopes),
            list(changes.allowed_peers),
            changes.max_calls_per_second,
            changes.max_streams,
            changes.expire_time,
        )

    async def revoke(self, conn: Connection, key_id: UUID) -> None:
        await conn.execute(REVOKE, key_id)

    async def restore(self, conn: Connection, key_id: UUID) -> None:
        await conn.execute(RESTORE, key_id)

    async def end(self, conn: Connection, key_id: UUID, overlap: timedelta) -> None:
        """Lets a key expire after the overlap, or sooner if it does so anyway."""
        await conn.execute(END, key_id, overlap)

    async def delete(self, conn: Connection, key_id: UUID) -> None:
        await conn.execute(DELETE, key_id)

    async def require_administrator(self, conn: Connection, before: KeyRow) -> None:
        """Raises FailedPrecondition if a change took the last lasting administrator away. Under the audit lock only."""
        if before.lasting_administrator and not await conn.fetchval(ADMINISTRATOR_REMAINS):
            raise FailedPrecondition(
                "LAST_ADMINISTRATOR",
                "one active administrator without expiry always remains",
                key_id=str(before.key_id),
            )


def _found(row: Record | None, key_id: UUID) -> KeyRow:
    if row is None:
        raise _not_found(key_id)
    return _row(row)


def _row(row: Record) -> KeyRow:
    fields: dict[str, Any] = dict(row)
    fields["allowed_peers"] = tuple(fields["allowed_peers"])
    return KeyRow(**fields)


def _not_found(key_id: UUID) -> NotFound:
    return NotFound("KEY_NOT_FOUND", f"there is no key {key_id}", key_id=str(key_id))
