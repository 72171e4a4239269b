"""Reads who holds tickers, as far as the provider's lists speak of them, and ends steps of slices of symbols."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from services.ingest.store.learning import END_STEP, LOCK, Step
from services.ingest.symbol_lists import Holder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.store.slices import Claim
    from services.kit.db import Database

HOLDERS = """
SELECT symbol_id, provider_ticker, from_date, to_date, name, exchange, type, figi, delist_date
FROM symbols.ticker_spans
WHERE provider_ticker = ANY($1::text[])
   OR (figi <> '' AND figi = ANY($2::text[]))
ORDER BY provider_ticker, from_date
"""

NEXT_UNDATED = """
SELECT symbol_id, provider_ticker
FROM symbols.ticker_spans
WHERE active
  AND asset_class IN (1, 2)
  AND list_date IS NULL
  AND to_date IS NULL
  AND symbol_id > $1
ORDER BY symbol_id
LIMIT 1
"""


async def read(db: Database, tickers: Sequence[str], figis: Sequence[str]) -> list[Holder]:
    """Returns who holds or held these tickers of the provider, and who is one of these by FIGI."""
    return [Holder(**row) for row in await db.fetch(HOLDERS, tickers, [figi for figi in figis if figi])]


async def next_undated(db: Database, after: int) -> tuple[int, str] | None:
    """Returns the next active stock or ETF whose listing date is not known, with the provider's ticker."""
    row = await db.fetchrow(NEXT_UNDATED, after)
    return None if row is None else (row["symbol_id"], row["provider_ticker"])


async def end_step(
    db: Database, claim: Claim, counts: tuple[int, int, int, int, int], page: str, *, done: bool, note: str = ""
) -> Step | None:
    """Moves a slice on to a page, or ends it; counts: new, changed, unchanged, refused, unknown. None: not ours.

    A note is added to those that the slice has.
    """
    async with db.transaction() as conn:
        if not await conn.fetchval(LOCK, claim.slice_id, claim.token, claim.write_id):
            return None
        nothing = (None,) * 6
        row = await conn.fetchrow(
            END_STEP, claim.slice_id, claim.write_id, *nothing, *counts, None, page, done, False, claim.lease, note
        )
        assert row is not None  # noqa: S101 - the function returns one row
        return Step(row["state"], replace(claim, write_id=row["write_id"] or 0))
