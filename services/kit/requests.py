"""Idempotency: what a change with a request_id answered is kept for 48 hours and given again to a repeat."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from uuid import UUID

from services.kit.errors import InvalidArgument

if TYPE_CHECKING:
    from services.kit.calls import Call
    from services.kit.db import Connection, Database

SCHEMAS = frozenset({"auth", "symbols", "ingest"})

CLAIM = """
INSERT INTO {schema}.requests (key_id, method, request_id, request_hash)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
RETURNING true
"""

FIND = """
SELECT request_hash, answer
FROM {schema}.requests
WHERE key_id = $1 AND method = $2 AND request_id = $3
"""

STORE = """
UPDATE {schema}.requests
SET answer = $4
WHERE key_id = $1 AND method = $2 AND request_id = $3
"""

SWEEP = """
DELETE FROM {schema}.requests
WHERE create_time < clock_timestamp() - interval '48 hours'
"""


class Requests:
    """The table `requests` of one schema. Claim first in the change's transaction, store before its end."""

    def __init__(self, schema: str) -> None:
        if schema not in SCHEMAS:
            raise ValueError(schema)
        self._claim, self._find, self._store, self._sweep = (
            sql.format(schema=schema) for sql in (CLAIM, FIND, STORE, SWEEP)
        )

    async def claim(self, conn: Connection, call: Call, request_id: str, request: bytes) -> bytes | None:
        """Returns the stored answer of a repeat, else None; an empty request_id is never a repeat.

        Waits for a concurrent change with the same id to end. Raises InvalidArgument REQUEST_ID_REUSED when the id
        came with another request.
        """
        if not request_id:
            return None
        key = (call.key_id, call.method, parse(request_id))
        digest = hashlib.sha256(request).digest()
        if await conn.fetchval(self._claim, *key, digest):
            return None
        row = await conn.fetchrow(self._find, *key)
        if row is None or row["request_hash"] != digest:
            raise InvalidArgument(
                "request_id", "was used before with another request", reason="REQUEST_ID_REUSED", request_id=request_id
            )
        return bytes(row["answer"] or b"")

    async def store(self, conn: Connection, call: Call, request_id: str, answer: bytes) -> None:
        """Keeps the answer, which must hold no secret."""
        if request_id:
            await conn.execute(self._store, call.key_id, call.method, parse(request_id), answer)

    async def sweep(self, db: Database) -> None:
        """Drops what is older than 48 hours."""
        await db.execute(self._sweep)


def parse(request_id: str) -> UUID:
    """Returns the id; raises InvalidArgument if it is no UUID."""
    try:
        return UUID(request_id)
    except ValueError:
        raise InvalidArgument("request_id", "is not a UUID") from None
