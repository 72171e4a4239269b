"""Reads the versions of bars that are seen at an instant.

Bars and revisions are read in one statement, one symbol at a time: two statements would have two snapshots, and a bar
corrected between them would be in neither. The statement gives two runs, each by time: first the replaced versions that
were seen at the instant, which are few, then the present ones; the reader merges them. An ORDER BY over both would sort
all bars.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from services.ingest.reading.blocks import REVISION, Block, read_all
from services.ingest.timeframes import END_MS, FIRST_MS
from services.kit.db import roll_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Connection, Database

# Sequential and bitmap scans are what a planner without statistics takes for a long span; parallel workers would mix
# the two runs.
BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL max_parallel_workers_per_gather = 0
"""

READ = """
(SELECT ts, open, high, low, close, vwap, volume, trade_count, (flags | {revision})::smallint
 FROM ingest.bar_revisions
 WHERE symbol_id = {symbol_id}
   AND timeframe = {timeframe}
   AND ts >= '{start}'
   AND ts < '{end}'
   AND ended_write_id >= {low}
   AND NOT {ended_seen}
   AND {written_seen}
 ORDER BY ts {order}
 LIMIT {revision_limit})
UNION ALL
(SELECT ts, open, high, low, close, vwap, volume, trade_count, flags
 FROM ingest.bars
 WHERE symbol_id = {symbol_id}
   AND timeframe = {timeframe}
   AND ts >= '{start}'
   AND ts < '{end}'
   AND {written_seen}
 ORDER BY ts {order}
 LIMIT {limit})
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COPY_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Names bars of one series: from start_ms, inclusive, to end_ms, exclusive."""

    symbol_id: int
    timeframe: int
    start_ms: int = FIRST_MS
    end_ms: int = END_MS


@asynccontextmanager
async def reading(db: Database) -> AsyncIterator[Connection]:
    """Lends a connection for reads of bars; each statement has a snapshot of its own."""
    async with db.connection() as connection:
        await connection.execute(BEGIN)
        try:
            yield connection
        except BaseException:
            await roll_back(connection)
            raise
        await connection.execute("COMMIT")


async def read(
    connection: Connection, span: Span, snapshot: Snapshot, *, limit: int, newest_first: bool = False
) -> Block:
    """Returns at most `limit` bars from one end of a span."""
    data = bytearray()

    async def keep(piece: bytes) -> None:
        data.extend(piece)

    sql = _sql(span, snapshot, limit=limit, revision_limit=limit, newest_first=newest_first)
    await connection.copy_from_query(sql, output=keep, format="binary")
    return read_all(bytes(data), newest_first=newest_first, limit=limit)


async def copy(
    connection: Connection,
    span: Span,
    snapshot: Snapshot,
    take: Callable[[bytes], Coroutine[Any, Any, None]],
    *,
    revision_limit: int,
) -> None:
    """Hands the bytes of a binary COPY of a span to `take`, which may keep it waiting as long as it likes."""
    sql = _sql(span, snapshot, limit=None, revision_limit=revision_limit, newest_first=False)
    await connection.copy_from_query(sql, output=take, format="binary", timeout=_COPY_SECONDS)


def _sql(span: Span, snapshot: Snapshot, *, limit: int | None, revision_limit: int, newest_first: bool) -> str:
    # COPY takes no parameters; all that goes in here is a number, or a time made from one.
    return READ.format(
        symbol_id=int(span.symbol_id),
        timeframe=int(span.timeframe),
        start=_time(span.start_ms),
        end=_time(span.end_ms),
        low=int(snapshot.low),
        ended_seen=snapshot.condition("ended_write_id"),
        written_seen=snapshot.condition("write_id"),
        order="DESC" if newest_first else "ASC",
        limit="ALL" if limit is None else int(limit),
        revision_limit=int(revision_limit),
        revision=REVISION,
    )


def _time(milliseconds: int) -> str:
    return (_EPOCH + timedelta(milliseconds=min(max(milliseconds, FIRST_MS), END_MS))).isoformat()
