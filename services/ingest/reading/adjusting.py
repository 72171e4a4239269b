"""Finds out by what a symbol's bars are adjusted, as of the answer's instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.ingest.calendar import XNYS, days_of_minutes, start_of_day
from services.ingest.reading.adjust import DIVIDEND, NO_CLOSES, Action, Adjuster, Closes, applicable
from services.ingest.reading.answers import RAW, SPLITS_AND_DIVIDENDS
from services.ingest.store import bars
from services.ingest.store.bars import Span
from services.ingest.timeframes import DAY, DAY_MS

if TYPE_CHECKING:
    from services.ingest.reading.answers import Inquiry, Question
    from services.ingest.store.actions import KnownActions
    from services.kit.db import Connection

# More days than the calendars have.
_ALL_DAYS = 20_000


def actions_for(question: Question, symbol_id: int, known: KnownActions | None) -> tuple[Action, ...]:
    """Returns the actions that count for a symbol at the question's instant, by New York's date then."""
    if known is None or question.adjustment == RAW:
        return ()
    today = int(days_of_minutes(np.array([question.as_of_ms], np.int64), XNYS)[0])
    dividends = question.adjustment == SPLITS_AND_DIVIDENDS
    return applicable(known.of(symbol_id, question.snapshot), as_of_day=today, dividends=dividends)


async def adjuster_for(connection: Connection, inquiry: Inquiry) -> Adjuster | None:
    """Returns what adjusts a symbol's bars, None where nothing does; dividends need the daily closes before them."""
    actions, daily = inquiry.actions, inquiry.question.timeframe.daily
    if not actions:
        return None
    moments = [
        action.ex_day * DAY_MS if daily else start_of_day(action.ex_day, inquiry.sessions.calendar)
        for action in actions
    ]
    closes = NO_CLOSES
    if any(action.kind == DIVIDEND for action in actions):
        span = Span(symbol_id=inquiry.symbol.symbol_id, timeframe=DAY)
        rows = await bars.read(connection, span, inquiry.question.snapshot, limit=_ALL_DAYS)
        closes = Closes(rows.bars.ts // DAY_MS, rows.bars.close)
    return Adjuster(actions, moments, closes)
