"""Deletes bars of one series, a part a transaction: whole sessions, oldest first.

Lock order as in parts: the write's advisory lock, the slice, the series, bars, revisions, sessions, the commit lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import numpy as np

from services.ingest.calendar import date_of
from services.ingest.deletion import Removal, remove
from services.ingest.store import around, parts, splits
from services.ingest.store.instants import from_ms, to_ms, to_us
from services.kit.db import roll_back

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.ingest.merge import Neighbourhood
    from services.ingest.slices import SliceSpan
    from services.ingest.store.slices import Claim
    from services.kit.db import Connection, Database

BEGIN_DELETE = """
SELECT purge, create_time, kept_from, kept_to
FROM ingest.begin_delete($1, $2, $3, $4, $5, $6, $7)
"""

DELETE_BARS = """
DELETE FROM ingest.bars b
USING unnest($3::timestamptz[]) AS u (ts)
WHERE b.symbol_id = $1
  AND b.timeframe = $2
  AND b.ts = u.ts
"""

FORGET_ORIGINS = """
DELETE FROM ingest.absent_bars
WHERE symbol_id = $1
  AND timeframe = $2
  AND ts = ANY ($3::timestamptz[])
"""

PURGE_REVISIONS = """
DELETE FROM ingest.bar_revisions
WHERE symbol_id = $1
  AND timeframe = $2
  AND ts >= $3
  AND ts < $4
"""

PURGE_REJECTS = """
DELETE FROM ingest.rejected_bars
WHERE symbol_id = $1
  AND timeframe = $2
  AND ts >= $3
  AND ts < $4
"""

# A run of suspects that reaches beyond stays: whoever plans leaves out what is deleted.
FORGET_SUSPECTS = """
DELETE FROM ingest.suspects
WHERE symbol_id = $1
  AND timeframe = $2
  AND first_date >= $3
  AND last_date < $4
"""

END_DELETE = """
SELECT ingest.end_delete($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""

MOST_BARS = 20_000
"""Bars a part takes away: a transaction of some tenths of a second."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a part did, and the state it left the slice in."""

    state: int
    bars: int
    until_ms: int


async def write(db: Database, claim: Claim, span: SliceSpan, most: int = MOST_BARS) -> Deleted | None:
    """Deletes the next bars of a slice; None when it is no longer the claim's, and nothing is deleted then."""
    async with db.connection() as conn:
        await conn.execute(parts.BEGIN)
        try:
            deleted = await _write(conn, claim, span, most)
            await conn.execute("COMMIT" if deleted else "ROLLBACK")
        except BaseException:
            await roll_back(conn)
            raise
    return deleted


async def _write(conn: Connection, claim: Claim, span: SliceSpan, most: int) -> Deleted | None:
    key = (claim.key.symbol_id, claim.key.timeframe)
    ids = (claim.slice_id, claim.token, claim.write_id)
    head = await conn.fetchrow(BEGIN_DELETE, *ids, *key, from_ms(span.start_ms), from_ms(span.end_ms))
    if head is None:
        return None
    kept = [
        (to_ms(start), to_ms(end)) for start, end in zip(head["kept_from"] or (), head["kept_to"] or (), strict=True)
    ]
    until_ms, stored = await _read(conn, claim, span, most)
    known = await splits.read(conn, [claim.key.symbol_id], span)
    removal = remove(stored, kept, to_us(head["create_time"]), known.get(claim.key.symbol_id, ()))
    rejects = await _purge(conn, claim, span.start_ms, until_ms) if head["purge"] else 0
    await _take_away(conn, claim, removal, keep=not head["purge"])
    first, end = span.answered(until_ms)
    await conn.execute(FORGET_SUSPECTS, *key, date_of(first), date_of(end))
    days = _kept_days(span, kept)
    ending = _ending(claim, span, removal, until_ms)
    state = await conn.fetchval(END_DELETE, *ending, rejects, _without(first, end, days))
    return Deleted(state, len(removal.gone), until_ms)


async def _read(conn: Connection, claim: Claim, span: SliceSpan, most: int) -> tuple[int, Neighbourhood]:
    """Reads what is stored of the span and around it, up to the end of a session by which it is enough for a part."""
    until_ms, limit = span.end_ms, most
    while True:
        held = await around.read(conn, claim.key, span.start_ms, until_ms, limit + 1)
        start, end = (int(at) for at in np.searchsorted(held.bars.ts, (span.start_ms, until_ms)))
        if end - start <= limit:
            break
        first, day = span.day(span.start_ms), span.day(int(held.bars.ts[start + limit]))
        # At least a session, however many bars it has.
        until_ms, limit = span.start_of(max(day, first + 1)), limit if day > first else MOST_BARS
    return until_ms, await around.neighbourhood(conn, claim.key, held, span.start_ms, until_ms)


async def _purge(conn: Connection, claim: Claim, start_ms: int, until_ms: int) -> int:
    """Removes old versions and refused bars of a span; returns how many were refused."""
    where = (claim.key.symbol_id, claim.key.timeframe, from_ms(start_ms), from_ms(until_ms))
    await conn.execute(PURGE_REVISIONS, *where)
    return int((await conn.execute(PURGE_REJECTS, *where)).rpartition(" ")[2])


async def _take_away(conn: Connection, claim: Claim, removal: Removal, *, keep: bool) -> None:
    """Deletes bars, which are kept as versions or not, and gives others their new flags."""
    key = (claim.key.symbol_id, claim.key.timeframe)
    gone = [from_ms(ms) for ms in removal.gone.bars.ts.tolist()]
    if gone:
        if keep:
            await conn.execute(parts.KEEP_VERSIONS, *key, claim.write_id, gone)
        await conn.execute(DELETE_BARS, *key, gone)
        await conn.execute(FORGET_ORIGINS, *key, gone)
    await parts.change(conn, claim.key, claim.write_id, removal.changed)


def _kept_days(span: SliceSpan, kept: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the days, end exclusive, that later answers cover whole."""
    found = []
    for start, end in kept:
        first = span.day(start)
        first += span.start_of(first) < start
        last = span.day(end)
        if first < last:
            found.append((first, span.session_from(last)))
    return found


def _without(first: int, end: int, kept: Sequence[tuple[int, int]]) -> list[asyncpg.Range[Any]]:
    """Returns the days from first to end, exclusive, but the kept ones."""
    days = [day for day in range(first, end) if not any(start <= day < stop for start, stop in kept)]
    runs: list[list[int]] = []
    for day in days:
        if runs and runs[-1][1] == day:
            runs[-1][1] = day + 1
        else:
            runs.append([day, day + 1])
    return [asyncpg.Range(date_of(start), date_of(stop)) for start, stop in runs]


def _ending(claim: Claim, span: SliceSpan, removal: Removal, until_ms: int) -> tuple[Any, ...]:
    """Returns the first arguments of END_DELETE."""
    touched = removal.touched
    sessions, by_day = parts.sessions_of(span, removal.gone.bars.ts)
    done = until_ms >= span.end_ms
    return (
        claim.slice_id,
        claim.write_id,
        claim.key.symbol_id,
        claim.key.timeframe,
        span.sessions.calendar,
        len(removal.gone),
        removal.validated,
        *((from_ms(ms) for ms in touched) if touched else (None, None)),
        removal.tail,
        sessions,
        *by_day,
        date_of(span.answered(until_ms)[1] if done else span.day(until_ms)),
        from_ms(until_ms),
        done,
    )
