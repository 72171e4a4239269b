"""Starts jobs that ask the provider for other things than bars, and lists corporate actions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from services.ingest.store.endings import finish_now
from services.ingest.store.jobs import read_job
from services.ingest.store.starts import INSERT_JOB, NEXT_TURN
from services.ingest.store.steering import begin_change
from services.ingest.sync_plans import plan_actions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from services.ingest.store.jobs import Job
    from services.ingest.store.starts import Original
    from services.ingest.sync_plans import SyncSlice
    from services.kit.calls import Call
    from services.kit.db import Connection, Database
    from services.kit.recorder import Recorder
    from services.kit.requests import Requests

SYMBOLS, ACTIONS = 3, 4
"""mdw.ingest.v1.Backfill.Kind."""

REFETCH = 2
LOW = 1
"""mdw.ingest.v1.Priority."""

BACK, AHEAD = timedelta(days=30), timedelta(days=365)
"""Around a session the schedule asks for the actions of so long; whoever asks himself, for those so far ahead, too."""

BEGINNING = date(2000, 1, 1)
"""The provider tells of nothing before."""

SLICE_KINDS = {SYMBOLS: 5, ACTIONS: 6}
"""mdw.ingest.v1.Slice.Kind, by that of the job."""

INSERT_SLICES = """
WITH planned AS (
  INSERT INTO ingest.slices (kind, mode, priority, turn, subject, provider_ticker, first_date, last_date)
  SELECT $2, 2, $3, $4, p.subject, p.tickers, $5, $6
  FROM unnest($7::text[], $8::text[]) WITH ORDINALITY AS p (subject, tickers, position)
  ORDER BY p.position
  RETURNING slice_id
)
INSERT INTO ingest.backfill_slices (backfill_id, slice_id)
SELECT $1, slice_id
FROM planned
"""

HAS_OPEN_ACTIONS = """
SELECT EXISTS (
  SELECT FROM ingest.backfills
  WHERE kind = 4
    AND key_id IS NULL
    AND state IN (1, 2, 3)
)
"""

LISTED_TICKERS = """
SELECT array_agg(provider_ticker ORDER BY from_date) AS tickers
FROM symbols.ticker_spans
WHERE asset_class IN (1, 2)
GROUP BY symbol_id
ORDER BY symbol_id
"""

# Active symbols whose whole history nobody has asked for since they were registered: by name, or as all there are.
WITHOUT_HISTORY = """
WITH whole AS MATERIALIZED (
  SELECT create_time, request -> 'tickers' AS tickers, request -> 'symbolIds' AS symbol_ids
  FROM ingest.backfills
  WHERE kind = 4
    AND state IN (1, 2, 3, 4)
    AND first_date <= $1
)
SELECT t.symbol_id, array_agg(t.provider_ticker ORDER BY t.from_date) AS tickers
FROM symbols.ticker_spans t
WHERE t.active
  AND t.asset_class IN (1, 2)
  AND NOT EXISTS (
    SELECT FROM whole w
    WHERE w.create_time >= t.create_time
      AND ((w.tickers IS NULL AND w.symbol_ids IS NULL) OR w.tickers ? t.ticker OR w.symbol_ids ? t.symbol_id::text))
GROUP BY t.symbol_id
ORDER BY t.symbol_id
"""

PAGE_OF_ACTIONS = """
SELECT a.action_id, a.symbol_id, a.kind, a.ex_date, a.split_from, a.split_to, a.cash_amount, a.currency, a.source_id,
       a.source_time, a.flags,
       (SELECT t.ticker FROM symbols.ticker_spans t
        WHERE t.symbol_id = a.symbol_id ORDER BY t.from_date DESC LIMIT 1) AS ticker
FROM ingest.actions a
WHERE a.ended_write_id IS NULL
  AND ($1::int = 0 OR a.symbol_id = $1)
  AND ($2::int = 0 OR a.kind = $2)
  AND ($3::date IS NULL OR a.ex_date >= $3)
  AND ($4::date IS NULL OR a.ex_date < $4)
  AND ($5::date IS NULL OR (a.ex_date, a.action_id) < ($5, $6::int))
ORDER BY a.ex_date DESC, a.action_id DESC
LIMIT $7
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAction:
    """An action as it is known now."""

    action_id: int
    symbol_id: int
    ticker: str | None
    kind: int
    ex_date: date
    split_from: float | None
    split_to: float | None
    cash_amount: float | None
    currency: str
    source_id: str
    source_time: datetime | None
    flags: int


async def insert_job(conn: Connection, job: tuple[Any, ...], slices: Sequence[SyncSlice]) -> UUID:
    """Writes a job and its slices, inside a change of jobs; `job` are the columns from kind on."""
    backfill_id, turn = uuid4(), await conn.fetchval(NEXT_TURN)
    kind, _, priority, _, first, last, *_ = job
    await conn.execute(INSERT_JOB, backfill_id, *job)
    columns = [one.subject for one in slices], [",".join(one.tickers) for one in slices]
    await conn.execute(INSERT_SLICES, backfill_id, SLICE_KINDS[kind], priority, turn, first, last, *columns)
    if not slices:
        await finish_now(conn, backfill_id)
    return backfill_id


async def insert_scheduled_actions(conn: Connection, session: date) -> None:
    """Writes jobs for the actions around a session, and for the history of active symbols that lack it.

    Inside a change of jobs; none while another one of the schedule is open.
    """
    if await conn.fetchval(HAS_OPEN_ACTIONS):
        return
    last = session + AHEAD
    new = await conn.fetch(WITHOUT_HISTORY, BEGINNING)
    named = json.dumps({"symbolIds": [str(row["symbol_id"]) for row in new]})
    await _insert_scheduled(conn, [row["tickers"] for row in new], (BEGINNING, last), named)
    listed = [row["tickers"] for row in await conn.fetch(LISTED_TICKERS)]
    await _insert_scheduled(conn, listed, (session - BACK, last), "{}")


async def _insert_scheduled(
    conn: Connection, tickers: Sequence[Sequence[str]], span: tuple[date, date], summary: str
) -> None:
    slices = plan_actions(tickers, *span)
    if slices:
        await insert_job(conn, (ACTIONS, REFETCH, LOW, [], *span, summary, None), slices)


class Syncs:
    """Writes jobs of other things than bars."""

    def __init__(self, db: Database, recorder: Recorder, requests: Requests) -> None:
        self._db = db
        self._recorder = recorder
        self._requests = requests

    async def listed_tickers(self) -> list[Sequence[str]]:
        """Returns the provider's tickers of every registered stock and ETF, symbol by symbol."""
        return [row["tickers"] for row in await self._db.fetch(LISTED_TICKERS)]

    async def start(
        self,
        call: Call,
        kind: int,
        slices: Sequence[SyncSlice],
        original: Original,
        answer: Callable[[Job], bytes],
        *,
        priority: int,
        span: tuple[date, date] | None = None,
    ) -> bytes:
        """Writes the job and returns the answer, or the first answer to a repeat of the request."""
        async with self._recorder.change(call) as conn:
            stored = await self._requests.claim(conn, call, original.request_id, original.body)
            if stored is not None:
                return stored
            await begin_change(conn)
            job = (kind, REFETCH, priority, [], *(span or (None, None)), original.summary, call.key_id)
            backfill_id = await insert_job(conn, job, slices)
            reply = answer(await read_job(conn, backfill_id))
            await self._requests.store(conn, call, original.request_id, reply)
        return reply

    async def actions(
        self,
        *,
        symbol_id: int,
        kind: int,
        span: tuple[date | None, date | None],
        before: tuple[date, int] | None,
        limit: int,
    ) -> list[ListedAction]:
        """Returns actions that are known now, latest ex-date first; 0 and None mean any."""
        after: tuple[Any, Any] = before or (None, None)
        rows = await self._db.fetch(PAGE_OF_ACTIONS, symbol_id, kind, *span, *after, limit)
        return [ListedAction(**row) for row in rows]
