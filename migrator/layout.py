"""Where the bars are: in plain tables, or spread over the nodes of a Citus cluster, and what is wrong with that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from migrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

MOVED = ("ingest.bars", "ingest.bar_revisions")
"""The tables that move to the nodes: bars first, which is also the order in which readers lock them."""
KEY_COLUMN = "symbol_id"
SCHEMAS = ("auth", "symbols", "ingest")

HAS_CITUS = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
TABLES = """
SELECT n.nspname || '.' || c.relname AS name, p.partmethod::text AS method, p.colocationid AS colocation,
       coalesce(column_to_column_name(p.logicalrelid, p.partkey), '') AS key_column,
       pg_relation_size(c.oid) AS left_here,
       (SELECT count(*) FROM pg_dist_shard s WHERE s.logicalrelid = p.logicalrelid) AS shards
FROM pg_dist_partition p
JOIN pg_class c ON c.oid = p.logicalrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY ($1)
ORDER BY name
"""
# Asks every node.
SHARES = """
SELECT nodename AS host, nodeport AS port, count(*) AS shards, sum(shard_size)::bigint AS bytes
FROM citus_shards
WHERE table_name::text = ANY ($1)
GROUP BY 1, 2
ORDER BY 1, 2
"""
PLACED = """
SELECT n.nodename AS host, n.nodeport AS port, count(p.placementid) AS shards, NULL::bigint AS bytes
FROM pg_dist_node n
JOIN pg_dist_placement p USING (groupid)
JOIN pg_dist_shard s USING (shardid)
WHERE n.noderole = 'primary' AND s.logicalrelid::text = ANY ($1)
GROUP BY 1, 2
ORDER BY 1, 2
"""
HASH = "h"
KINDS = {"n": "a reference or managed local table of Citus", "r": "by range", "a": "by append"}


@dataclass(frozen=True, slots=True)
class Spread:
    """A table that Citus manages; `left_here` is the size of a local copy that was not freed."""

    name: str
    method: str
    colocation: int
    key_column: str
    left_here: int
    shards: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables of ours that Citus manages, by name; empty on a plain server."""

    spread: dict[str, Spread]

    @property
    def moved(self) -> bool:
        """Whether all that is to move has moved."""
        return all(name in self.spread for name in MOVED)

    @property
    def left_here(self) -> int:
        """The bytes of local copies that were not freed."""
        return sum(self.spread[name].left_here for name in MOVED if name in self.spread)


async def read_layout(conn: asyncpg.Connection) -> Layout:
    """Reads where the tables are."""
    if not await conn.fetchval(HAS_CITUS):
        return Layout({})
    rows = await conn.fetch(TABLES, list(SCHEMAS))
    return Layout({row["name"]: Spread(*row) for row in rows})


def layout_problems(layout: Layout) -> Iterator[Problem]:
    """Yields what no run of `distribute` makes: another column, other tables, one without the other, apart."""
    for spread in layout.spread.values():
        where = f"table {spread.name}"
        if spread.name not in MOVED:
            yield Problem(where, "is managed by Citus, and should be a plain table of the coordinator")
        elif spread.method != HASH:
            yield Problem(where, f"is distributed as {KINDS.get(spread.method, spread.method)}, and should be by hash")
        elif spread.key_column != KEY_COLUMN:
            yield Problem(where, f"is distributed by {spread.key_column}, and should be by {KEY_COLUMN}")
    there = [layout.spread[name] for name in MOVED if name in layout.spread]
    if there and not layout.moved:
        other = next(name for name in MOVED if name not in layout.spread)
        yield Problem(f"table {other}", f"is plain, and {there[0].name} is distributed: run distribute")
    elif len({spread.colocation for spread in there}) > 1:
        yield Problem(f"table {MOVED[1]}", f"is not colocated with {MOVED[0]}")


async def layout_fields(conn: asyncpg.Connection) -> dict[str, Any]:
    """Returns the layout for programs: plain, or each node's shards and bytes (None where a node does not answer)."""
    layout = await read_layout(conn)
    if not any(name in layout.spread for name in MOVED):
        return {"kind": "plain", "nodes": [], "local_copy_bytes": 0}
    try:
        rows = await conn.fetch(SHARES, list(MOVED))
    except asyncpg.PostgresError:
        rows = await conn.fetch(PLACED, list(MOVED))
    return {"kind": "distributed", "nodes": [dict(row) for row in rows], "local_copy_bytes": layout.left_here}


def layout_text(fields: dict[str, Any]) -> str:
    """Returns the same for people."""
    if fields["kind"] == "plain":
        return "layout: plain, all tables are on this server"
    lines = [f"layout: {' and '.join(MOVED)} are distributed by {KEY_COLUMN}"]
    for node in fields["nodes"]:
        size = "of unknown size: a node does not answer" if node["bytes"] is None else size_text(node["bytes"])
        lines.append(f"  {node['host']}:{node['port']:<6} {node['shards']} shards, {size}")
    if fields["local_copy_bytes"]:
        lines.append(f"  a local copy of {size_text(fields['local_copy_bytes'])} is not freed: run distribute again")
    return "\n".join(lines)


def size_text(count: int) -> str:
    """Writes a number of bytes as people do."""
    for unit, size in (("GB", 1_000_000_000), ("MB", 1_000_000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
