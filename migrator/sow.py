"""Puts the seeds into an empty registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.changes import retried
from migrator.seeds import SEEDS

if TYPE_CHECKING:
    from migrator.changes import Changes

COUNT = "SELECT count(*) FROM symbols.symbols"
# Two bootstraps at once: the second waits here, and then finds the first one's symbols.
LOCK = "SET LOCAL lock_timeout = '200ms'; LOCK TABLE symbols.symbols IN SHARE ROW EXCLUSIVE MODE"
INSERT_SYMBOL = """
INSERT INTO symbols.symbols (asset_class, name, exchange, type, list_date)
VALUES ($1, $2, $3, $4, $5)
RETURNING symbol_id
"""
INSERT_TICKER = """
INSERT INTO symbols.tickers (symbol_id, from_date, to_date, asset_class, ticker, provider_ticker)
VALUES ($1, $2, $3, $4, $5, $6)
"""


async def sow(changes: Changes) -> tuple[int, int]:
    """Adds the seeds to an empty registry, and nothing to another; returns how many were added, and how many it holds.

    A registry that holds anything is left alone, so that a seed that was deleted stays deleted.
    """

    async def change() -> int:
        async with changes.transaction() as started:
            await changes.conn.execute(LOCK)
            if await changes.conn.fetchval(COUNT):
                return 0
            await _insert_all(changes)
            await changes.record("ImportSymbols", "bootstrap seeds", started)
            return len(SEEDS)

    held = await changes.conn.fetchval(COUNT)
    added = 0 if held else await retried(change)
    return added, held or await changes.conn.fetchval(COUNT)


async def _insert_all(changes: Changes) -> None:
    for seed in SEEDS:
        arguments = (seed.asset_class, seed.name, seed.exchange, seed.type, seed.list_date)
        symbol_id = await changes.conn.fetchval(INSERT_SYMBOL, *arguments)
        rows = [
            (symbol_id, span.from_date, span.to_date, seed.asset_class, span.ticker, span.provider_ticker)
            for span in seed.spans
        ]
        await changes.conn.executemany(INSERT_TICKER, rows)
