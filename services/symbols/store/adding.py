"""Adds symbols: what an import and CreateSymbol share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.kit.errors import Aborted
from services.symbols import imports
from services.symbols.store.holding import overlapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.kit.db import Connection
    from services.symbols.store.rows import NewSymbol, Outcome

# Rows go in by provider ticker, in all transactions alike, so that two imports wait for each other and never lock up.
# A row whose days are taken adds no ticker; the constraints say so, whoever writes at the same time.
ADD = """
WITH wanted AS (
  SELECT *
  FROM unnest($1::smallint[], $2::text[], $3::text[], $4::date[], $5::date[], $6::text[], $7::text[], $8::text[],
              $9::text[], $10::date[], $11::date[], $12::text[], $13::bool[]) WITH ORDINALITY
    AS w(asset_class, ticker, provider_ticker, from_date, to_date, name, exchange, type,
         figi, list_date, delist_date, timeframes, active, n)
),
added AS (
  INSERT INTO symbols.symbols (asset_class, name, exchange, type, figi, list_date, delist_date, timeframes, active)
  SELECT asset_class, name, exchange, type, figi, list_date, delist_date, timeframes::smallint[], active
  FROM wanted
  ORDER BY n
  RETURNING symbol_id
),
numbered AS (
  SELECT symbol_id, row_number() OVER (ORDER BY symbol_id) AS n
  FROM added
),
held AS (
  INSERT INTO symbols.tickers (symbol_id, from_date, to_date, asset_class, ticker, provider_ticker)
  SELECT symbol_id, from_date, to_date, asset_class, ticker, provider_ticker
  FROM wanted
  JOIN numbered USING (n)
  ORDER BY provider_ticker COLLATE "C", from_date
  ON CONFLICT DO NOTHING
  RETURNING symbol_id
)
SELECT n, symbol_id, EXISTS (SELECT FROM held WHERE held.symbol_id = numbered.symbol_id) AS held
FROM numbered
ORDER BY n
"""

REMOVE = """
DELETE FROM symbols.symbols
WHERE symbol_id = ANY($1::int[])
"""

_ATTEMPTS = 3


async def add(conn: Connection, wanted: Mapping[int, NewSymbol]) -> dict[int, Outcome]:
    """Registers what can be, in few statements, and says what became of each row; the keys are the caller's."""
    outcomes: dict[int, Outcome] = {}
    for _ in range(_ATTEMPTS):
        plan = await look(conn, {n: new for n, new in wanted.items() if n not in outcomes})
        outcomes |= plan.settle(await _insert(conn, {n: wanted[n] for n in plan.create}))
        if len(outcomes) == len(wanted):
            return outcomes
        # Somebody else was quicker with some of them, which can be seen now.
    raise Aborted("CONFLICT", "the rows met other changes of the registry; try again")


async def look(conn: Connection, wanted: Mapping[int, NewSymbol]) -> imports.Plan:
    """Says what would become of each row."""
    found = await overlapping(conn, [new.span for new in wanted.values()])
    return imports.plan(wanted, dict(zip(wanted, found, strict=True)))


async def _insert(conn: Connection, wanted: Mapping[int, NewSymbol]) -> dict[int, int]:
    """Returns the new symbols' ids, without those whose ticker another transaction took meanwhile."""
    if not wanted:
        return {}
    rows = await conn.fetch(ADD, *zip(*map(_columns, wanted.values()), strict=True))
    lost = [row["symbol_id"] for row in rows if not row["held"]]
    if lost:
        await conn.execute(REMOVE, lost)
    return {n: row["symbol_id"] for n, row in zip(wanted, rows, strict=True) if row["held"]}


def _columns(new: NewSymbol) -> tuple[object, ...]:
    span, details = new.span, new.details
    return (
        new.asset_class,
        span.ticker,
        span.provider_ticker,
        span.from_date,
        span.to_date,
        details.name,
        details.exchange,
        details.type,
        details.figi,
        details.list_date,
        details.delist_date,
        "{" + ",".join(map(str, details.timeframes)) + "}",
        new.active,
    )
