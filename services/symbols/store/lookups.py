"""Finds and lists symbols."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol

from services.kit.errors import FailedPrecondition, NotFound
from services.kit.tickers import CLASSES
from services.symbols.spans import Holding, Span, holders, present
from services.symbols.store.rows import Details, Found, SeriesState, Symbol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from services.kit.db import Connection, Database
    from services.symbols.store.rows import Filter, Key

HOLDINGS = """
SELECT w.n, t.symbol_id, t.asset_class, t.ticker, t.provider_ticker, t.from_date, t.to_date,
       (statement_timestamp() AT TIME ZONE 'UTC')::date AS today
FROM unnest($1::int[], $2::smallint[], $3::text[]) AS w(n, asset_class, ticker)
JOIN symbols.tickers t ON t.ticker = w.ticker AND t.asset_class = w.asset_class
"""

KNOWN = """
SELECT symbol_id
FROM symbols.symbols
WHERE symbol_id = ANY($1::int[])
"""

SYMBOLS = """
SELECT s.symbol_id, s.asset_class, s.name, s.exchange, s.type, s.figi, s.list_date, s.delist_date, s.active,
       s.timeframes, s.create_time, s.update_time, t.spans, f.series,
       (statement_timestamp() AT TIME ZONE 'UTC')::date AS today
FROM unnest($1::int[]) WITH ORDINALITY AS w(symbol_id, n)
JOIN symbols.symbols s USING (symbol_id)
CROSS JOIN LATERAL (
  SELECT array_agg((own.ticker, own.provider_ticker, own.from_date, own.to_date,
                    array(SELECT other.symbol_id
                          FROM symbols.tickers other
                          WHERE other.provider_ticker = own.provider_ticker AND other.symbol_id <> own.symbol_id
                          ORDER BY other.from_date)) ORDER BY own.from_date) AS spans
  FROM symbols.tickers own
  WHERE own.symbol_id = s.symbol_id
) t
CROSS JOIN LATERAL (
  SELECT array_agg((timeframe, coalesce(state, 1::smallint), coalesce(last_error, ''), last_success_time, watermark)
                   ORDER BY timeframe) AS series
  FROM unnest(s.timeframes) AS kept(timeframe)
  FULL JOIN (SELECT * FROM ingest.series_figures WHERE symbol_id = s.symbol_id) asked USING (timeframe)
) f
ORDER BY w.n
"""

# The ticker shown is the present one, else the last one held, else the first one to come. The bounds stand without OR,
# so that a page reads its own rows of tickers_in_order and no others.
PAGE = """
SELECT t.symbol_id, t.asset_class, t.ticker
FROM symbols.tickers t
JOIN symbols.symbols s USING (symbol_id)
CROSS JOIN LATERAL (
  SELECT each.from_date
  FROM symbols.tickers each
  WHERE each.symbol_id = s.symbol_id
  ORDER BY each.from_date > (statement_timestamp() AT TIME ZONE 'UTC')::date,
           abs(each.from_date - (statement_timestamp() AT TIME ZONE 'UTC')::date)
  LIMIT 1
) shown
WHERE t.from_date = shown.from_date
  AND (t.asset_class, t.ticker COLLATE "C", t.symbol_id) > ($1::smallint, $2::text COLLATE "C", $3::int)
  AND t.asset_class <= $4::smallint
  AND (NOT $5::bool OR s.active)
  AND ($6::smallint IS NULL
       OR EXISTS (SELECT FROM ingest.series_figures f WHERE f.symbol_id = s.symbol_id AND f.state = $6)
       OR $6 = 1 AND EXISTS (
         SELECT timeframe FROM unnest(s.timeframes) AS kept(timeframe)
         EXCEPT
         SELECT f.timeframe FROM ingest.series_figures f WHERE f.symbol_id = s.symbol_id))
  AND ($7::text = ''
       OR strpos(lower(s.name), lower($7)) > 0
       OR EXISTS (
         SELECT FROM symbols.tickers held
         WHERE held.symbol_id = s.symbol_id
           AND (starts_with(lower(held.ticker), lower($7))
                OR starts_with(lower(held.provider_ticker), lower($7))
                OR starts_with(lower(held.provider_ticker), 'x:' || lower($7)))))
  AND ($8::date IS NULL
       OR coalesce(s.list_date, $8) <= $8 AND coalesce(s.delist_date, $8) >= $8
          AND EXISTS (
            SELECT FROM symbols.tickers held
            WHERE held.symbol_id = s.symbol_id AND held.from_date <= $8 AND coalesce(held.to_date, $8) >= $8))
  AND ($9::text = '' OR s.exchange = $9)
  AND ($10::text = '' OR s.type = $10)
ORDER BY t.asset_class, t.ticker COLLATE "C", t.symbol_id
LIMIT $11
"""

PLAN_ANEW = "SET LOCAL plan_cache_mode = force_custom_plan"

_MAX_ID = 2**31 - 1
LAST_CLASS = max(CLASSES)

Position = tuple[int, str, int]
"""Where a symbol stands in lists: asset class, ticker, symbol_id."""

_Held = tuple[list[Holding], date]


class Queries(Protocol):
    """What reads: the pool, or the connection of a change."""

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]: ...


async def find(db: Queries, key: Key, on: date | None = None) -> Found:
    """Returns the symbol that is named; a ticker without a date means its present holder, else the last one.

    Raises SYMBOL_NOT_FOUND or SYMBOL_AMBIGUOUS.
    """
    return (await find_all(db, [key], on))[0]


async def find_all(db: Queries, keys: Sequence[Key], on: date | None = None) -> list[Found]:
    """Returns the symbols that are named; raises what `find` raises for the first that is none."""
    ids = [key.symbol_id for key in keys if 0 < key.symbol_id <= _MAX_ID]
    known = {row["symbol_id"] for row in await db.fetch(KNOWN, ids)} if ids else set()
    holdings = await _holdings(db, keys) if any(key.readings for key in keys) else {}
    found = []
    for n, key in enumerate(keys):
        if key.readings:
            one = _only(key, holdings[n], on)
            found.append(Found(one.symbol_id, one.span))
        elif key.symbol_id in known:
            found.append(Found(key.symbol_id))
        else:
            raise no_such_id(key.symbol_id)
    return found


async def get(db: Queries, symbol_id: int) -> Symbol:
    """Returns a symbol; raises SYMBOL_NOT_FOUND if it went meanwhile."""
    rows = await db.fetch(SYMBOLS, [symbol_id])
    if not rows:
        raise no_such_id(symbol_id)
    return _symbol(rows[0])


async def get_all(db: Queries, symbol_ids: Sequence[int]) -> list[Symbol]:
    """Returns symbols in the order asked for, without those that are gone."""
    return [_symbol(row) for row in await db.fetch(SYMBOLS, list(symbol_ids))]


async def page(db: Queries, chosen: Filter, after: Sequence[Any] | None, size: int | None) -> list[Position]:
    """Returns the positions of so many symbols after one, in order; a size of None means all."""
    rows = await db.fetch(
        PAGE,
        *(after or start(chosen.asset_class)),
        chosen.asset_class or LAST_CLASS,
        chosen.active_only,
        chosen.state,
        chosen.search,
        chosen.listed_on,
        chosen.exchange,
        chosen.type,
        size,
    )
    return [(row["asset_class"], row["ticker"], row["symbol_id"]) for row in rows]


class Symbols:
    """Reads the registry over the pool."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, key: Key, on: date | None) -> tuple[Symbol, Found]:
        """Returns the symbol that is named, at a date if there is one, and how it was found."""
        async with self._db.connection() as conn:
            found = await find(conn, key, on)
            return await get(conn, found.symbol_id), found

    async def page(
        self, chosen: Filter, after: Sequence[Any] | None, size: int
    ) -> tuple[list[Symbol], Position | None]:
        """Returns a page of symbols, and the position of its last one if there are more."""
        async with planned_anew(self._db) as conn:
            positions = await page(conn, chosen, after, size + 1)
            shown = positions[:size]
            symbols = await get_all(conn, [symbol_id for _, _, symbol_id in shown])
        return symbols, shown[-1] if len(positions) > size else None


@asynccontextmanager
async def planned_anew(db: Database) -> AsyncIterator[Connection]:
    """Lends a connection that plans each statement for its values.

    One plan for all values would have to serve every filter, and sort the whole registry for each page.
    """
    async with db.transaction() as conn:
        await conn.execute(PLAN_ANEW)
        yield conn


def start(asset_class: int | None) -> Position:
    """Returns the position before all symbols of a class, or of all classes."""
    return (asset_class or 0, "", 0)


def no_such_id(symbol_id: int) -> NotFound:
    """Returns the error of an id that is none."""
    return NotFound("SYMBOL_NOT_FOUND", f"no symbol has the id {symbol_id}", symbol_id=str(symbol_id))


def span(row: Any) -> Span:
    """Reads a span from a record or a composite."""
    return Span(
        ticker=row["ticker"],
        provider_ticker=row["provider_ticker"],
        from_date=row["from_date"],
        to_date=row["to_date"],
    )


def holding(row: asyncpg.Record) -> Holding:
    """Reads whose span it is, too."""
    return Holding(symbol_id=row["symbol_id"], asset_class=row["asset_class"], span=span(row))


async def _holdings(db: Queries, keys: Sequence[Key]) -> dict[int, _Held]:
    """Returns all holdings of what each key may mean, by the key's position, and the database's date of today."""
    asked = [(n, reading) for n, key in enumerate(keys) for reading in key.readings]
    rows = await db.fetch(
        HOLDINGS,
        [n for n, _ in asked],
        [reading.asset_class for _, reading in asked],
        [reading.ticker for _, reading in asked],
    )
    today = rows[0]["today"] if rows else date.min
    found: dict[int, _Held] = {n: ([], today) for n in range(len(keys))}
    for row in rows:
        found[row["n"]][0].append(holding(row))
    return found


def _only(key: Key, held: _Held, on: date | None) -> Holding:
    found = holders(*held, on)
    if not found:
        when = f" on {on}" if on else ""
        raise NotFound("SYMBOL_NOT_FOUND", f"no symbol has the ticker {key.text}{when}", ticker=key.text)
    if len(found) > 1:
        candidates = ", ".join(
            f"{one.span.ticker} ({CLASSES[one.asset_class]}, symbol_id {one.symbol_id})" for one in found
        )
        raise FailedPrecondition(
            "SYMBOL_AMBIGUOUS",
            f"{key.text} could mean {candidates}: name the asset class",
            ticker=key.text,
            candidates=candidates,
        )
    return found[0]


def _symbol(row: asyncpg.Record) -> Symbol:
    spans = tuple(
        Span(ticker=ticker, provider_ticker=provider, from_date=begin, to_date=end, other_symbol_ids=tuple(others))
        for ticker, provider, begin, end, others in row["spans"]
    )
    series = tuple(
        SeriesState(timeframe=timeframe, state=state, last_error=error, last_success_time=success, watermark=mark)
        for timeframe, state, error, success, mark in row["series"] or ()
    )
    return Symbol(
        symbol_id=row["symbol_id"],
        asset_class=row["asset_class"],
        details=details(row),
        active=row["active"],
        spans=spans,
        present=present(spans, row["today"]),
        series=series,
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def details(row: asyncpg.Record) -> Details:
    """Reads what is said of a symbol."""
    return Details(
        name=row["name"],
        exchange=row["exchange"],
        type=row["type"],
        figi=row["figi"],
        list_date=row["list_date"],
        delist_date=row["delist_date"],
        timeframes=tuple(row["timeframes"]),
    )
