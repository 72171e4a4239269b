"""Reads the audit log as it was hashed, in pieces that are consistent in themselves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from services.kit.db import Connection, Database

BATCHES = """
SELECT time, writer::text, kind, seq, rows, prev_hash, hash, form
FROM auth.audit_batches
WHERE time >= $1 AND time < $2
ORDER BY time, seq
LIMIT $3
"""

ENTRIES = """
SELECT time, writer::text, kind, seq, id, ord, call_id::text, key_id::text, key_preview, service, method, code,
       reason, peer, request_id, duration_us, messages, call_count
FROM auth.audit_entries
WHERE time >= $1 AND time < $2
ORDER BY time, writer, kind, seq, ord
"""

PLACE = 4
"""So many columns of an entry say which batch it belongs to; the others are hashed."""

BatchKey = tuple["datetime", str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """One batch."""

    time: datetime
    writer: str
    kind: str
    seq: int
    rows: int
    prev_hash: bytes
    hash: bytes
    form: int

    @property
    def key(self) -> BatchKey:
        return (self.time, self.writer, self.kind, self.seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """All that was written from a time up to `end`, exclusive."""

    end: datetime
    batches: list[BatchRow]
    entries: dict[BatchKey, list[list[Any]]]


class ChainStore:
    """Reads pieces of the log."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def piece(self, start: datetime, end: datetime, *, limit: int, seconds: float) -> Piece:
        """Returns the first batches of [start, end) with their rows: at most `limit`, and all of an instant or none.

        Raises TimeoutError if that takes longer than `seconds`.
        """
        async with self._db.connection() as conn:
            piece = await _read(conn, start, end, limit, seconds)
        if piece is None:
            raise TimeoutError
        return piece


async def _read(conn: Connection, start: datetime, end: datetime, limit: int, seconds: float) -> Piece | None:
    try:
        # One snapshot for both: a batch that commits in between would look like rows without one.
        await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        try:
            rows = await conn.fetch(BATCHES, start, end, limit, timeout=seconds)
            if len(rows) == limit:
                end = rows[-1]["time"]
                rows = [row for row in rows if row["time"] < end]
            entries = await conn.fetch(ENTRIES, start, end, timeout=seconds)
        finally:
            await conn.execute("ROLLBACK")
    except TimeoutError:
        return None
    grouped = groupby((tuple(row) for row in entries), key=lambda row: row[:PLACE])
    return Piece(
        end=end,
        batches=[BatchRow(**row) for row in rows],
        entries={key: [list(row[PLACE:]) for row in group] for key, group in grouped},
    )
