"""A schedule by a clock that tests set, and what it is given to plan."""

from __future__ import annotations

from datetime import UTC, date, datetime

from services.ingest.scheduling import Scheduler
from services.ingest.store.schedule import Schedule
from services.ingest.store.symbols import SymbolStore
from services.kit.requests import Requests
from tests.ingest.backfilling import DAY, STOCK

SLICES = """
SELECT y.ticker, s.timeframe, s.first_date::text, s.last_date::text, s.priority
FROM ingest.slices s
JOIN symbols.tickers y USING (symbol_id)
ORDER BY s.slice_id
"""


class Clock:
    """A clock that tests set; thursday evening in New York at first."""

    def __init__(self) -> None:
        self.now = datetime(2018, 3, 1, 22, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def set(self, text):
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC)


def replica(ingest, clock):
    db, recorder = ingest.server.db, ingest.server.recorder
    return Scheduler(
        db=db,
        recorder=recorder,
        requests=Requests("ingest"),
        schedule=Schedule(db, recorder),
        symbols=SymbolStore(db),
        clock=clock,
    )


async def symbol(ingest, ticker, asset_class=STOCK, timeframes=(DAY,), *, active=True):
    symbol_id = await ingest.symbol(ticker, asset_class, active=active)
    await ingest.sql.execute(
        "UPDATE symbols.symbols SET timeframes = $2 WHERE symbol_id = $1", symbol_id, list(timeframes)
    )
    return symbol_id


async def planned(ingest):
    return [tuple(row) for row in await ingest.sql.fetch(SLICES)]


async def asked(ingest, symbol_id, first, end, timeframe=DAY):
    await ingest.sql.execute(
        "INSERT INTO ingest.series (symbol_id, timeframe, asked) VALUES ($1, $2, datemultirange(daterange($3, $4)))",
        symbol_id,
        timeframe,
        date.fromisoformat(first),
        date.fromisoformat(end),
    )
