"""Timeframes: which are stored, and what the others are rolled up from. Numbers are those of the contract."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS

# Before and after all bars: the provider has none before 2000, and the calendars end with 2035.
FIRST_MS = 0
END_MS = 4_102_444_800_000

MINUTE = 1
DAY = 7


@dataclass(frozen=True, slots=True)
class Timeframe:
    """Says how long a bar is and what it is made from; a stored one is made from itself."""

    number: int
    name: str
    stored: int
    length_ms: int

    @property
    def derived(self) -> bool:
        return self.number != self.stored

    @property
    def daily(self) -> bool:
        """Says whether bars are keyed by dates (00:00Z) and not by the instant they start."""
        return self.stored == DAY


TIMEFRAMES = {
    timeframe.number: timeframe
    for timeframe in (
        Timeframe(MINUTE, "1m", MINUTE, MINUTE_MS),
        Timeframe(2, "5m", MINUTE, 5 * MINUTE_MS),
        Timeframe(3, "15m", MINUTE, 15 * MINUTE_MS),
        Timeframe(4, "30m", MINUTE, 30 * MINUTE_MS),
        Timeframe(5, "1h", MINUTE, HOUR_MS),
        Timeframe(6, "4h", MINUTE, 4 * HOUR_MS),
        Timeframe(DAY, "1d", DAY, DAY_MS),
        Timeframe(8, "1w", DAY, WEEK_MS),
    )
}
