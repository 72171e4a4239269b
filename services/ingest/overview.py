"""How the whole of ingest is doing, looked up every so often and exported to Prometheus by each replica alike."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from services.ingest.store.overview import Freshness, Stale, Work
from services.ingest.timeframes import DAY, MINUTE

if TYPE_CHECKING:
    from services.ingest.store.overview import OverviewStore, Safety
    from services.kit.background import Background
    from services.kit.exporter import Exporter, Labels

WORK_SECONDS = 10.0
SERIES_SECONDS = 60.0
STALEST = 20
"""So many series are exported by name, those that are furthest behind: thousands would drown Prometheus."""

CLASSES = {1: "stock", 2: "etf", 3: "crypto"}
TIMEFRAMES = {MINUTE: "1m", DAY: "1d"}


class Overview:
    """Keeps the last look at the queue, the series and the database."""

    def __init__(self, store: OverviewStore, *, requests_per_minute: int) -> None:
        self._store = store
        self._requests_per_minute = requests_per_minute
        self._work = Work()
        self._freshness: list[Freshness] = []
        self._stalest: list[Stale] = []
        self._stored: dict[int, int] = {}
        self._safety: Safety | None = None
        self._looked = time.monotonic()

    def add_to(self, background: Background) -> None:
        background.every(WORK_SECONDS, "look_at_work", self.look_at_work)
        background.every(SERIES_SECONDS, "look_at_series", self.look_at_series)

    async def look_at_work(self) -> None:
        """Looks at the queue and the limiter."""
        self._work = await self._store.work()
        self._looked = time.monotonic()

    async def look_at_series(self) -> None:
        """Looks at the series and at the standbys."""
        self._freshness, self._stalest = await self._store.series(STALEST)
        self._stored = await self._store.stored()
        self._safety = await self._store.safety()

    def export(self, exporter: Exporter) -> None:
        """Adds what was seen to what the process exports."""
        exporter.gauge("mdw_overview_age_seconds", "Since the queue was last looked at.", self._age)
        self._export_work(exporter)
        self._export_series(exporter)
        exporter.gauge("mdw_standbys", "Standbys that are connected.", lambda: _or_zero(self._safety, "standbys"))
        exporter.gauge(
            "mdw_commits_synchronous", "1 if a commit waits for one.", lambda: _or_zero(self._safety, "synchronous")
        )
        exporter.gauge("mdw_database_bytes", "Size of the database.", lambda: _or_zero(self._safety, "bytes"))

    def _export_work(self, exporter: Exporter) -> None:
        exporter.gauges("mdw_slices", "Open slices by what they wait for.", ("state",), self._slices)
        exporter.gauge("mdw_slices_lost", "Running slices whose lease has ended.", lambda: self._work.lost)
        exporter.gauges("mdw_backfills", "Open backfills by state.", ("state",), self._jobs)
        exporter.gauge("mdw_oldest_backfill_seconds", "Age of the oldest that is not paused.", self._oldest)
        exporter.gauge("mdw_limiter_limit", "Requests a minute that may be sent; 0: any.", self._limit)
        exporter.gauge("mdw_limiter_granted", "Requests granted in the last minute.", lambda: self._work.granted)

    def _export_series(self, exporter: Exporter) -> None:
        kinds = ("asset_class", "timeframe")
        exporter.gauges("mdw_series", "Series to be kept fresh, by how they are.", (*kinds, "state"), self._series)
        for name, field, text in (
            ("mdw_series_failed", "failed", "Series with sessions that could not be had."),
            ("mdw_sessions_missing", "sessions_missing", "Sessions missing between first and last bar."),
            (
                "mdw_sessions_behind_most",
                "most_behind",
                "Closed sessions after the last bar of the series most behind.",
            ),
        ):
            exporter.gauges(name, text, kinds, partial(self._by_kind, field))
        exporter.gauges(
            "mdw_sessions_behind",
            "Closed sessions after the last bar, of the series that are most behind.",
            ("ticker", *kinds),
            lambda: {(each.ticker, *_kind(each)): float(each.behind) for each in self._stalest},
        )
        exporter.gauges(
            "mdw_bars_stored",
            "Bars that are stored.",
            ("timeframe",),
            lambda: {(TIMEFRAMES.get(timeframe, ""),): float(bars) for timeframe, bars in self._stored.items()},
        )

    def _age(self) -> float:
        return time.monotonic() - self._looked

    def _limit(self) -> float:
        return self._requests_per_minute

    def _oldest(self) -> float:
        oldest = self._work.jobs_oldest
        return max(0.0, time.time() - oldest.timestamp()) if oldest else 0.0

    def _slices(self) -> dict[Labels, float]:
        return {(state,): float(getattr(self._work, state)) for state in ("pending", "waiting", "held", "running")}

    def _jobs(self) -> dict[Labels, float]:
        return {(state,): float(getattr(self._work, f"jobs_{state}")) for state in ("pending", "running", "paused")}

    def _series(self) -> dict[Labels, float]:
        states = ("current", "late", "behind", "empty")
        return {(*_kind(each), state): float(getattr(each, state)) for each in self._freshness for state in states}

    def _by_kind(self, field: str) -> dict[Labels, float]:
        return {_kind(each): float(getattr(each, field)) for each in self._freshness}


def _kind(each: Freshness | Stale) -> tuple[str, str]:
    return CLASSES.get(each.asset_class, ""), TIMEFRAMES.get(each.timeframe, "")


def _or_zero(safety: Safety | None, field: str) -> float:
    return float(getattr(safety, field)) if safety else 0.0
