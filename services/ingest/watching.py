"""Watches jobs for many callers at the price of one query every half second."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from services.ingest.store.jobs import RUNNING, not_found
from services.kit.errors import MdwError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from uuid import UUID

    from services.ingest.store.jobs import Job, Jobs

POLL_SECONDS = 0.5
_HISTORY = 30
"""Observations that a rate is taken over: 15 seconds."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a job gets on: bars a second, and the seconds left; None while that is unknown."""

    bars_per_second: float = 0.0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """A job and its pace."""

    job: Job
    pace: Pace


class Watcher:
    """What one caller has yet to see of a job; what comes between two looks is skipped."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._latest: Observation | MdwError | None = None

    def tell(self, news: Observation | MdwError) -> None:
        self._latest = news
        self._changed.set()

    async def next(self) -> Observation:
        """Waits for news; raises the error that came instead."""
        await self._changed.wait()
        self._changed.clear()
        if isinstance(self._latest, MdwError):
            raise self._latest
        assert self._latest is not None  # noqa: S101 - tell sets it before the event
        return self._latest


class Watching:
    """Polls the jobs that somebody watches; `run` is its part in the background."""

    def __init__(self, jobs: Jobs, *, seconds: float = POLL_SECONDS) -> None:
        self._jobs = jobs
        self._seconds = seconds
        self._watchers: dict[UUID, set[Watcher]] = {}
        self._history: dict[UUID, deque[Job]] = {}
        self._wanted = asyncio.Event()

    async def watch(self, backfill_id: UUID) -> AsyncGenerator[Observation]:
        """Yields a job at once, with every change, and a last time when it has ended; raises NotFound."""
        with self._subscribed(backfill_id) as watcher:
            job = await self._jobs.get(backfill_id)
            yield Observation(job, overall_pace(job))
            while job.open:
                news = await watcher.next()
                # A look that began before the first one must not lead back.
                if news.job != job and news.job.read_time > job.read_time:
                    job = news.job
                    yield news

    async def run(self) -> None:
        """Polls while there are watchers."""
        while True:
            await self._wanted.wait()
            began = monotonic()
            await self.poll()
            # A job of very many slices is looked at less often, so that looking never takes more than a tenth.
            await asyncio.sleep(max(self._seconds, 10 * (monotonic() - began)))

    async def poll(self) -> None:
        """Reads all watched jobs once and tells their watchers."""
        wanted = list(self._watchers)
        try:
            found = await self._jobs.several(wanted)
        except MdwError as error:
            for backfill_id in wanted:
                self._tell(backfill_id, error)
            return
        for backfill_id in wanted:
            job = found.get(backfill_id)
            self._tell(backfill_id, self._observe(job) if job else not_found(backfill_id))

    def _observe(self, job: Job) -> Observation:
        history = self._history.setdefault(job.backfill_id, deque(maxlen=_HISTORY))
        pace = pace_between(history[0], job) if history and history[0].state == RUNNING else overall_pace(job)
        history.append(job)
        return Observation(job, pace)

    def _tell(self, backfill_id: UUID, news: Observation | MdwError) -> None:
        for watcher in self._watchers.get(backfill_id, ()):
            watcher.tell(news)

    @contextmanager
    def _subscribed(self, backfill_id: UUID) -> Iterator[Watcher]:
        watcher = Watcher()
        self._watchers.setdefault(backfill_id, set()).add(watcher)
        self._wanted.set()
        try:
            yield watcher
        finally:
            self._watchers[backfill_id].discard(watcher)
            if not self._watchers[backfill_id]:
                del self._watchers[backfill_id]
                self._history.pop(backfill_id, None)
            if not self._watchers:
                self._wanted.clear()


def overall_pace(job: Job) -> Pace:
    """Returns the pace since the work began."""
    if job.start_time is None:
        return Pace()
    seconds = ((job.finish_time or job.read_time) - job.start_time).total_seconds()
    return _pace(job, seconds, job.progress.bars, job.progress.done_share)


def pace_between(earlier: Job, job: Job) -> Pace:
    """Returns the pace between two looks at a job."""
    bars = job.progress.bars - earlier.progress.bars
    share = job.progress.done_share - earlier.progress.done_share
    return _pace(job, (job.read_time - earlier.read_time).total_seconds(), bars, share)


def _pace(job: Job, seconds: float, bars: int, share: float) -> Pace:
    if seconds <= 0:
        return Pace()
    left = None
    if job.state == RUNNING and share > 0:
        left = seconds * (1 - job.progress.done_share) / share
    return Pace(max(0.0, bars / seconds), left)
