"""Bars of many series that came together, a day of the market or files, and the parts in which they are written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.slices import SliceSpan
from services.ingest.store.instants import days_before

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from services.ingest.calendar import Sessions
    from services.ingest.columns import Columns, IntArray
    from services.ingest.store.refused import Reject

MOST_SERIES = 500
MOST_BARS = 50_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Possible bars of many series, by symbol_id and time, each time once; series i has starts[i] to starts[i + 1].

    They answer, for these series, the days from first_day to end_day (exclusive). fetch_time is that of the last day;
    each day before was answered a day sooner. `partial` says that the source carries no vwap. Rejects come with their
    symbol_id (one of symbol_ids, or None for a ticker that nobody registered) and the provider's ticker.
    """

    timeframe: int
    sessions: Sessions
    first_day: int
    end_day: int
    fetch_time: datetime
    symbol_ids: IntArray
    starts: IntArray
    bars: Columns
    rejects: Sequence[tuple[int | None, str, Reject]] = ()
    partial: bool = False
    whole: bool = False
    """All of the series were asked for: what has no bar is empty. Of a batch of one day."""

    @property
    def span(self) -> SliceSpan:
        return SliceSpan.of(self.timeframe, self.sessions, self.first_day, self.end_day - 1)

    def bars_of(self, at: int) -> Columns:
        """Returns the bars of the series at a position."""
        return self.bars.take(slice(int(self.starts[at]), int(self.starts[at + 1])))

    def fetch_time_of(self, day: int) -> datetime:
        """Returns when a day was answered."""
        return days_before(self.fetch_time, self.end_day - 1 - day)

    def take(self, first: int, end: int) -> Batch:
        """Returns the series at these positions, with their rejects; those without a series go with the first."""
        ids = self.symbol_ids[first:end]
        wanted, starts = set(ids.tolist()), self.starts[first : end + 1]
        bars = self.bars.take(slice(int(starts[0]), int(starts[-1])))
        rejects = [one for one in self.rejects if one[0] in wanted or (one[0] is None and first == 0)]
        return replace(self, symbol_ids=ids, starts=starts - starts[0], bars=bars, rejects=rejects)


def cut(batch: Batch, after: int | None = None, *, series: int = MOST_SERIES, bars: int = MOST_BARS) -> Iterator[Batch]:
    """Yields the parts of a batch in key order, from the series behind `after` on; an empty one if that is all."""
    first = 0 if after is None else int(np.searchsorted(batch.symbol_ids, after, "right"))
    while True:
        most = int(np.searchsorted(batch.starts, batch.starts[first] + bars, "right")) - 1
        end = min(max(first + 1, min(first + series, most)), len(batch.symbol_ids))
        yield batch.take(first, end)
        first = end
        if first >= len(batch.symbol_ids):
            return
