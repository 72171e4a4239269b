"""Pages of the audit log, newest first, read in pieces of one day and of at most a second each.

A read of the log holds a lock on a partition; making and dropping partitions, and behind them every call, would wait
for a long one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from services.auth.store.audit import Position
from services.kit import checks
from services.kit.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from services.auth.store.audit import AuditRow, AuditStore, Filters
    from services.kit.paging import PageTokens

PIECE_SECONDS = 1.0
BUDGET_SECONDS = 4.0
"""After this a page ends where it is, perhaps with few rows; its token goes on from there."""

DAY = timedelta(days=1)
SHORTEST = timedelta(seconds=1)
_TICK = timedelta(microseconds=1)
_LAST_ID = 2**63 - 1
_METHOD = "ListAuditEntries"


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and the token of what is older."""

    rows: Sequence[AuditRow]
    next_token: str


class Span(NamedTuple):
    """What is to be read: the days that have partitions, and [low, high)."""

    days: Sequence[date]
    low: datetime
    high: datetime


class AuditReader:
    """Walks the days from the newest to the oldest."""

    def __init__(
        self,
        *,
        store: AuditStore,
        tokens: PageTokens,
        piece_seconds: float = PIECE_SECONDS,
        budget: float = BUDGET_SECONDS,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._piece_seconds = piece_seconds
        self._budget = budget

    async def page(
        self, filters: Filters, *, start: datetime | None, end: datetime | None, size: int, token: str
    ) -> Page:
        """Returns the rows of [start, end) after the token's place. Raises InvalidArgument PAGE_TOKEN_INVALID."""
        signed = msgspec.json.encode([filters, start, end])
        place = self._tokens.read(token, _METHOD, signed)
        days = await self._store.days()
        if not days:
            return Page([], "")
        low = max(start or _midnight(days[0]), _midnight(days[0]))
        high = min(end or _midnight(days[-1]) + DAY, _midnight(days[-1]) + DAY)
        before = _position(place) if place else Position(high, _LAST_ID)
        # Ids begin at 1: a place with id 0 lies before all rows of its instant.
        span = Span(days, low, min(high, before.time + _TICK) if before.id else before.time)
        rows, older = await self._walk(filters, span, before, size)
        if older is None:
            return Page(rows, "")
        return Page(rows, self._tokens.make(_METHOD, signed, [checks.micros(older.time), older.id]))

    async def _walk(
        self, filters: Filters, span: Span, before: Position, size: int
    ) -> tuple[list[AuditRow], Position | None]:
        """Returns at most `size` rows, and the place after which there are more."""
        rows: list[AuditRow] = []
        low, high, width = span.low, span.high, DAY
        deadline = time.monotonic() + self._budget
        while high > low:
            piece = _piece(span.days, low, high, width)
            if piece is None:
                break
            try:
                rows += await self._store.entries(
                    filters,
                    start=piece[0],
                    end=piece[1],
                    before=before,
                    limit=size + 1 - len(rows),
                    seconds=self._piece_seconds,
                )
            except TimeoutError:
                if piece[1] - piece[0] <= SHORTEST:
                    raise too_slow() from None
                width = (piece[1] - piece[0]) / 4
                continue
            if len(rows) > size:
                return rows[:size], Position(rows[size - 1].time, rows[size - 1].id)
            high, width = piece[0], min(DAY, width * 4)
            if time.monotonic() > deadline and high > low:
                return rows, Position(high, 0)
        return rows, None


def too_slow() -> Unavailable:
    """Returns what a reader is told when even a short piece of the log takes too long."""
    return Unavailable("DATABASE_UNAVAILABLE", "the audit log cannot be read in time", retry_after=1.0)


def _piece(days: Sequence[date], low: datetime, high: datetime, width: timedelta) -> tuple[datetime, datetime] | None:
    """Returns the newest piece between `low` and `high` that lies in one day with a partition; None if none does."""
    day = next((day for day in reversed(days) if _midnight(day) < high), None)
    if day is None:
        return None
    end = min(high, _midnight(day) + DAY)
    start = max(low, _midnight(day), end - width)
    return (start, end) if start < end else None


def _position(place: Sequence[str | int | None]) -> Position:
    return Position(checks.from_micros(int(place[0] or 0)), int(place[1] or 0))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
