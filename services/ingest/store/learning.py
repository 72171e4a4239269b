"""Keeps corporate actions with their versions, and judges the bars around a split anew when it is learned or withdrawn.

Lock order: the write's advisory lock, the slice, the lock of all actions, the series, bars, revisions, the commit lock.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from services.ingest.corporate_actions import SUBJECTS, Fact, Known, Learned, Terms, Version, learn
from services.ingest.store import parts, rejudging
from services.ingest.store.instants import from_ms
from services.ingest.store.rows import SeriesKey
from services.kit.db import roll_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

    import asyncpg

    from services.ingest.calendar import Sessions
    from services.ingest.store.slices import Claim
    from services.kit.db import Connection, Database

LISTED = (1, 2)
"""Asset classes that have corporate actions."""

RESOLVE = """
SELECT u.position - 1 AS position, t.symbol_id
FROM unnest($1::text[], $2::date[]) WITH ORDINALITY AS u (ticker, day, position)
JOIN symbols.ticker_spans t ON t.provider_ticker = u.ticker
WHERE t.asset_class = ANY($3::smallint[])
  AND u.day >= t.from_date
  AND (t.to_date IS NULL OR u.day <= t.to_date)
"""

# Seen from behind the lock of all actions: of two answers that overlap, the one asked for later stays.
OUTDATED = """
SELECT EXISTS (
  SELECT FROM ingest.writes w
  JOIN ingest.slices s ON s.slice_id = w.slice_id
  WHERE w.commit_time > $1
    AND w.fetch_time > $1
    AND w.timeframe IS NULL
    AND s.kind = 6
    AND s.subject = $2
    AND w.asked_from < $4
    AND w.asked_to > $3
)
"""

# Two locks of a part: no other learns actions meanwhile.
LOCK = """
SELECT ingest.begin_part($1, $2, $3)
"""
LOCK_ACTIONS = """
SELECT pg_advisory_xact_lock(1833047)
"""

# An answer about some tickers covers what a symbol did under these.
CONCERNED = """
SELECT DISTINCT a.symbol_id
FROM ingest.actions a
WHERE a.ended_write_id IS NULL
  AND a.kind = $1
  AND a.ex_date >= $2
  AND a.ex_date < $3
  AND (($4::text[] = '{}' AND $5::text = '' AND $6::text = '') OR EXISTS (
    SELECT FROM symbols.ticker_spans t
    WHERE t.symbol_id = a.symbol_id
      AND ($4 = '{}' OR t.provider_ticker = ANY($4))
      AND t.provider_ticker COLLATE "C" > $5
      AND ($6 = '' OR t.provider_ticker COLLATE "C" < $6)
      AND a.ex_date >= t.from_date
      AND (t.to_date IS NULL OR a.ex_date <= t.to_date)))
"""

KNOWN = """
SELECT a.action_id, a.write_id, a.symbol_id, a.ex_date, a.kind, a.split_from, a.split_to, a.cash_amount, a.currency,
       a.source_id, a.flags,
       a.ex_date >= $2 AND a.ex_date < $3
         AND (($4::text[] = '{}' AND $5::text = '' AND $6::text = '') OR EXISTS (
           SELECT FROM symbols.ticker_spans t
           WHERE t.symbol_id = a.symbol_id
             AND ($4 = '{}' OR t.provider_ticker = ANY($4))
             AND t.provider_ticker COLLATE "C" > $5
             AND ($6 = '' OR t.provider_ticker COLLATE "C" < $6)
             AND a.ex_date >= t.from_date
             AND (t.to_date IS NULL OR a.ex_date <= t.to_date))) AS covered
FROM ingest.actions a
WHERE a.symbol_id = ANY($7::integer[])
  AND a.kind = $1
  AND a.ended_write_id IS NULL
ORDER BY a.symbol_id, a.action_id
"""

END_VERSIONS = """
UPDATE ingest.actions a
SET ended_write_id = $1
FROM unnest($2::integer[], $3::integer[]) AS u (action_id, write_id)
WHERE a.action_id = u.action_id
  AND a.write_id = u.write_id
"""

ADD_VERSIONS = """
INSERT INTO ingest.actions (action_id, write_id, symbol_id, ex_date, kind, flags, split_from, split_to, cash_amount,
                            currency, source_id, source_time)
SELECT coalesce(u.action_id, nextval('ingest.action_ids')), $1, u.symbol_id, u.ex_date, u.kind, u.flags,
       nullif(u.split_from, 0), nullif(u.split_to, 0), nullif(u.cash_amount, 0), u.currency, u.source_id, $2
FROM unnest($3::integer[], $4::integer[], $5::date[], $6::smallint[], $7::smallint[], $8::float8[], $9::float8[],
            $10::float8[], $11::text[], $12::text[])
  AS u (action_id, symbol_id, ex_date, kind, flags, split_from, split_to, cash_amount, currency, source_id)
"""

END_STEP = """
SELECT state, write_id
FROM ingest.end_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""


class OutdatedError(Exception):
    """An answer that was asked for later has been taken in already."""


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says: facts by symbol, of dates from first to end (exclusive), for these tickers or all.

    Of a date that is asked for by ticker, those behind `after` and before `until`, where they are not ''.
    """

    subject: str
    tickers: Sequence[str]
    first: date
    end: date
    after: str = ""
    until: str = ""
    facts: Mapping[int, Sequence[Fact]] = field(default_factory=dict)
    impossible: int = 0
    unknown: int = 0

    def covers(self, fact: Fact) -> bool:
        """Says whether a fact belongs to what was asked and answered whole."""
        return (
            self.first <= fact.terms.ex_date < self.end
            and (not self.tickers or fact.ticker in self.tickers)
            and self.after < fact.ticker
            and (not self.until or fact.ticker < self.until)
        )

    @property
    def scope(self) -> tuple[int, date, date, list[str], str, str]:
        """Returns what CONCERNED and KNOWN ask for."""
        return self.kind, self.first, self.end, list(self.tickers), self.after, self.until

    @property
    def kind(self) -> int:
        return SUBJECTS[self.subject].kind

    @property
    def asked(self) -> tuple[datetime, datetime]:
        return _midnight(self.first), _midnight(self.end)


@dataclass(frozen=True, slots=True)
class Survey:
    """What an answer would change: symbols whose bars are judged again, in order; how many known actions it lacks."""

    moved: list[int]
    withdrawn: int
    known: int


@dataclass(frozen=True, slots=True)
class Step:
    """The slice's state after a step, and the claim with which the next goes on."""

    state: int
    claim: Claim


async def resolve(db: Database, tickers: Sequence[str], days: Sequence[date], classes: Sequence[int]) -> dict[int, int]:
    """Returns who held each ticker of the provider on its day: symbol_id by position; nothing where nobody did."""
    return {row["position"]: row["symbol_id"] for row in await db.fetch(RESOLVE, tickers, days, classes)}


async def survey(db: Database, said: Said) -> Survey:
    """Says what an answer would change now."""
    async with db.connection() as conn:
        learned = await _learn(conn, said, await _concerned(conn, said))
    moved = sorted(symbol_id for symbol_id, one in learned.items() if one.moments)
    ended = sum(len(one.ended) for one in learned.values())
    withdrawn = sum(len(one.withdrawn) for one in learned.values())
    return Survey(moved, withdrawn, ended + sum(one.unchanged for one in learned.values()))


async def take_in_splits(db: Database, claim: Claim, said: Said, symbol_id: int, sessions: Sessions) -> Step | None:
    """Takes in what an answer says of one symbol, and judges again; the claim goes on. None if it is no longer ours."""
    async with _part(db, claim, said) as part:
        if part.ours:
            learned = await _learn(part.conn, said, [symbol_id])
            async with rejudging.series_held(part.conn, symbol_id) as timeframes:
                await part.store(learned)
                moments = learned[symbol_id].moments
                touched = [
                    await rejudging.judge_again(
                        part.conn, SeriesKey(symbol_id, timeframe), claim.write_id, moments, sessions
                    )
                    for timeframe in timeframes
                ]
            await part.end(learned, symbol_id=symbol_id, touched=_join(touched))
    return part.step


async def take_in(
    db: Database, claim: Claim, said: Said, taken: Collection[int], onward: tuple[datetime | None, str]
) -> Step | None:
    """Takes in the rest of an answer and moves the slice onward, to a cursor and a page, or ends it without one.

    Returns None when it is no longer ours.

    `taken` are the symbols that were taken in before. Raises OutdatedError, also where another split has changed.
    """
    async with _part(db, claim, said) as part:
        if part.ours:
            learned = await _learn(part.conn, said, await _concerned(part.conn, said))
            rest = {symbol_id: one for symbol_id, one in learned.items() if symbol_id not in taken}
            if any(one.moments for one in rest.values()):
                raise OutdatedError
            await part.store(rest)
            await part.end(rest, cursor=onward[0], page=onward[1])
    return part.step


@asynccontextmanager
async def _part(db: Database, claim: Claim, said: Said) -> AsyncIterator[_Part]:
    """Begins a part; commits it if it was ended, else rolls it back."""
    async with db.connection() as conn:
        await conn.execute(parts.BEGIN)
        try:
            part = _Part(conn, claim, said)
            await part.begin()
            yield part
            await conn.execute("COMMIT" if part.step else "ROLLBACK")
        except BaseException:
            await roll_back(conn)
            raise


@dataclass(slots=True)
class _Part:
    """A transaction that takes in something of an answer."""

    conn: Connection
    claim: Claim
    said: Said
    ours: bool = False
    step: Step | None = None

    async def begin(self) -> None:
        """Locks the slice and all actions; raises OutdatedError."""
        claim, said = self.claim, self.said
        self.ours = await self.conn.fetchval(LOCK, claim.slice_id, claim.token, claim.write_id)
        if self.ours:
            await self.conn.execute(LOCK_ACTIONS)
            if await self.conn.fetchval(OUTDATED, claim.fetch_time, said.subject, *said.asked):
                raise OutdatedError

    async def store(self, learned: Mapping[int, Learned]) -> None:
        """Writes new versions, and ends old ones."""
        claim = self.claim
        ended = [one for each in learned.values() for one in each.ended]
        if ended:
            ids, writes = [one.action_id for one in ended], [one.write_id for one in ended]
            await self.conn.execute(END_VERSIONS, claim.write_id, ids, writes)
        new = [(symbol_id, one) for symbol_id, each in learned.items() for one in each.versions]
        if new:
            await self.conn.execute(ADD_VERSIONS, claim.write_id, claim.fetch_time, *_columns(new))

    async def end(
        self,
        learned: Mapping[int, Learned],
        *,
        symbol_id: int | None = None,
        touched: tuple[int, int] | None = None,
        cursor: datetime | None = None,
        page: str = "",
    ) -> None:
        """Ends the step: the claim goes on if it was about one symbol, else the slice comes to the cursor, or ends."""
        claim, said, more = self.claim, self.said, symbol_id is not None
        row = await self.conn.fetchrow(
            END_STEP,
            claim.slice_id,
            claim.write_id,
            symbol_id,
            *((from_ms(ms) for ms in touched) if touched else (None, None)),
            claim.fetch_time,
            *said.asked,
            *_counts(learned.values()),
            0 if more else said.impossible,
            0 if more else said.unknown,
            cursor,
            page,
            not more and cursor is None,
            more,
            claim.lease,
            "",
        )
        assert row is not None  # noqa: S101 - the function returns one row
        self.step = Step(row["state"], replace(claim, write_id=row["write_id"] or 0))


def _counts(learned: Iterable[Learned]) -> tuple[int, int, int]:
    """Returns how many actions are new, changed or withdrawn, and as they were."""
    each = list(learned)
    new = sum(one.replaces is None for all_ in each for one in all_.versions)
    changed = sum(len(one.versions) + len(one.withdrawn) for one in each) - new
    return new, changed, sum(one.unchanged for one in each)


def _columns(new: Sequence[tuple[int, Version]]) -> tuple[list[Any], ...]:
    terms = [one.terms for _, one in new]
    return (
        [one.replaces.action_id if one.replaces else None for _, one in new],
        [symbol_id for symbol_id, _ in new],
        [one.ex_date for one in terms],
        [one.kind for one in terms],
        [one.flags for _, one in new],
        [one.split_from for one in terms],
        [one.split_to for one in terms],
        [one.cash_amount for one in terms],
        [one.currency for one in terms],
        [one.source_id for _, one in new],
    )


async def _concerned(conn: Connection, said: Said) -> list[int]:
    """Returns the symbols that an answer speaks of, or is silent about."""
    rows = await conn.fetch(CONCERNED, *said.scope)
    return sorted({row["symbol_id"] for row in rows} | set(said.facts))


async def _learn(conn: Connection, said: Said, symbol_ids: Sequence[int]) -> dict[int, Learned]:
    known: dict[int, list[Known]] = defaultdict(list)
    rows = await conn.fetch(KNOWN, *said.scope, symbol_ids)
    for row in rows:
        known[row["symbol_id"]].append(_known(row))
    return {symbol_id: learn(known[symbol_id], said.facts.get(symbol_id, ())) for symbol_id in symbol_ids}


def _known(row: asyncpg.Record) -> Known:
    terms = Terms(
        row["ex_date"],
        row["kind"],
        split_from=row["split_from"] or 0.0,
        split_to=row["split_to"] or 0.0,
        cash_amount=row["cash_amount"] or 0.0,
        currency=row["currency"],
    )
    return Known(row["action_id"], row["write_id"], terms, row["source_id"], row["flags"], row["covered"])


def _join(touched: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    spans = [one for one in touched if one is not None]
    return (min(start for start, _ in spans), max(end for _, end in spans)) if spans else None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
