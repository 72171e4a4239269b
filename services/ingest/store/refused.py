"""Keeps impossible bars as they were received."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from services.ingest.store.instants import from_ms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.ingest.store.slices import Claim
    from services.kit.db import Connection

# The years 1 to 9999: what the driver can say.
_FIRST_MS, _END_MS = -62_135_596_800_000, 253_402_300_800_000

# The same bar comes again whenever its span is asked again: that moves last_seen.
KEEP = """
WITH kept AS (
  INSERT INTO ingest.rejected_bars AS r (slice_id, symbol_id, timeframe, ticker, ts, reason, raw, raw_hash)
  SELECT $1, $2, $3, $4, u.ts, u.reason, u.raw, u.raw_hash
  FROM unnest($5::timestamptz[], $6::text[], $7::text[], $8::bytea[]) AS u (ts, reason, raw, raw_hash)
  ON CONFLICT (symbol_id, timeframe, reason, raw_hash) DO UPDATE
  SET last_seen = clock_timestamp(), slice_id = excluded.slice_id
  RETURNING r.xmax = 0 AS added
)
SELECT count(*) FROM kept WHERE added
"""

KEEP_MANY = """
WITH kept AS (
  INSERT INTO ingest.rejected_bars AS r (slice_id, symbol_id, timeframe, ticker, ts, reason, raw, raw_hash)
  SELECT $1, u.symbol_id, $2, u.ticker, u.ts, u.reason, u.raw, u.raw_hash
  FROM unnest($3::integer[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::bytea[])
    AS u (symbol_id, ticker, ts, reason, raw, raw_hash)
  ON CONFLICT (symbol_id, timeframe, reason, raw_hash) DO UPDATE
  SET last_seen = clock_timestamp(), slice_id = excluded.slice_id
  RETURNING r.symbol_id, r.xmax = 0 AS added
)
SELECT symbol_id, count(*) AS added
FROM kept
WHERE added
GROUP BY symbol_id
"""


@dataclass(frozen=True, slots=True)
class Reject:
    """An impossible bar: its time as it would be stored (milliseconds), why it is refused, its JSON."""

    ts: int
    reason: str
    raw: str

    @property
    def hash(self) -> bytes:
        return sha256(self.raw.encode()).digest()

    @property
    def time(self) -> datetime | None:
        """Returns the bar's time; None where it has none that a database could hold."""
        return from_ms(self.ts) if _FIRST_MS <= self.ts < _END_MS else None


async def keep(conn: Connection, claim: Claim, refused: Sequence[Reject]) -> int:
    """Stores impossible bars of an answer, each once; returns how many were not known."""
    if not refused:
        return 0
    once = list({(one.reason, one.hash): one for one in refused}.values())
    added: int = await conn.fetchval(
        KEEP,
        claim.slice_id,
        claim.key.symbol_id,
        claim.key.timeframe,
        claim.provider_ticker,
        [one.time for one in once],
        [one.reason for one in once],
        # Text cannot hold a NUL.
        [one.raw.replace("\x00", "\ufffd") for one in once],
        [one.hash for one in once],
    )
    return added


async def keep_many(
    conn: Connection, slice_id: int, timeframe: int, refused: Sequence[tuple[int | None, str, Reject]]
) -> dict[int | None, int]:
    """Stores impossible bars of many series, with the provider's tickers; returns by symbol how many were new."""
    if not refused:
        return {}
    once = list({(whose, one.reason, one.hash): (whose, ticker, one) for whose, ticker, one in refused}.values())
    rows = await conn.fetch(
        KEEP_MANY,
        slice_id,
        timeframe,
        [whose for whose, _, _ in once],
        [ticker for _, ticker, _ in once],
        [one.time for _, _, one in once],
        [one.reason for _, _, one in once],
        [one.raw.replace("\x00", "\ufffd") for _, _, one in once],
        [one.hash for _, _, one in once],
    )
    return {row["symbol_id"]: row["added"] for row in rows}
