"""One piece of work that can be done again and again, undisturbed or under fire, and what it must end in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.ingest.store.endings import finish_all
from tests.ingest.working import CRYPTO, DAY, ETF, MINUTE, STOCK, Ask, Desk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from deploy.local.replay import Replay
    from tests.ingest.processes import Crew

Tables = dict[str, list[tuple[Any, ...]]]
Work = tuple[str, int, int, str, str]
"""Ticker, asset class, timeframe, first and last date."""

PAGE_BARS = 200

WORK = (
    ("AAPL", STOCK, DAY, "2004-01-02", "2007-12-31"),
    ("MSFT", STOCK, DAY, "2002-01-02", "2005-12-30"),
    ("SPY", ETF, MINUTE, "2020-12-15", "2020-12-18"),
    ("X:BTCUSD", CRYPTO, DAY, "2018-01-01", "2020-12-31"),
)
OVERLAP = ("AAPL", STOCK, DAY, "2005-06-01", "2006-05-31")
# So many pages there are in WORK, at least.
PAGES = 24


class Task:
    """A piece of work, and an overlapping second backfill of part of it."""

    def __init__(self, desk: Desk, work: Sequence[Work] = WORK, overlap: Work = OVERLAP, *, pages: int = PAGES) -> None:
        self.desk = desk
        self.pages = pages
        self._work, self._overlap = work, overlap
        self._symbols: dict[str, int] = {}

    async def prepare(self) -> None:
        for ticker, asset_class, *_ in self._work:
            self._symbols[ticker] = await self.desk.symbol(ticker, asset_class)

    async def begin(self) -> None:
        """Forgets all that was written and starts anew."""
        await self.desk.empty()
        await self.desk.sql.execute("ALTER SEQUENCE ingest.slices_slice_id_seq RESTART WITH 1")
        await self.desk.start(*(self._ask(*one) for one in self._work))
        await self.desk.start(self._ask(*self._overlap))

    def _ask(self, ticker: str, asset_class: int, timeframe: int, first: str, last: str) -> Ask:
        return Ask(self._symbols[ticker], ticker, first, last, timeframe, asset_class)

    async def done(self) -> bool:
        return await self.desk.open_slices() == 0

    async def result(self) -> Tables:
        """Returns the final tables; of slices only what a run under fire can keep: who came first decides the rest."""
        # As the service does every few seconds: a worker may have died between its last slice and the end of the job.
        await finish_all(self.desk.db)
        tables = await self.desk.tables(slices=False)
        slices = await self.desk.sql.fetch(
            "SELECT slice_id, state, cursor, inserted + unchanged, updated, rejected "
            "FROM ingest.slices ORDER BY slice_id"
        )
        states = await self.desk.sql.fetch("SELECT state FROM ingest.backfills")
        return {**tables, "slices": [tuple(row) for row in slices], "jobs": [tuple(row) for row in states]}

    async def undisturbed(self, url: str, page_bars: int = PAGE_BARS) -> Tables:
        """Does the work with one worker in this process."""
        await self.begin()
        await self.desk.drain(await self.desk.worker(url, page_bars=page_bars), 600)
        return await self.result()


async def kill_at(task: Task, crew: Crew, replay: Replay, chance: Random, kills: int) -> Tables:
    """Does the work while workers are killed soon after random requests, each replaced by a new one."""
    await task.begin()
    replay.served.clear()
    points = sorted(chance.sample(range(1, task.pages), kills))
    while len(crew.children) < 2:
        crew.start()
    for point in points:

        async def reached(point: int = point) -> bool:
            return len(replay.served) >= point or await task.done()

        await crew.until(reached)
        await crew.until(_after(chance.uniform(0, 0.03)))
        crew.kill(chance.choice(crew.children))
        crew.start()
    await crew.until(task.done, 600)
    return await task.result()


def _after(seconds: float) -> Any:
    from time import monotonic  # noqa: PLC0415

    end = monotonic() + seconds

    async def passed() -> bool:
        return monotonic() >= end

    return passed
