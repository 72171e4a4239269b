"""Writes parts of many series: a day of the market, or files. One transaction, whatever the number of series.

Series that the part continues behind all they hold are judged and written together. Those that hold bars in the span
already are compared together, and merged one by one only where something differs. Lock order as in parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import EVERY_DAY, date_of, day_of
from services.ingest.columns import concatenate, inside
from services.ingest.merge import Answer, Held, merge
from services.ingest.quality import Contexts, decode_tail, judge_many, validated
from services.ingest.store import around, origins, parts, refused, rows, splits
from services.ingest.store.instants import from_ms, to_ms, to_us
from services.ingest.store.rows import SeriesKey
from services.ingest.store.tallies import Tally, answered, ending, superseded
from services.kit.db import roll_back

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import timedelta

    import asyncpg

    from services.ingest.batches import Batch
    from services.ingest.columns import BoolArray, Columns, IntArray
    from services.ingest.quality import Split
    from services.ingest.store.slices import Claim
    from services.kit.db import Connection, Database

    # What else a part writes, given the bars by day that later answers know otherwise.
    Also = Callable[[Connection, dict[int, int]], Awaitable[None]]

BEGIN_MANY = """
SELECT symbol_id, last_ts, tail, newer_from, newer_to, newer_partial, deleted, void, splits
FROM ingest.begin_many($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""

IS_OURS = """
SELECT token = $2 AND write_id = $3 AND state = 2
FROM ingest.slices
WHERE slice_id = $1
"""

END_MANY = """
SELECT state, write_id
FROM ingest.end_many($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                     $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35)
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What a part did: the slice's state after it, and the claim with which the next part goes on."""

    state: int
    claim: Claim
    inserted: int
    updated: int
    unchanged: int
    superseded: dict[int, int]
    """Bars, by day, that a later answer knows otherwise."""


async def write(
    db: Database, claim: Claim, part: Batch, *, done: bool, also: Also | None = None, note: str = ""
) -> Written | None:
    """Writes a part; None when the slice is no longer the claim's, and nothing is written then.

    The claim goes on until the part that is `done`: its lease is renewed, and the answer holds the claim for the next.
    A note stays with the slice as its reason.
    """
    async with db.connection() as conn:
        await conn.execute(parts.BEGIN)
        try:
            written = await _write(conn, claim, part, also, (done, claim.lease, note))
            await conn.execute("COMMIT" if written else "ROLLBACK")
        except BaseException:
            await roll_back(conn)
            raise
    return written


async def _write(
    conn: Connection, claim: Claim, part: Batch, also: Also | None, onward: tuple[bool, timedelta, str]
) -> Written | None:
    heads = await _begin(conn, claim, part)
    if heads is None:
        return None
    any_known = bool(heads) and heads[0]["splits"]
    known = await splits.read(conn, part.symbol_ids.tolist(), part.span) if any_known else {}
    writing = _Writing(conn, claim, _without_void(part, heads), heads, known, Tally.of(len(heads)))
    writing.tally.unchanged += len(part.bars) - len(writing.part.bars)
    await writing.run()
    await _bring_back(conn, part, heads)
    new_rejects = await refused.keep_many(conn, claim.slice_id, part.timeframe, part.rejects)
    terms = ending(part, writing.tally, [new_rejects.get(one, 0) for one in part.symbol_ids.tolist()])
    position = int(part.symbol_ids[-1]) if len(part.symbol_ids) else None
    if also is not None:
        await also(conn, writing.tally.superseded)
    row = await conn.fetchrow(END_MANY, claim.slice_id, claim.write_id, *terms, position, *onward)
    assert row is not None  # noqa: S101 - the function returns one row
    return writing.written(row["state"], replace(claim, write_id=row["write_id"] or 0, position=position))


async def _begin(conn: Connection, claim: Claim, part: Batch) -> list[asyncpg.Record] | None:
    """Locks the series and returns what is known of each, in their order; None when the slice is no longer ours."""
    span = part.span
    zone = "UTC" if span.daily or part.sessions.calendar == EVERY_DAY else "America/New_York"
    ids = (claim.slice_id, claim.token, claim.write_id)
    bounds = (from_ms(span.start_ms), from_ms(span.end_ms), zone)
    heads = await conn.fetch(BEGIN_MANY, *ids, part.symbol_ids.tolist(), part.timeframe, part.fetch_time, *bounds)
    if not heads and not await conn.fetchval(IS_OURS, *ids):
        return None
    return heads


def _without_void(part: Batch, heads: Sequence[asyncpg.Record]) -> Batch:
    """Returns the part without bars of sessions that were deleted and stay so."""
    kept = np.ones(len(part.bars), np.bool_)
    for at in [at for at, row in enumerate(heads) if row["void"]]:
        own = slice(int(part.starts[at]), int(part.starts[at + 1]))
        kept[own] = ~inside(part.bars.ts[own], _void(part, heads[at]))
    if kept.all():
        return part
    starts = np.concatenate([[0], np.cumsum(kept)])[part.starts]
    return replace(part, starts=starts, bars=part.bars.take(np.flatnonzero(kept)))


def _void(part: Batch, head: asyncpg.Record) -> list[tuple[int, int]]:
    span = part.span
    return [(span.start_of(day_of(run.lower)), span.start_of(day_of(run.upper))) for run in head["void"] or ()]


def _later(part: Batch, head: asyncpg.Record) -> list[tuple[int, int]]:
    """Returns the spans of which something later is known."""
    ends = zip(head["newer_from"] or (), head["newer_to"] or (), strict=True)
    return [(to_ms(start), to_ms(end)) for start, end in ends] + _void(part, head)


@dataclass(frozen=True, slots=True)
class _Writing:
    """A part whose series are locked."""

    conn: Connection
    claim: Claim
    part: Batch
    heads: Sequence[asyncpg.Record]
    splits: Mapping[int, Sequence[Split]]
    tally: Tally

    async def run(self) -> None:
        """Writes the bars."""
        start = from_ms(self.part.span.start_ms)
        behind = [
            (row["last_ts"] is None or row["last_ts"] < start) and not row["newer_from"] and not row["void"]
            for row in self.heads
        ]
        continued = np.array(behind, np.bool_) & (np.diff(self.part.starts) > 0) & ~self._near_splits()
        self._append(np.flatnonzero(continued))
        await self._lay_over(np.flatnonzero(~continued))
        await self._flush()

    def _near_splits(self) -> BoolArray:
        """Says which series have a split among their bars or those before, and cannot be judged with the others."""
        near = np.zeros(len(self.heads), np.bool_)
        for at, symbol_id in enumerate(self.part.symbol_ids.tolist() if self.splits else ()):
            bars, before = self.part.bars_of(at), decode_tail(self.heads[at]["tail"])
            for split in self.splits.get(symbol_id, ()) if len(bars) else ():
                first = before.ts[0] if len(before.ts) else bars.ts[0]
                near[at] |= first < split.effective_ms <= bars.ts[-1]
        return near

    def written(self, state: int, onward: Claim) -> Written:
        """Says what was done."""
        tally = self.tally
        return Written(state, onward, int(tally.inserted.sum()), tally.updated, tally.unchanged, tally.superseded)

    def _append(self, which: IntArray) -> None:
        """Judges the bars of series that hold none so late, all at once."""
        if not len(which):
            return
        part, tally = self.part, self.tally
        lengths = np.diff(part.starts)[which]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        bars = part.bars.take(np.arange(starts[-1]) + np.repeat(part.starts[which] - starts[:-1], lengths))
        flags, tails = judge_many(bars, starts, Contexts.of_tails([self.heads[at]["tail"] for at in which.tolist()]))
        tally.inserted[which], tally.changed[which] = lengths, True
        tally.validated[which] = np.add.reduceat(validated(flags).astype(np.int64), starts[:-1])
        tally.first[which], tally.last[which] = bars.ts[starts[:-1]], bars.ts[starts[1:] - 1]
        for at, tail in zip(which.tolist(), tails, strict=True):
            tally.tails[at] = tail
        tally.touched += [int(bars.ts.min()), int(bars.ts.max())]
        tally.pieces.append((Held(bars, flags), np.repeat(part.symbol_ids[which], lengths)))

    async def _lay_over(self, which: IntArray) -> None:
        """Merges the bars of series that hold something in or behind the span, where anything differs."""
        part, span = self.part, self.part.span
        ids = [int(part.symbol_ids[at]) for at in which.tolist()]
        stored = await around.read_many(self.conn, ids, part.timeframe, span.start_ms, span.end_ms)
        for at in which.tolist():
            bars, own = part.bars_of(at), stored.get(int(part.symbol_ids[at]))
            if own is not None:
                self.tally.stored[at] = own.bars.ts
            if len(bars) and own is None and not _later(part, self.heads[at]):
                await self._merge(at, bars)
            elif len(bars):
                await self._lay_days_over(at, bars, own)
            elif own is not None and part.whole:
                await self._flush()
                await self._merge(at, bars)

    async def _lay_days_over(self, at: int, bars: Columns, own: Held | None) -> None:
        """Merges a series day by day, since each day was answered at a time of its own."""
        part, span = self.part, self.part.span
        later, days = _later(part, self.heads[at]), span.days(bars.ts)
        for day in np.unique(days).tolist():
            said = bars.take(np.flatnonzero(days == day))
            held = None if own is None else own.take(np.flatnonzero(span.days(own.bars.ts) == day))
            if held is not None and not inside(said.ts, later).any() and _same(said, held, partial=part.partial):
                self.tally.unchanged += len(said)
            else:
                await self._flush()
                await self._merge(at, said)

    async def _merge(self, at: int, bars: Columns) -> None:
        """Merges bars of one series, and of one day unless nothing is stored; no bars make the stored ones ABSENT."""
        conn, part, span = self.conn, self.part, self.part.span
        key = SeriesKey(int(part.symbol_ids[at]), part.timeframe)
        first, last = (
            (span.day(int(bars.ts[at])) for at in (0, -1)) if len(bars) else (part.first_day, part.end_day - 1)
        )
        bounds = span.start_of(first), span.start_of(last + 1)
        stored = await around.neighbourhood(
            conn, key, await around.read(conn, key, *bounds, parts.MOST_STORED), *bounds
        )
        later = _later(part, self.heads[at])
        bare = [one for one, partial in zip(later, self.heads[at]["newer_partial"] or (), strict=False) if partial]
        claim = replace(self.claim, key=key, fetch_time=part.fetch_time_of(last))
        answer = Answer(bars, to_us(claim.fetch_time), later, bare, part.partial)
        outcome = merge(answer, stored, self.splits.get(key.symbol_id, ()))
        await origins.note(conn, claim, outcome)
        await parts.change(conn, key, claim.write_id, outcome.changed)
        self.tally.add(at, key.symbol_id, outcome)
        self.tally.lose(last, superseded(bars, stored.own, later))

    async def _flush(self) -> None:
        """Writes the bars that are to be inserted."""
        tally = self.tally
        if not tally.pieces:
            return
        bars, flags = concatenate([one.bars for one, _ in tally.pieces]), [one.flags for one, _ in tally.pieces]
        held, owners = Held(bars, np.concatenate(flags)), np.concatenate([whose for _, whose in tally.pieces])
        tally.inserted_times.append((owners, bars.ts))
        tally.pieces.clear()
        source = parts.each(rows.pieces_of_many(held, owners, self.part.timeframe, self.claim.write_id))
        await self.conn.copy_to_table(
            "bars", schema_name="ingest", columns=rows.COLUMNS, source=source, format="binary"
        )


def _same(said: Columns, held: Held, *, partial: bool) -> bool:
    """Says whether bars are stored as they are said."""
    if len(said) != len(held) or held.absent.any() or not np.array_equal(said.ts, held.bars.ts):
        return False
    said = replace(said, vwap=held.bars.vwap) if partial else said
    return bool(said.same_values(held.bars).all())


async def _bring_back(conn: Connection, part: Batch, heads: Sequence[asyncpg.Record]) -> None:
    """Notes that sessions which were deleted are answered again."""
    again = [at for at, row in enumerate(heads) if row["deleted"]]
    if not again:
        return
    first, end = answered(part)
    for at in [at for at in again if first[at] < end[at]]:
        key = (int(part.symbol_ids[at]), part.timeframe)
        dates = date_of(int(first[at])), date_of(int(end[at]))
        await conn.execute(parts.BRING_BACK, *key, *dates, heads[at]["void"] or [])
