"""Waits until a session is complete for some symbols."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import IntEnum
from time import monotonic
from typing import TYPE_CHECKING

from services.ingest.coverage import UNEXPECTED, Why, cover

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from services.ingest.calendar import Sessions
    from services.ingest.coverage import Hole
    from services.ingest.store.coverage import CoverageStore
    from services.ingest.store.symbols import Symbol

POLL_SECONDS = 1.0
IDLE_POLLS = 5
"""So many times as long while nobody works on what is missing."""

_YIELD_EVERY = 200
"""Series accounted for before other calls get their turn."""


class Stage(IntEnum):
    """Says how far a session is; the numbers are those of the contract."""

    WAITING = 1
    COMPLETE = 2
    INCOMPLETE = 3


@dataclass(frozen=True, slots=True)
class Lack:
    """A symbol that lacks the session, and why."""

    symbol: Symbol
    hole: Hole


@dataclass(frozen=True, slots=True)
class Look:
    """How far a session has come: how many symbols are waited for, and which of them lack it."""

    stage: Stage
    expected: int
    lacking: Sequence[Lack]


class SessionWatch:
    """Looks at one session of many series until nothing is missing."""

    def __init__(
        self,
        store: CoverageStore,
        calendars: Mapping[int, Sessions],
        *,
        timeframe: int,
        day: int,
        seconds: float | None = None,
    ) -> None:
        """Takes the calendar of each symbol, by symbol_id."""
        self._store = store
        self._calendars = calendars
        self._timeframe = timeframe
        self._day = day
        self._seconds = POLL_SECONDS if seconds is None else seconds

    async def looks(self, symbols: Sequence[Symbol], until: float) -> AsyncGenerator[Look]:
        """Yields a look at once, with every change, and a last one; `until` is on the monotonic clock."""
        expected, lacking = await self._look(symbols)
        told = None
        while lacking and monotonic() < until:
            if lacking != told:
                yield Look(Stage.WAITING, expected, lacking)
                told = lacking
            await _sleep(self._pause(lacking), until)
            began = monotonic()
            waiting, lacking = await self._look([one.symbol for one in lacking])
            # Who turned out not to be listed that day is waited for no longer.
            expected -= len(told) - waiting
            if lacking:
                # Looking at very many never takes more than a tenth of the time.
                await _sleep(9 * (monotonic() - began), until)
        yield Look(Stage.INCOMPLETE if lacking else Stage.COMPLETE, expected, lacking)

    def _pause(self, lacking: Sequence[Lack]) -> float:
        busy = any(one.hole.why == Why.IN_PROGRESS for one in lacking)
        return self._seconds if busy else self._seconds * IDLE_POLLS

    async def _look(self, symbols: Sequence[Symbol]) -> tuple[int, list[Lack]]:
        """Returns how many of the symbols are waited for, and which of them lack the session."""
        closed = await self._store.closed_days()
        expected, lacking = 0, []
        known = await self._store.read(symbols, self._timeframe, self._day, self._day + 1)
        for position, facts in enumerate(known):
            if position % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            calendar = self._calendars[facts.symbol.symbol_id]
            found = cover(facts, calendar, self._day, self._day + 1, closed[calendar.calendar])
            reasons = [*found.holes, *found.doubtful]
            if not any(hole.why in UNEXPECTED for hole in found.holes):
                expected += 1
                lacking += [Lack(facts.symbol, hole) for hole in reasons[:1]]
        return expected, lacking


async def _sleep(seconds: float, until: float) -> None:
    await asyncio.sleep(max(0.0, min(seconds, until - monotonic())))
