"""Reads the bars of a span of one series, and those that lie around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.ingest.merge import Held, Neighbourhood
from services.ingest.quality import WINDOW
from services.ingest.store import origins, parts, rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.store.rows import SeriesKey
    from services.kit.db import Connection

OWN_OF_MANY = """
SELECT {columns}
FROM ingest.bars
WHERE symbol_id = ANY ('{{{symbol_ids}}}'::integer[])
  AND timeframe = {timeframe}
  AND ts >= {start}
  AND ts < {end}
"""


async def read(conn: Connection, key: SeriesKey, start_ms: int, end_ms: int, limit: int) -> Held:
    """Returns the bars of a span, at most so many, with the WINDOW bars before it and the WINDOW after it."""
    sql = parts.READ.format(
        columns=", ".join(rows.COLUMNS),
        symbol_id=int(key.symbol_id),
        timeframe=int(key.timeframe),
        start=rows.literal(start_ms),
        end=rows.literal(end_ms),
        window=WINDOW,
        limit=int(limit),
    )
    held = rows.decode(await _copied(conn, sql))
    # The bars before the span come newest first.
    return held.take(np.argsort(held.bars.ts, kind="stable"))


async def neighbourhood(conn: Connection, key: SeriesKey, held: Held, start_ms: int, end_ms: int) -> Neighbourhood:
    """Parts what was read into before, own and after; looks up what is known of own bars that are ABSENT."""
    start, end = (int(at) for at in np.searchsorted(held.bars.ts, (start_ms, end_ms)))
    own = held.take(slice(start, end))
    known = await origins.read(conn, key, own)
    return Neighbourhood(held.take(slice(0, start)), own, held.take(slice(end, len(held))), known)


async def read_many(
    conn: Connection, symbol_ids: Sequence[int], timeframe: int, start_ms: int, end_ms: int
) -> dict[int, Held]:
    """Returns the bars of a span of several series, by symbol_id; nothing for those that have none."""
    if not symbol_ids:
        return {}
    sql = OWN_OF_MANY.format(
        columns=", ".join(rows.COLUMNS),
        symbol_ids=",".join(str(int(one)) for one in symbol_ids),
        timeframe=int(timeframe),
        start=rows.literal(start_ms),
        end=rows.literal(end_ms),
    )
    data = await _copied(conn, sql)
    held, owners = rows.decode(data), rows.symbol_ids(data)
    order = np.lexsort((held.bars.ts, owners))
    held, owners = held.take(order), owners[order]
    ids, first, counts = np.unique(owners, return_index=True, return_counts=True)
    spans = zip(ids.tolist(), first.tolist(), counts.tolist(), strict=True)
    return {one: held.take(slice(start, start + count)) for one, start, count in spans}


async def _copied(conn: Connection, sql: str) -> bytes:
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        pieces.append(piece)

    await conn.copy_from_query(sql, output=take, format="binary")
    return b"".join(pieces)
