"""Puts a restored database's keys right, and compares its audit with the chain heads that were logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator.changes import Changes, retried
from migrator.repairs import DELETE, EXPIRE, NOTE, RESTORE, REVOKE, Repair, StoredKey, decide

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    import asyncpg

    from migrator.restore_log import HeadLine, Log

KEYS = """
SELECT key_id, display_name, preview, version,
       CASE WHEN delete_time IS NOT NULL THEN 'DELETED'
            WHEN revoke_time IS NOT NULL THEN 'REVOKED'
            WHEN expire_time <= clock_timestamp() THEN 'EXPIRED'
            ELSE 'ACTIVE' END AS state,
       'admin' = ANY (scopes) AND expire_time IS NULL AND delete_time IS NULL AS permanent_admin
FROM auth.keys
ORDER BY create_time, key_id
"""
REPAIR = """
UPDATE auth.keys
SET version = greatest(version, $2) + 1,
    update_time = clock_timestamp(),
    revoke_time = CASE $3 WHEN 'revoke' THEN coalesce(revoke_time, clock_timestamp())
                          WHEN 'restore' THEN NULL
                          ELSE revoke_time END,
    expire_time = CASE $3 WHEN 'expire' THEN least(expire_time, clock_timestamp()) ELSE expire_time END,
    delete_time = CASE $3 WHEN 'delete' THEN clock_timestamp() ELSE delete_time END,
    digest = CASE $3 WHEN 'delete' THEN NULL ELSE digest END
WHERE key_id = $1
RETURNING version
"""
METHODS = {REVOKE: "RevokeKey", RESTORE: "RestoreKey", DELETE: "DeleteKey", EXPIRE: "UpdateKey", NOTE: "UpdateKey"}
STATES = {REVOKE: "REVOKED", RESTORE: "ACTIVE", DELETE: "DELETED", EXPIRE: "EXPIRED"}

WRITER = "SELECT last_seq, head_hash, base_seq FROM auth.audit_writers WHERE writer = $1 AND kind = $2"
BATCH = "SELECT hash FROM auth.audit_batches WHERE writer = $1 AND kind = $2 AND seq = $3"

SAME, LOST, DIFFERS, DROPPED = "same", "lost", "differs", "dropped by retention"


@dataclass(frozen=True, slots=True)
class Changed:
    """A key that was put right: its new version and state, as they are logged."""

    key_id: UUID
    version: int
    state: str


@dataclass(frozen=True, slots=True)
class Head:
    """A recorder's chain against its last logged head."""

    writer: UUID
    kind: str
    seq: int
    found_seq: int
    verdict: str


async def read_keys(conn: asyncpg.Connection) -> list[StoredKey]:
    """Returns all keys, deleted ones included."""
    return [StoredKey(*row) for row in await conn.fetch(KEYS)]


async def put_right(changes: Changes, log: Log, keep: Collection[UUID]) -> tuple[list[Repair], list[Changed]]:
    """Decides and changes in one transaction under the audit lock: all keys are right then, or none was touched."""

    async def change() -> tuple[list[Repair], list[Changed]]:
        async with changes.transaction() as started:
            await changes.lock_keys()
            repairs = decide(await read_keys(changes.conn), log, keep)
            todo = [repair for repair in repairs if repair.action in METHODS]
            for repair in todo:
                await changes.record(METHODS[repair.action], str(repair.key.key_id), started)
            return repairs, [await _repair(changes, repair) for repair in todo]

    return await retried(change)


async def _repair(changes: Changes, repair: Repair) -> Changed:
    version = await changes.conn.fetchval(REPAIR, repair.key.key_id, repair.version, repair.action)
    return Changed(repair.key.key_id, version, STATES.get(repair.action, repair.key.state))


async def compare_heads(conn: asyncpg.Connection, log: Log) -> list[Head]:
    """Says for each recorder in the log whether its chain reaches the logged head, and with the same hash."""
    return [await _compare(conn, writer, kind, line) for (writer, kind), line in log.heads.items()]


async def _compare(conn: asyncpg.Connection, writer: UUID, kind: str, line: HeadLine) -> Head:
    row = await conn.fetchrow(WRITER, writer, kind)
    if row is None:
        return Head(writer, kind, line.seq, 0, LOST)
    if row["last_seq"] < line.seq:
        return Head(writer, kind, line.seq, row["last_seq"], LOST)
    if line.seq <= row["base_seq"]:
        return Head(writer, kind, line.seq, row["last_seq"], DROPPED)
    at_head = row["last_seq"] == line.seq
    found = row["head_hash"] if at_head else await conn.fetchval(BATCH, writer, kind, line.seq)
    return Head(writer, kind, line.seq, row["last_seq"], SAME if found == line.head_hash else DIFFERS)
