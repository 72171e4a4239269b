"""Takes bars away: which of the stored ones go, and what that makes of those that stay. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.columns import concatenate, inside
from services.ingest.merge import Held
from services.ingest.quality import ABSENT, WINDOW, Context, context_after, encode_tail, judge, validated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.merge import Neighbourhood
    from services.ingest.quality import Split


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """What a deletion changes in what is stored of its span."""

    gone: Held
    changed: Held
    """New versions of bars that stay and are judged otherwise now."""
    validated: int
    """By how many the validated bars became more."""
    tail: bytes | None
    """None when the series' last bars are others."""

    @property
    def touched(self) -> tuple[int, int] | None:
        """Returns the first and last time of what changed."""
        times = np.concatenate([self.gone.bars.ts, self.changed.bars.ts])
        return (int(times.min()), int(times.max())) if len(times) else None


def remove(
    stored: Neighbourhood, kept: Sequence[tuple[int, int]], asked_us: int, splits: Sequence[Split] = ()
) -> Removal:
    """Takes away the bars of a span, but those that were brought back by answers to later requests.

    `kept` are the spans of such answers; a bar of theirs that is ABSENT stays if an answer later than asked_us held it.
    """
    own, before, after = stored.own, stored.before, stored.after
    stays = inside(own.bars.ts, kept) & (~own.absent | (stored.origins > asked_us))
    rest = own.take(np.flatnonzero(stays))
    bars = concatenate([rest.bars, after.bars])
    old = np.concatenate([rest.flags, after.flags])
    context = Context(before.bars.ts, before.bars.close, before.bars.volume)
    flags = judge(bars, context, splits) | (old & np.int16(ABSENT))
    tail = None if len(after) >= WINDOW else encode_tail(context_after(context, bars))
    good = int(validated(flags).sum()) - int(validated(np.concatenate([own.flags, after.flags])).sum())
    changed = Held(bars, flags).take(np.flatnonzero(flags != old))
    return Removal(own.take(np.flatnonzero(~stays)), changed, good, tail)
