"""Writes down files that are imported, and hands out the slices that import them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.kit.db import roll_back
from services.kit.tickers import CRYPTO, ETF, STOCK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime

    import asyncpg

    from services.ingest.store.slices import Claim
    from services.kit.db import Connection, Database

HOLDINGS = """
SELECT symbol_id, ticker, provider_ticker, from_date, to_date
FROM symbols.ticker_spans
WHERE asset_class = ANY ($1::smallint[])
ORDER BY symbol_id, from_date
"""

BEGIN_PART = """
SELECT ingest.begin_part($1, $2, $3)
"""

# One for the same jobs that is there already was made before a worker was lost.
ADD_SLICE = """
WITH jobs AS (
  SELECT backfill_id
  FROM ingest.backfill_slices
  WHERE slice_id = $1
), made AS (
  INSERT INTO ingest.slices (kind, mode, priority, turn, timeframe, asset_class, provider_ticker, first_date, last_date)
  SELECT 3, s.mode, s.priority, s.turn, $2, $3, $4, $5, $6
  FROM ingest.slices s
  WHERE s.slice_id = $1
    AND NOT EXISTS (
      SELECT FROM jobs
      JOIN ingest.backfill_slices l USING (backfill_id)
      JOIN ingest.slices o ON o.slice_id = l.slice_id
      WHERE o.slice_id <> $1
        AND o.provider_ticker = $4
        AND o.first_date = $5
        AND o.last_date = $6
    )
  RETURNING slice_id
)
INSERT INTO ingest.backfill_slices (backfill_id, slice_id)
SELECT j.backfill_id, m.slice_id
FROM jobs j, made m
"""

CLOSE = """
SELECT ingest.close_slice($1, $2, 3::smallint, $3)
"""

# A file that was imported before is taken again only when all is.
TAKE_FILES = """
INSERT INTO ingest.files AS f (slice_id, timeframe, asset_class, name, sha256, size, published, file_date)
SELECT $1, $2, $3, u.name, u.sha256, u.size, u.published, u.file_date
FROM unnest($5::text[], $6::bytea[], $7::bigint[], $8::timestamptz[], $9::date[])
  AS u (name, sha256, size, published, file_date)
ON CONFLICT (sha256) DO UPDATE
SET slice_id = excluded.slice_id, finish_time = NULL, superseded = 0
WHERE f.finish_time IS NULL
   OR $4
RETURNING file_id, sha256
"""

COUNT_FILE = """
UPDATE ingest.files
SET superseded = superseded + $2
WHERE file_id = $1
"""

FINISH_FILES = """
UPDATE ingest.files f
SET rows = u.rows, rejected = u.rejected, unknown = u.unknown, finish_time = clock_timestamp()
FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[]) AS u (file_id, rows, rejected, unknown)
WHERE f.file_id = u.file_id
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice to be: files of one kind from one date to another; the path is that of the only one, or of the folder."""

    path: str
    timeframe: int
    asset_class: int
    first: date
    last: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file as it was found."""

    name: str
    sha256: bytes
    size: int
    published: datetime
    day: date


async def holdings(db: Database, asset_class: int) -> list[asyncpg.Record]:
    """Returns who holds or held which ticker; of stocks and ETFs together, since they share a market."""
    classes = [CRYPTO] if asset_class == CRYPTO else [STOCK, ETF]
    return await db.fetch(HOLDINGS, classes)


async def list_done(db: Database, claim: Claim, pieces: Sequence[Piece], note: str) -> bool:
    """Writes the slices that a listing has found and ends it; False when it is no longer the claim's."""
    return await _add(db, claim, pieces, note)


async def set_apart(db: Database, claim: Claim, pieces: Sequence[Piece]) -> bool:
    """Gives files slices of their own, to fail by themselves; False when the slice is no longer the claim's."""
    return await _add(db, claim, pieces, None)


async def _add(db: Database, claim: Claim, pieces: Sequence[Piece], note: str | None) -> bool:
    async with db.connection() as conn:
        await conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            ours = bool(await conn.fetchval(BEGIN_PART, claim.slice_id, claim.token, claim.write_id))
            for one in pieces if ours else ():
                span = (one.first, one.last)
                await conn.execute(ADD_SLICE, claim.slice_id, one.timeframe, one.asset_class, one.path, *span)
            if ours and note is not None:
                await conn.fetchval(CLOSE, claim.slice_id, claim.token, note)
            await conn.execute("COMMIT" if ours else "ROLLBACK")
        except BaseException:
            await roll_back(conn)
            raise
    return ours


async def take(db: Database, claim: Claim, found: Sequence[Found], *, again: bool) -> dict[str, int]:
    """Notes that a slice imports files; returns the ids by name of those that were not imported before, or are again.

    Of several with the same content the first is imported.
    """
    once = list({one.sha256: one for one in reversed(found)}.values())
    columns = zip(*((one.name, one.sha256, one.size, one.published, one.day) for one in once), strict=True)
    kind = (claim.key.timeframe, claim.asset_class)
    rows = await db.fetch(TAKE_FILES, claim.slice_id, *kind, again, *map(list, columns)) if once else []
    names = {one.sha256: one.name for one in once}
    return {names[row["sha256"]]: row["file_id"] for row in rows}


async def note(conn: Connection, superseded: Mapping[int, int]) -> None:
    """Adds up, in a part, how many lines of files later answers know better."""
    for file_id, count in superseded.items():
        await conn.execute(COUNT_FILE, file_id, count)


async def finish(conn: Connection, counts: Mapping[int, tuple[int, int, int]]) -> None:
    """Notes, in the last part, that files are imported, with their rows, rejected and unknown lines."""
    columns = zip(*counts.values(), strict=True) if counts else ((), (), ())
    await conn.execute(FINISH_FILES, list(counts), *(list(column) for column in columns))
