"""Reads the newest bar of many series by exact keys: a search for each series' last row would read far more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.ingest.columns import Columns
from services.ingest.reading.blocks import Block
from services.ingest.store.bars import Span, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Connection

LATEST = """
SELECT s.symbol_id, s.last_write_id,
       (extract(epoch FROM b.ts) * 1000)::bigint AS ts,
       b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trade_count, b.flags
FROM ingest.series s
LEFT JOIN ingest.bars b ON b.symbol_id = s.symbol_id AND b.timeframe = s.timeframe AND b.ts = s.last_ts
WHERE s.symbol_id = ANY($1::integer[])
  AND s.timeframe = $2
"""

_NUMBERS = ("open", "high", "low", "close", "volume", "vwap")


async def latest(
    connection: Connection, symbol_ids: Sequence[int], timeframe: int, snapshot: Snapshot
) -> dict[int, Block]:
    """Returns the newest bar of each series that has one, by symbol_id, as blocks of one bar."""
    found: dict[int, Block] = {}
    for row in await connection.fetch(LATEST, symbol_ids, timeframe):
        symbol_id = row["symbol_id"]
        if row["last_write_id"] is None:
            continue
        if snapshot.sees(row["last_write_id"]):
            # No later write is in this row, and none earlier is missing: what is stored is what was seen.
            block = _block(row)
        else:
            span = Span(symbol_id=symbol_id, timeframe=timeframe)
            block = await read(connection, span, snapshot, limit=1, newest_first=True)
        if block is not None and len(block):
            found[symbol_id] = block
    return found


def _block(row: asyncpg.Record) -> Block | None:
    if row["ts"] is None:
        return None
    prices = {name: np.array([row[name]], np.float64) for name in _NUMBERS}
    ts, trades = np.array([row["ts"]], np.int64), np.array([row["trade_count"]], np.int64)
    return Block(Columns(ts=ts, trade_count=trades, **prices), np.array([row["flags"]], np.int16))
