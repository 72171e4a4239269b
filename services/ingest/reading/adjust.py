"""Brings prices and volumes to one basis, at read time, from raw bars and the actions known at the answer's instant.

Splits as Polygon adjusts: before the ex-date a price times split_from over split_to, to four decimals, and the volume
times the inverse. Dividends as Yahoo Finance and CRSP do: prices before the ex-date times 1 less the dividend over the
close of the session before it; volumes stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.reading.blocks import Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.columns import FloatArray, IntArray

SPLIT, DIVIDEND = 1, 2
REPEATED = 1
"""The flag of an action that is another one's repeat."""

_DECIMALS = 4
_DOLLARS = ("", "USD")
_PRICES = ("open", "high", "low", "close", "vwap")


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """A split or a cash dividend; ex_day is numbered from 1970-01-01."""

    ex_day: int
    kind: int
    split_from: float = 1.0
    split_to: float = 1.0
    cash_amount: float = 0.0
    currency: str = ""
    flags: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Closes:
    """Holds raw daily closes by day, ascending."""

    days: IntArray
    close: FloatArray

    def before(self, day: int) -> float | None:
        """Returns the last close before a day, None if there is none."""
        at = int(np.searchsorted(self.days, day)) - 1
        return float(self.close[at]) if at >= 0 else None


NO_CLOSES = Closes(np.empty(0, np.int64), np.empty(0))


def applicable(actions: Sequence[Action], *, as_of_day: int, dividends: bool) -> tuple[Action, ...]:
    """Returns the actions that count at a day, in order: none of the future, no repeats, dividends in dollars."""
    return tuple(
        sorted(
            action
            for action in actions
            if action.ex_day <= as_of_day
            and not action.flags & REPEATED
            and (action.kind == SPLIT or (dividends and action.currency in _DOLLARS))
        )
    )


class Adjuster:
    """Adjusts the bars of one series."""

    def __init__(self, actions: Sequence[Action], effective_ms: Sequence[int], closes: Closes = NO_CLOSES) -> None:
        """Takes applicable actions in order, the ts of the first bar that each leaves as it is, and daily closes."""
        steps = [
            (moment, *step)
            for action, moment in zip(actions, effective_ms, strict=True)
            if (step := _step(action, actions, closes)) is not None
        ]
        self._moments = np.array([step[0] for step in steps], np.int64)
        # Numerators and denominators apart, so that a price is multiplied and divided once.
        self._up, self._down, self._volume_up, self._volume_down = (
            _products(np.array([step[number] for step in steps])) for number in (1, 2, 3, 4)
        )

    def apply(self, block: Block) -> Block:
        """Returns the bars on the basis that follows the last action."""
        passed = np.searchsorted(self._moments, block.bars.ts, "right")
        touched = passed < len(self._moments)
        if not touched.any():
            return block
        up, down = self._up[passed], self._down[passed]
        prices = {
            name: np.where(
                touched, np.round(getattr(block.bars, name) * up / down, _DECIMALS), getattr(block.bars, name)
            )
            for name in _PRICES
        }
        volume = block.bars.volume * self._volume_up[passed] / self._volume_down[passed]
        return Block(replace(block.bars, volume=volume, **prices), block.flags)

    def same_as(self, other: Adjuster) -> bool:
        """Says whether another one makes the same of every bar."""
        pairs = (
            (self._moments, other._moments),
            (self._up, other._up),
            (self._down, other._down),
            (self._volume_up, other._volume_up),
            (self._volume_down, other._volume_down),
        )
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def after(self, first_ms: int) -> int:
        """Counts the actions that change bars from this one on."""
        return len(self._moments) - int(np.searchsorted(self._moments, first_ms, "right"))


def _step(action: Action, actions: Sequence[Action], closes: Closes) -> tuple[float, float, float, float] | None:
    """Returns by what prices and volumes before an action are multiplied and divided, None if that cannot be said."""
    if action.kind == SPLIT:
        return action.split_from, action.split_to, action.split_to, action.split_from
    close = closes.before(action.ex_day)
    if close is None:
        return None
    for split in actions:
        if split.kind == SPLIT and split.ex_day == action.ex_day:
            close = close * split.split_from / split.split_to
    if action.cash_amount >= close:
        return None
    return close - action.cash_amount, close, 1.0, 1.0


def _products(factors: FloatArray) -> FloatArray:
    """Returns, by the number of actions passed, the product of those still to come."""
    return np.append(np.cumprod(factors[::-1])[::-1], 1.0)
