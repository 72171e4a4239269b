"""Reads what is kept about each series: what was asked of the provider, and where its bars end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.ingest.calendar import day_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date, datetime

    import asyncpg

    from services.kit.db import Database

FIGURES = """
SELECT symbol_id, bars, last_ts, last_write_id, asked, outside_plan
FROM ingest.series
WHERE symbol_id = ANY($1::integer[])
  AND timeframe = $2
"""

# A series that no write has touched holds no bar in any snapshot.
WRITTEN = """
SELECT symbol_id, last_write_id, last_ts, bars
FROM ingest.series
WHERE symbol_id = ANY($1::integer[])
  AND timeframe = $2
  AND last_write_id IS NOT NULL
"""

Days = tuple[tuple[int, int], ...]
"""Ranges of days, ends exclusive."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Holds the figures of one series as of now."""

    bars: int
    last_ts: datetime | None
    last_write_id: int | None
    asked: Days
    outside_plan: Days


@dataclass(frozen=True, slots=True)
class Written:
    """Says which write changed a series last, which is its last bar now, and how many it has."""

    write_id: int
    last_ts: datetime | None
    bars: int


class FigureStore:
    """Reads ingest.series."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self, symbol_ids: Sequence[int], timeframe: int) -> dict[int, Figures]:
        """Returns the figures of those of these series that there are, by symbol_id."""
        rows = await self._db.fetch(FIGURES, symbol_ids, timeframe)
        return {
            row["symbol_id"]: Figures(
                row["bars"], row["last_ts"], row["last_write_id"], as_days(row["asked"]), as_days(row["outside_plan"])
            )
            for row in rows
        }

    async def written(self, symbol_ids: Sequence[int], timeframe: int) -> dict[int, Written]:
        """Returns the last write of those of these series that were ever written, by symbol_id."""
        return {
            row["symbol_id"]: Written(row["last_write_id"], row["last_ts"], row["bars"])
            for row in await self._db.fetch(WRITTEN, symbol_ids, timeframe)
        }


def as_days(ranges: Iterable[asyncpg.Range[date]]) -> Days:
    """Returns ranges of dates, which Postgres keeps with an exclusive end, as ranges of days."""
    return tuple((day_of(each.lower), day_of(each.upper)) for each in ranges if each.lower and each.upper)
