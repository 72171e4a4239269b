"""Reads the newest bar of many series by exact keys: a search for each series' last row would read far more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.ingest.columns import Columns
from services.ingest.reading.blocks import Block
from services.ingest.store.bars import Span, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from services.ingest.store.figures import Written
    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Connection

# The symbols stand there twice, so that a cluster asks only their nodes.
LAST = """
SELECT b.symbol_id, b.write_id,
       (extract(epoch FROM b.ts) * 1000)::bigint AS ts,
       b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trade_count, b.flags
FROM unnest($1::integer[], $3::timestamptz[]) AS u (symbol_id, ts)
JOIN ingest.bars b ON b.symbol_id = u.symbol_id AND b.ts = u.ts
WHERE b.symbol_id = ANY($1::integer[])
  AND b.timeframe = $2
"""

_NUMBERS = ("open", "high", "low", "close", "volume", "vwap")


async def latest(
    connection: Connection, written: Mapping[int, Written], timeframe: int, snapshot: Snapshot
) -> dict[int, Block]:
    """Returns the newest bar of each series that has one, by symbol_id, as blocks of one bar.

    `written` says where the series end now, read after the snapshot was taken.
    """
    # No later write than is seen is in these series, and none earlier is missing: what is stored is what was seen.
    ends = {one: last.last_ts for one, last in written.items() if last.last_ts and snapshot.sees(last.write_id)}
    found: dict[int, Block] = {}
    for row in await connection.fetch(LAST, list(ends), timeframe, list(ends.values())) if ends else ():
        if snapshot.sees(row["write_id"]):
            found[row["symbol_id"]] = _block(row)
    for symbol_id in written:
        # A bar that was replaced or deleted meanwhile is among the revisions, too.
        if symbol_id not in found and (symbol_id in ends or not snapshot.sees(written[symbol_id].write_id)):
            span = Span(symbol_id=symbol_id, timeframe=timeframe)
            block = await read(connection, span, snapshot, limit=1, newest_first=True)
            if len(block):
                found[symbol_id] = block
    return found


def _block(row: asyncpg.Record) -> Block:
    prices = {name: np.array([row[name]], np.float64) for name in _NUMBERS}
    ts, trades = np.array([row["ts"]], np.int64), np.array([row["trade_count"]], np.int64)
    return Block(Columns(ts=ts, trade_count=trades, **prices), np.array([row["flags"]], np.int16))
