"""The whole market by day: when that takes fewer requests than ranges, how it is asked for and read. Pure functions."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from services.ingest.batches import Batch
from services.ingest.calendar import date_of, start_of_day
from services.ingest.planner import MarketDay
from services.ingest.quality import sift_many
from services.ingest.slices import SliceSpan
from services.ingest.store.refused import Reject
from services.ingest.timeframes import DAY, DAY_MS
from services.kit.tickers import CRYPTO, STOCK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from services.ingest.calendar import Sessions
    from services.ingest.columns import BoolArray, IntArray
    from services.ingest.pages import Grouped
    from services.ingest.planner import Plan, Slice

MARKETS = {STOCK: "locale/us/market/stocks", CRYPTO: "locale/global/market/crypto"}
"""By the asset class that a day's slice carries: of stocks it is theirs, ETFs included."""

CLASSES = {STOCK: (1, 2), CRYPTO: (3,)}


def market_of(asset_class: int) -> int:
    """Returns the class under which a class's days are asked for."""
    return CRYPTO if asset_class == CRYPTO else STOCK


def target(market: int, day: int) -> str:
    """Returns path and query for a day of a market, raw."""
    otc = "&include_otc=true" if market == STOCK else ""
    return f"/v2/aggs/grouped/{MARKETS[market]}/{date_of(day)}?adjusted=false{otc}"


def by_day_where_fewer(plan: Plan, days: Mapping[int, Sequence[int]], open_days: Mapping[MarketDay, int]) -> Plan:
    """Returns a plan with whole days in place of some of its slices, where that takes fewer requests.

    `days` are the sessions by market; open_days the slices of other jobs that will bring a day, which are shared.
    """
    chosen: list[MarketDay] = []
    shared: list[int] = []
    gone: set[Slice] = set()
    for market, sessions in days.items():
        ranges = [one for one in plan.slices if one.timeframe == DAY and market_of(one.asset_class) == market]
        free = np.array([MarketDay(market, day) in open_days for day in sessions], np.bool_)
        replaced, wanted = _cheapest(ranges, sessions, free)
        gone.update(replaced)
        here = [MarketDay(market, sessions[at]) for at in np.flatnonzero(wanted).tolist()]
        chosen += [one for one in here if one not in open_days]
        shared += [open_days[one] for one in here if one in open_days]
    return replace(
        plan,
        slices=[one for one in plan.slices if one not in gone],
        by_day=[one for one in plan.slices if one in gone],
        days=chosen,
        shared=plan.shared + shared,
        shared_requests=plan.shared_requests + len(shared),
    )


def _cheapest(ranges: Sequence[Slice], sessions: Sequence[int], free: BoolArray) -> tuple[list[Slice], BoolArray]:
    """Returns the slices that days replace, the shortest ones first, and which sessions that takes.

    A day costs a request unless it is free, a slice as many as it plans; the cheapest mix of both is taken.
    """
    spans = [(bisect_left(sessions, one.first), bisect_right(sessions, one.last), one) for one in ranges]
    spans.sort(key=lambda span: (span[1] - span[0], span[0]))
    covered, best = np.zeros(len(sessions), np.bool_), np.zeros(len(sessions), np.bool_)
    cost = least = sum(one.requests for one in ranges)
    count = 0
    for number, (start, end, one) in enumerate(spans, 1):
        new = ~covered[start:end]
        cost += int((new & ~free[start:end]).sum()) - one.requests
        covered[start:end] = True
        if cost < least:
            least, count, best = cost, number, covered.copy()
    return [one for _, _, one in spans[:count]], best


def to_batch(
    page: Grouped, owners: Mapping[int, int], asked: Sequence[int], sessions: Sessions, answered: tuple[int, datetime]
) -> Batch:
    """Returns what a page says of registered symbols: owners by position in it, and those that were asked for.

    `answered` are its day, and when it was asked for.
    """
    day, fetch_time = answered
    span = SliceSpan.of(DAY, sessions, day, day)
    positions = np.array(sorted(owners), np.intp)
    whose = np.array([owners[at] for at in positions.tolist()], np.int64)
    raw = page.bars.take(positions)
    # Stamped with the end of their window, which is the start of the next day at the latest.
    first, end = (start_of_day(one, sessions.calendar) for one in (day, day + 1))
    inside = (raw.ts >= first) & (raw.ts <= end)
    bars = replace(raw, ts=np.where(inside, day * DAY_MS, raw.ts))
    bounds = np.full(len(bars), span.start_ms), np.full(len(bars), span.end_ms)
    sifted = sift_many(bars, whose, start_ms=bounds[0], end_ms=bounds[1], off_grid=~inside)
    ids = np.unique(np.concatenate([whose, np.array(asked, np.int64)]))
    return Batch(
        timeframe=DAY,
        sessions=sessions,
        first_day=day,
        end_day=day + 1,
        fetch_time=fetch_time,
        symbol_ids=ids,
        starts=_starts(ids, whose[sifted.kept]),
        bars=bars.take(sifted.kept),
        rejects=[
            (int(whose[at]), page.tickers[positions[at]], Reject(int(bars.ts[at]), str(reason), raw_text))
            for at, reason, raw_text in zip(
                sifted.rejected.tolist(),
                sifted.reasons,
                page.page.raw(positions[sifted.rejected].tolist()),
                strict=True,
            )
        ],
        whole=True,
    )


def _starts(ids: IntArray, owners: IntArray) -> IntArray:
    """Returns where each series begins among bars by owner, and where the last one ends."""
    return np.append(np.searchsorted(owners, ids), len(owners))
