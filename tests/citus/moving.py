"""What tests of `distribute` look at: the rows, where they are, and what is wrong with that."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

FILL = """
INSERT INTO ingest.bars
SELECT timestamptz '2024-01-02 00:00Z' + i * interval '1 min', 1, 2, 1, 2, 1.5, i, i % 7, i, 1, 1, 0
FROM generate_series(1, $1) AS i
"""
FILL_REVISIONS = """
INSERT INTO ingest.bar_revisions
SELECT ts, open, high, low, close, vwap, volume, symbol_id, trade_count, write_id, 2, timeframe, flags
FROM ingest.bars
WHERE symbol_id = 3
"""
ROWS = "SELECT count(*), coalesce(sum(hashtext(t::text)::bigint), 0) FROM {} AS t"
DISTRIBUTED = "SELECT array_agg(logicalrelid::text ORDER BY logicalrelid::text) FROM pg_dist_partition"
PORT_OF = """
SELECT n.nodeport
FROM pg_dist_placement p
JOIN pg_dist_node n USING (groupid)
WHERE p.shardid = get_shard_id_for_distribution_column('ingest.bars', $1::integer)
"""
LEFT_HERE = "SELECT pg_relation_size('ingest.bars') + pg_relation_size('ingest.bar_revisions')"
BOTH = ["ingest.bar_revisions", "ingest.bars"]


async def fill(conn: asyncpg.Connection, bars: int = 2000) -> list[tuple[int, int]]:
    """Stores bars of seven symbols and revisions of one, and returns what `rows` does."""
    await conn.execute(FILL, bars)
    await conn.execute(FILL_REVISIONS)
    return await rows(conn)


async def rows(conn: asyncpg.Connection) -> list[tuple[int, int]]:
    """Returns count and checksum of both tables."""
    return [tuple(await conn.fetchrow(ROWS.format(name))) for name in ("ingest.bars", "ingest.bar_revisions")]


async def distributed(conn: asyncpg.Connection) -> list[str]:
    """Returns the names of the tables that are distributed."""
    return await conn.fetchval(DISTRIBUTED) or []
