"""Writes parts: one answer's bars with all that follows from them, in one transaction and five round trips.

Lock order: the write's advisory lock, the slice, the series, bars, revisions, sessions, suspects, the commit lock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from services.ingest.calendar import date_of, day_of, starts_of_days
from services.ingest.columns import inside
from services.ingest.merge import Answer, Held, Neighbourhood, Outcome, append, merge
from services.ingest.quality import NO_CONTEXT, WINDOW, FlagArray, decode_tail, judge
from services.ingest.slices import runs_without
from services.ingest.store import origins, refused, rows
from services.ingest.store.instants import from_ms, to_ms, to_us
from services.kit.db import roll_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from datetime import date

    import asyncpg

    from services.ingest.columns import Columns, IntArray
    from services.ingest.slices import SliceSpan
    from services.ingest.store.refused import Reject
    from services.ingest.store.rows import SeriesKey
    from services.ingest.store.slices import Claim
    from services.kit.db import Connection, Database

# On a table that was never analysed the planner would scan the whole series for twenty bars, and sort it. A cluster's
# nodes are told the same, and get one connection each for all the series of a part; one server keeps both settings and
# knows nothing of them.
BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL citus.propagate_set_commands = 'local';
SET LOCAL citus.multi_shard_modify_mode = 'sequential';
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_sort = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off
"""

BEGIN_RANGE = """
SELECT last_ts, tail, newer_from, newer_to, newer_partial, deleted, void, ingest.known_splits($4) AS splits
FROM ingest.begin_range($1, $2, $3, $4, $5, $6, $7, $8)
"""

READ = """
(SELECT {columns}
 FROM ingest.bars
 WHERE symbol_id = {symbol_id}
   AND timeframe = {timeframe}
   AND ts < {start}
 ORDER BY ts DESC
 LIMIT {window})
UNION ALL
(SELECT {columns}
 FROM ingest.bars
 WHERE symbol_id = {symbol_id}
   AND timeframe = {timeframe}
   AND ts >= {start}
   AND ts < {end}
 ORDER BY ts
 LIMIT {limit})
UNION ALL
(SELECT {columns}
 FROM ingest.bars
 WHERE symbol_id = {symbol_id}
   AND timeframe = {timeframe}
   AND ts >= {end}
 ORDER BY ts
 LIMIT {window})
"""

# A version that the same write has made is changed in place.
KEEP_VERSIONS = """
INSERT INTO ingest.bar_revisions (
  ts, open, high, low, close, vwap, volume, symbol_id, trade_count, write_id, ended_write_id, timeframe, flags)
SELECT b.ts, b.open, b.high, b.low, b.close, b.vwap, b.volume, b.symbol_id, b.trade_count, b.write_id, $3, b.timeframe,
       b.flags
FROM unnest($4::timestamptz[]) AS u (ts)
JOIN ingest.bars b ON b.symbol_id = $1 AND b.timeframe = $2 AND b.ts = u.ts
WHERE b.write_id <> $3
"""

CHANGE = """
UPDATE ingest.bars b
SET open = u.open, high = u.high, low = u.low, close = u.close, vwap = u.vwap, volume = u.volume,
    trade_count = u.trade_count, flags = u.flags, write_id = $3
FROM unnest($4::timestamptz[], $5::float8[], $6::float8[], $7::float8[], $8::float8[], $9::float8[], $10::float8[],
            $11::integer[], $12::smallint[])
  AS u (ts, open, high, low, close, vwap, volume, trade_count, flags)
WHERE b.symbol_id = $1
  AND b.timeframe = $2
  AND b.ts = u.ts
"""

END_RANGE = """
SELECT ingest.end_range($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                        $21, $22, $23, $24, $25, $26, $27, $28)
"""

BRING_BACK = """
UPDATE ingest.series
SET deleted = deleted - (datemultirange(daterange($3, $4)) - $5::datemultirange)
WHERE symbol_id = $1
  AND timeframe = $2
"""

MOST_STORED = 100_000
"""A part that would read more stored bars than this covers only their span: memory stays bounded."""

Spans = list[tuple[int, int]]

_VALUES = ("open", "high", "low", "close", "vwap", "volume", "trade_count")


@dataclass(frozen=True, slots=True)
class Part:
    """What one answer brings: possible bars, ascending, each time once, and impossible ones.

    It answers the span up to until_ms, exclusive; `done` when the slice ends there.
    """

    claim: Claim
    span: SliceSpan
    bars: Columns
    rejects: Sequence[Reject]
    until_ms: int

    @property
    def done(self) -> bool:
        return self.until_ms >= self.span.end_ms

    def cut(self, until_ms: int) -> Part:
        """Returns the part up to an earlier time; what lies behind it is asked for again."""
        kept = self.bars.take(slice(0, int(np.searchsorted(self.bars.ts, until_ms))))
        return replace(self, bars=kept, rejects=[one for one in self.rejects if one.ts < until_ms], until_ms=until_ms)


@dataclass(frozen=True, slots=True)
class Written:
    """What a part did, and the state it left the slice in."""

    state: int
    inserted: int
    updated: int
    unchanged: int
    rejected: int
    until_ms: int


async def write(db: Database, part: Part) -> Written | None:
    """Writes a part; None when the slice is no longer the claim's, and nothing is written then."""
    # Before the transaction: the first WINDOW flags are judged again once the bars before are known.
    flags = judge(part.bars, NO_CONTEXT)
    async with db.connection() as conn:
        await conn.execute(BEGIN)
        try:
            head = await _begin(conn, part)
            written = await _write(conn, part, head, flags) if head else None
            await conn.execute("COMMIT" if written else "ROLLBACK")
        except BaseException:
            await roll_back(conn)
            raise
    return written


async def _begin(conn: Connection, part: Part) -> asyncpg.Record | None:
    claim = part.claim
    return await conn.fetchrow(
        BEGIN_RANGE,
        claim.slice_id,
        claim.token,
        claim.write_id,
        claim.key.symbol_id,
        claim.key.timeframe,
        claim.fetch_time,
        from_ms(part.span.start_ms),
        from_ms(part.until_ms),
    )


async def _write(conn: Connection, part: Part, head: asyncpg.Record, flags: FlagArray) -> Written:
    part, newer, bare = _without_void(part, head)
    last, splits = head["last_ts"], part.span.splits(head["splits"])
    held = part.bars.ts
    if not newer and (last is None or to_ms(last) < part.span.start_ms):
        outcome = append(part.bars, decode_tail(head["tail"]), flags, splits)
    else:
        part, stored = await _read(conn, part)
        held = np.union1d(part.bars.ts, stored.own.bars.ts)
        answer = Answer(part.bars, to_us(part.claim.fetch_time), newer, bare)
        outcome = merge(answer, stored, splits)
        await origins.note(conn, part.claim, outcome)
    await _store(conn, part.claim, outcome)
    new_rejects = await refused.keep(conn, part.claim, part.rejects)
    if head["deleted"]:
        await _bring_back(conn, part, head)
    state = await conn.fetchval(END_RANGE, *_ending(part, outcome, new_rejects, held))
    return Written(state, len(outcome.inserted), outcome.updated, outcome.unchanged, len(part.rejects), part.until_ms)


def _without_void(part: Part, head: asyncpg.Record) -> tuple[Part, Spans, Spans]:
    """Returns the part without what was deleted for good, the spans that later answers know, and which are bare."""
    span = part.span
    void = [(span.start_of(day_of(run.lower)), span.start_of(day_of(run.upper))) for run in head["void"]]
    ends = zip(head["newer_from"] or (), head["newer_to"] or (), strict=True)
    newer = [(to_ms(start), to_ms(end)) for start, end in ends]
    if void:
        kept = np.flatnonzero(~inside(part.bars.ts, void))
        part = replace(part, bars=part.bars.take(kept))
    bare = [span for span, partial in zip(newer, head["newer_partial"] or (), strict=True) if partial]
    return part, newer + void, bare


async def _read(conn: Connection, part: Part) -> tuple[Part, Neighbourhood]:
    """Reads what is stored around the part's span; cuts the part if that is too much for one."""
    while True:
        held = await _copy_out(conn, part)
        start, end = (int(at) for at in np.searchsorted(held.bars.ts, (part.span.start_ms, part.until_ms)))
        if end - start <= MOST_STORED:
            break
        part = part.cut(int(held.bars.ts[start + MOST_STORED]))
    own = held.take(slice(start, end))
    known = await origins.read(conn, part.claim.key, own)
    return part, Neighbourhood(held.take(slice(0, start)), own, held.take(slice(end, len(held))), known)


async def _copy_out(conn: Connection, part: Part) -> Held:
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        pieces.append(piece)

    sql = READ.format(
        columns=", ".join(rows.COLUMNS),
        symbol_id=int(part.claim.key.symbol_id),
        timeframe=int(part.claim.key.timeframe),
        start=rows.literal(part.span.start_ms),
        end=rows.literal(part.until_ms),
        window=WINDOW,
        limit=MOST_STORED + 1,
    )
    await conn.copy_from_query(sql, output=take, format="binary")
    held = rows.decode(b"".join(pieces))
    # The bars before the span come newest first.
    return held.take(np.argsort(held.bars.ts, kind="stable"))


async def change(conn: Connection, key: SeriesKey, write_id: int, changed: Held) -> None:
    """Replaces stored bars, and keeps what they were."""
    if len(changed):
        times = [from_ms(ms) for ms in changed.bars.ts.tolist()]
        where = (key.symbol_id, key.timeframe, write_id, times)
        await conn.execute(KEEP_VERSIONS, *where)
        values = (getattr(changed.bars, name).tolist() for name in _VALUES)
        await conn.execute(CHANGE, *where, *values, changed.flags.tolist())


async def _store(conn: Connection, claim: Claim, outcome: Outcome) -> None:
    await change(conn, claim.key, claim.write_id, outcome.changed)
    if len(outcome.inserted):
        pieces = rows.pieces(outcome.inserted, claim.key, claim.write_id)
        await conn.copy_to_table(
            "bars", schema_name="ingest", columns=rows.COLUMNS, source=each(pieces), format="binary"
        )


async def _bring_back(conn: Connection, part: Part, head: asyncpg.Record) -> None:
    """Notes that sessions which were deleted are answered again."""
    first, end = part.span.answered(part.until_ms)
    key = (part.claim.key.symbol_id, part.claim.key.timeframe)
    await conn.execute(BRING_BACK, *key, date_of(first), date_of(max(first, end)), head["void"])


async def each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _ending(part: Part, outcome: Outcome, new_rejects: int, held: IntArray) -> tuple[Any, ...]:
    """Returns the arguments of END_RANGE; `held` are the times of all bars that the span holds then."""
    claim, span, inserted = part.claim, part.span, outcome.inserted.bars
    first_day, end_day = span.answered(part.until_ms)
    touched = outcome.touched
    sessions, by_day = sessions_of(span, inserted.ts)
    return (
        claim.slice_id,
        claim.write_id,
        claim.key.symbol_id,
        claim.key.timeframe,
        span.sessions.calendar,
        len(inserted),
        outcome.updated,
        outcome.unchanged,
        len(part.rejects),
        new_rejects,
        outcome.validated,
        *((from_ms(int(inserted.ts[at])) for at in (0, -1)) if len(inserted) else (None, None)),
        *((from_ms(ms) for ms in touched) if touched else (None, None)),
        outcome.tail,
        sessions,
        *by_day,
        claim.fetch_time,
        from_ms(span.start_ms),
        from_ms(part.until_ms),
        date_of(first_day),
        date_of(end_day),
        part.done,
        *_empty_runs(span, first_day, end_day, held),
    )


def _empty_runs(span: SliceSpan, first_day: int, end_day: int, held: IntArray) -> tuple[list[date], list[date]]:
    """Returns first and last dates of the runs of sessions without a daily bar; of minutes the database knows."""
    if not span.daily:
        return [], []
    days = span.sessions.days
    asked = days[np.searchsorted(days, first_day) : np.searchsorted(days, end_day)]
    runs = runs_without(asked, span.days(held))
    return [date_of(first) for first, _ in runs], [date_of(last) for _, last in runs]


def sessions_of(span: SliceSpan, ts: IntArray) -> tuple[int, tuple[list[Any], list[int], list[int]]]:
    """Returns what ascending bars add up to: sessions of daily ones, or by day the bars and the regular minutes."""
    if span.daily or not len(ts):
        return span.sessions.held(span.days(ts)), ([], [], [])
    sessions = span.sessions
    days = np.arange(span.day(int(ts[0])), span.day(int(ts[-1])) + 1)
    edges = np.searchsorted(ts, starts_of_days(np.append(days, days[-1] + 1), sessions.calendar))
    counts, regular = np.diff(edges), np.zeros(len(days), np.int64)
    open_days = slice(*np.searchsorted(sessions.days, [days[0], days[-1] + 1]))
    opened, closed = (np.searchsorted(ts, at[open_days]) for at in (sessions.open_ms, sessions.close_ms))
    regular[sessions.days[open_days] - days[0]] = closed - opened
    held = counts > 0
    return 0, ([date_of(day) for day in days[held].tolist()], counts[held].tolist(), regular[held].tolist())
