"""Who holds which ticker when: spans of one symbol, and whose spans stand in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.kit.errors import Aborted, FailedPrecondition
from services.symbols.store import lookups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.kit.db import Connection
    from services.symbols.spans import Holding, Span

OVERLAPPING = """
SELECT w.n, t.symbol_id, t.asset_class, t.ticker, t.provider_ticker, t.from_date, t.to_date
FROM unnest($1::text[], $2::date[], $3::date[]) WITH ORDINALITY AS w(provider_ticker, from_date, to_date, n)
JOIN symbols.tickers t
  ON t.provider_ticker = w.provider_ticker
  AND daterange(t.from_date, t.to_date, '[]') && daterange(w.from_date, w.to_date, '[]')
"""

SPANS = """
SELECT ticker, provider_ticker, from_date, to_date
FROM symbols.tickers
WHERE symbol_id = $1
ORDER BY from_date
"""

DROP_SPANS = """
DELETE FROM symbols.tickers
WHERE symbol_id = $1 AND from_date = ANY($2::date[])
"""

ADD_SPANS = """
INSERT INTO symbols.tickers (symbol_id, asset_class, ticker, provider_ticker, from_date, to_date)
SELECT s.symbol_id, s.asset_class, w.ticker, w.provider_ticker, w.from_date, w.to_date
FROM unnest($2::text[], $3::text[], $4::date[], $5::date[]) AS w(ticker, provider_ticker, from_date, to_date)
JOIN symbols.symbols s ON s.symbol_id = $1
ORDER BY w.provider_ticker COLLATE "C", w.from_date
ON CONFLICT DO NOTHING
RETURNING from_date
"""


async def overlapping(conn: Connection, wanted: Sequence[Span]) -> list[list[Holding]]:
    """Returns for each span who holds its ticker on some of its days."""
    rows = await conn.fetch(
        OVERLAPPING,
        [span.provider_ticker for span in wanted],
        [span.from_date for span in wanted],
        [span.to_date for span in wanted],
    )
    found: list[list[Holding]] = [[] for _ in wanted]
    for row in rows:
        found[row["n"] - 1].append(lookups.holding(row))
    return found


async def spans_of(conn: Connection, symbol_id: int) -> list[Span]:
    """Returns a symbol's spans, oldest first."""
    return [lookups.span(row) for row in await conn.fetch(SPANS, symbol_id)]


async def replace_spans(conn: Connection, symbol_id: int, was: Sequence[Span], now: Sequence[Span]) -> None:
    """Puts other spans in the place of a symbol's; raises TICKER_TAKEN with the id of whose days they are."""
    gone = [span for span in was if span not in now]
    new = [span for span in now if span not in was]
    await conn.execute(DROP_SPANS, symbol_id, [span.from_date for span in gone])
    added = await conn.fetch(
        ADD_SPANS,
        symbol_id,
        [span.ticker for span in new],
        [span.provider_ticker for span in new],
        [span.from_date for span in new],
        [span.to_date for span in new],
    )
    if len(added) == len(new):
        return
    for found in await overlapping(conn, new):
        for holding in found:
            if holding.symbol_id != symbol_id:
                raise taken(holding)
    raise Aborted("CONFLICT", "the change met another one of the registry; try again")


def taken(by: Holding) -> FailedPrecondition:
    """Returns the error of a ticker that another symbol holds on some of the days."""
    return FailedPrecondition("TICKER_TAKEN", by.describe(), symbol_id=str(by.symbol_id), ticker=by.span.ticker)
