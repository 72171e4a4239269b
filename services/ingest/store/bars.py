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

from services.ingest.reading.blocks import REVISION, Block, of_values, read_all
from services.ingest.timeframes import END_MS, FIRST_MS
from services.kit.db import roll_back, terminate

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
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL plan_cache_mode = force_generic_plan
"""
# On a cluster: its nodes are told the same, and a symbol's node is found by its number, which a generic plan lacks.
BEGIN_SPREAD = f"""
{BEGIN.replace("READ ONLY;", "READ ONLY; SET LOCAL citus.propagate_set_commands = 'local';")};
SET LOCAL plan_cache_mode = force_custom_plan
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
# The same rows as one value, by a statement that is planned once a connection: planning READ takes longer than reading
# a few hundred bars. Parameters are not hashed, so that it is for snapshots with few open writes.
READ_FEW = """
SELECT string_agg(timestamptz_send(ts) || float8send(open) || float8send(high) || float8send(low) || float8send(close)
                  || float8send(vwap) || float8send(volume) || int4send(trade_count) || int2send(flags), '')
FROM ((SELECT ts, open, high, low, close, vwap, volume, trade_count, flags
       FROM ingest.bar_revisions
       WHERE symbol_id = $1
         AND timeframe = $2
         AND ts >= $3
         AND ts < $4
         AND ended_write_id >= $5
         AND (ended_write_id >= $6 OR ended_write_id = ANY($7::integer[]))
         AND (write_id < $5 OR (write_id < $6 AND write_id <> ALL($7::integer[])))
       ORDER BY ts {order}
       LIMIT $8)
      UNION ALL
      (SELECT ts, open, high, low, close, vwap, volume, trade_count, flags
       FROM ingest.bars
       WHERE symbol_id = $1
         AND timeframe = $2
         AND ts >= $3
         AND ts < $4
         AND (write_id < $5 OR (write_id < $6 AND write_id <> ALL($7::integer[])))
       ORDER BY ts {order}
       LIMIT $8)) AS seen
"""
_OLDEST, _NEWEST = READ_FEW.format(order="ASC"), READ_FEW.format(order="DESC")

FEW = 2_000
"""Up to so many bars are read at once, as one value."""

_FEW_OPEN = 64

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
async def reading(db: Database, *, spread: bool = True) -> AsyncIterator[Connection]:
    """Lends a connection for reads of bars, spread over nodes or not; each statement has a snapshot of its own."""
    async with db.connection() as connection:
        await connection.execute(BEGIN_SPREAD if spread else BEGIN)
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
    if limit <= FEW + 1 and len(snapshot.open) <= _FEW_OPEN:
        return await _read_few(connection, span, snapshot, limit=limit, newest_first=newest_first)
    data = bytearray()

    async def keep(piece: bytes) -> None:
        data.extend(piece)

    sql = _sql(span, snapshot, limit=limit, revision_limit=limit, newest_first=newest_first)
    await connection.copy_from_query(sql, output=keep, format="binary")
    return read_all(bytes(data), newest_first=newest_first, limit=limit)


async def _read_few(connection: Connection, span: Span, snapshot: Snapshot, *, limit: int, newest_first: bool) -> Block:
    data = await connection.fetchval(
        _NEWEST if newest_first else _OLDEST,
        span.symbol_id,
        span.timeframe,
        _moment(span.start_ms),
        _moment(span.end_ms),
        snapshot.low,
        snapshot.high,
        snapshot.open,
        limit,
    )
    return of_values(data or b"", newest_first=newest_first, limit=limit)


async def copy(
    connection: Connection,
    span: Span,
    snapshot: Snapshot,
    take: Callable[[bytes], Coroutine[Any, Any, None]],
    *,
    revision_limit: int,
) -> None:
    """Hands the bytes of a binary COPY of a span to `take`, which may keep it waiting as long as it likes.

    Where `take` raises, the connection ends: to cancel the COPY and wait for it takes a second, to connect again a
    hundredth.
    """
    sql = _sql(span, snapshot, limit=None, revision_limit=revision_limit, newest_first=False)
    try:
        await connection.copy_from_query(sql, output=take, format="binary", timeout=_COPY_SECONDS)
    except BaseException:
        terminate(connection)
        raise


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
    return _moment(milliseconds).isoformat()


def _moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=min(max(milliseconds, FIRST_MS), END_MS))
