"""Changes of the registry: each one short transaction, in which the call's audit row is written, too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from services.kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.kit.tickers import CLASSES
from services.symbols import spans
from services.symbols.store import adding, lookups
from services.symbols.store.holding import replace_spans, spans_of, taken
from services.symbols.store.rows import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from services.kit.calls import Call
    from services.kit.db import Connection, Database
    from services.kit.recorder import Recorder
    from services.kit.requests import Requests
    from services.kit.tickers import Spelling
    from services.symbols.store.rows import Details, Key, NewSymbol, Outcome, Symbol

REMOVE = """
DELETE FROM symbols.symbols
WHERE symbol_id = $1
"""

LOCK = """
SELECT name, exchange, type, figi, list_date, delist_date, timeframes
FROM symbols.symbols
WHERE symbol_id = $1
FOR NO KEY UPDATE
"""

LOCK_TO_DELETE = """
SELECT symbol_id
FROM symbols.symbols
WHERE symbol_id = $1
FOR UPDATE
"""

FORGET = "SELECT ingest.forget_symbol($1)"

UPDATE = """
UPDATE symbols.symbols
SET name = $2, exchange = $3, type = $4, figi = $5, list_date = $6, delist_date = $7, timeframes = $8,
    update_time = clock_timestamp()
WHERE symbol_id = $1
"""

TOUCH = """
UPDATE symbols.symbols
SET update_time = clock_timestamp()
WHERE symbol_id = $1
"""

SET_ACTIVE = """
WITH chosen AS (
  SELECT symbol_id, active
  FROM symbols.symbols
  WHERE symbol_id = ANY($1::int[])
  ORDER BY symbol_id
  FOR NO KEY UPDATE
),
changed AS (
  UPDATE symbols.symbols s
  SET active = $2, update_time = clock_timestamp()
  FROM chosen c
  WHERE s.symbol_id = c.symbol_id AND c.active <> $2
  RETURNING s.symbol_id
)
SELECT (SELECT count(*) FROM chosen)::int AS matched, (SELECT count(*) FROM changed)::int AS changed
"""

COUNT = """
SELECT count(*)::int AS matched, count(*) FILTER (WHERE active <> $2)::int AS changed
FROM symbols.symbols
WHERE symbol_id = ANY($1::int[])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeatable:
    """A request that is answered once: its request_id ('' if it has none) and its bytes."""

    request_id: str
    body: bytes


class Registry:
    """Changes the registry; every method that does is handed the call that it answers."""

    def __init__(self, db: Database, recorder: Recorder, requests: Requests) -> None:
        self._db = db
        self._recorder = recorder
        self._requests = requests

    async def create(self, call: Call, request: Repeatable, new: NewSymbol, encode: Callable[[Symbol], bytes]) -> bytes:
        """Registers a symbol and returns the encoded answer, of a repeated request the first one.

        Raises SYMBOL_EXISTS or TICKER_TAKEN with the other symbol's id.
        """
        async with self._recorder.change(call) as conn:
            stored = await self._requests.claim(conn, call, request.request_id, request.body)
            if stored is not None:
                return stored
            outcome = (await adding.add(conn, {0: new}))[0]
            if outcome.taken_by:
                raise taken(outcome.taken_by)
            if outcome.existed:
                symbol_id = str(outcome.symbol_id)
                raise AlreadyExists(
                    "SYMBOL_EXISTS", f"the symbol is registered, with the id {symbol_id}", symbol_id=symbol_id
                )
            answer = encode(await lookups.get(conn, outcome.symbol_id))
            await self._requests.store(conn, call, request.request_id, answer)
            return answer

    async def import_all(
        self,
        call: Call,
        request: Repeatable,
        wanted: Mapping[int, NewSymbol],
        encode: Callable[[Mapping[int, Outcome]], bytes],
    ) -> bytes:
        """Registers what can be and returns the encoded answer, of a repeated request the first one."""
        async with self._recorder.change(call) as conn:
            stored = await self._requests.claim(conn, call, request.request_id, request.body)
            if stored is not None:
                return stored
            answer = encode(await adding.add(conn, wanted))
            await self._requests.store(conn, call, request.request_id, answer)
            return answer

    async def plan_import(self, wanted: Mapping[int, NewSymbol]) -> Mapping[int, Outcome]:
        """Says what import_all would do; symbols that it would create have no id yet."""
        async with self._db.connection() as conn:
            return (await adding.look(conn, wanted)).expect()

    async def update(self, call: Call, key: Key, changed: Mapping[str, Any]) -> Symbol:
        """Sets details by name; raises TICKER_TAKEN if a later delist_date meets the days of another symbol."""
        async with self._recorder.change(call) as conn:
            symbol_id = (await lookups.find(conn, key)).symbol_id
            was = await _lock(conn, symbol_id)
            now = replace(was, **changed)
            if now != was:
                await _update(conn, symbol_id, was, now)
            return await lookups.get(conn, symbol_id)

    async def set_active(self, call: Call, chosen: Sequence[Key] | Filter, *, active: bool) -> tuple[int, int]:
        """Makes symbols active or inactive; returns how many were chosen and how many of them changed."""
        async with self._recorder.change(call) as conn:
            return await _count(conn, SET_ACTIVE, chosen, active=active)

    async def plan_active(self, chosen: Sequence[Key] | Filter, *, active: bool) -> tuple[int, int]:
        """Says what set_active would return."""
        async with self._db.connection() as conn:
            return await _count(conn, COUNT, chosen, active=active)

    async def delete(self, call: Call, key: Key) -> None:
        """Deletes a symbol that never held a bar; raises SYMBOL_HAS_BARS."""
        async with self._recorder.change(call) as conn:
            symbol_id = (await lookups.find(conn, key)).symbol_id
            if await conn.fetchval(LOCK_TO_DELETE, symbol_id) is None:
                raise lookups.no_such_id(symbol_id)
            if not await conn.fetchval(FORGET, symbol_id):
                raise FailedPrecondition(
                    "SYMBOL_HAS_BARS",
                    "the symbol holds or held bars, or work on it is under way: deactivate it instead",
                    symbol_id=str(symbol_id),
                )
            await conn.execute(REMOVE, symbol_id)

    async def change_ticker(self, call: Call, key: Key, new: Mapping[int, Spelling], from_date: date) -> Symbol:
        """Records a ticker from a date on, given as spelled in each class; raises TICKER_TAKEN."""
        async with self._recorder.change(call) as conn:
            symbol = await lookups.get(conn, await _holder_until(conn, key, from_date))
            await _lock(conn, symbol.symbol_id)
            if symbol.asset_class not in new:
                raise InvalidArgument("new_ticker", f"is no ticker of the class {CLASSES[symbol.asset_class]}")
            was = await spans_of(conn, symbol.symbol_id)
            try:
                now = spans.change(was, new[symbol.asset_class], from_date)
            except spans.SpanError as error:
                raise InvalidArgument("from_date", str(error)) from None
            if now != was:
                await replace_spans(conn, symbol.symbol_id, was, now)
                await conn.execute(TOUCH, symbol.symbol_id)
            return await lookups.get(conn, symbol.symbol_id)


async def _lock(conn: Connection, symbol_id: int) -> Details:
    row = await conn.fetchrow(LOCK, symbol_id)
    if row is None:
        raise lookups.no_such_id(symbol_id)
    return lookups.details(row)


async def _update(conn: Connection, symbol_id: int, was: Details, now: Details) -> None:
    now.check("symbol.")
    if now.delist_date != was.delist_date:
        held = await spans_of(conn, symbol_id)
        try:
            await replace_spans(conn, symbol_id, held, spans.end(held, was.delist_date, now.delist_date))
        except spans.SpanError as error:
            raise InvalidArgument("symbol.delist_date", str(error)) from None
    await conn.execute(
        UPDATE,
        symbol_id,
        now.name,
        now.exchange,
        now.type,
        now.figi,
        now.list_date,
        now.delist_date,
        now.timeframes,
    )


async def _count(conn: Connection, sql: str, chosen: Sequence[Key] | Filter, *, active: bool) -> tuple[int, int]:
    if isinstance(chosen, Filter):
        symbol_ids = [symbol_id for _, _, symbol_id in await lookups.page(conn, chosen, None, None)]
    else:
        symbol_ids = [found.symbol_id for found in await lookups.find_all(conn, chosen)]
    row = await conn.fetchrow(sql, symbol_ids, active)
    return (row["matched"], row["changed"]) if row else (0, 0)


async def _holder_until(conn: Connection, key: Key, from_date: date) -> int:
    """Returns the symbol whose ticker changes: who held it the day before, else who is meant by it today.

    So the same change can be told twice, and one of the past after somebody else took the ticker.
    """
    try:
        return (await lookups.find(conn, key, from_date - spans.DAY)).symbol_id
    except NotFound:
        return (await lookups.find(conn, key)).symbol_id
