"""Jobs' lives: callers start, pause, resume, cancel and retry them while a worker takes and ends slices, in any order.

What must hold after each step is read from the tables: slices are shared between jobs, so a job's state says what its
slices and the callers' wishes come to, and a slice's what its jobs do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.ingest.store.endings import begin_backfills, finish_backfills
from tests.ingest.backfilling import DAY, RETURN_SLICE
from tests.support import reason

if TYPE_CHECKING:
    from tests.bridge import Bridge
    from tests.ingest.backfilling import Ingest

PENDING, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED = 1, 2, 3, 4, 5, 6
OPEN = {PENDING, RUNNING, PAUSED}
SLICE_OPEN, SLICE_FAILED = {1, 2}, 4
TICKERS = ("AAA", "BBB", "CCC")
NUMBERS = st.integers(0, 5)

JOBS = "SELECT backfill_id, state, priority, finish_time, totals, pause_reason FROM ingest.backfills"
SLICES = "SELECT slice_id, state, held, priority, lease_until, end_time FROM ingest.slices"
LINKS = "SELECT backfill_id, slice_id FROM ingest.backfill_slices"


class JobLife(RuleBasedStateMachine):
    bridge: Bridge
    ingest: Ingest

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[str] = []
        self.held: list[Any] = []
        """Slices that the worker has taken and not ended."""
        self.bridge(self._forget())

    async def _forget(self) -> None:
        for table in ("backfill_slices", "slices", "backfills", "requests"):
            await self.ingest.sql.execute(f"DELETE FROM ingest.{table}")

    def _call(self, name: str, **fields: Any) -> Any:
        async def call() -> Any:
            try:
                return await self.ingest.call(name, **fields)
            except grpc.aio.AioRpcError as error:
                return reason(error)

        return self.bridge(call())

    def _state(self, job: str) -> int:
        sql = "SELECT state FROM ingest.backfills WHERE backfill_id::text = $1"
        return int(self.bridge(self.ingest.sql.fetchval(sql, job)))

    @rule(tickers=st.sets(st.sampled_from(TICKERS), min_size=1), priority=st.integers(1, 3))
    def start(self, tickers: set[str], priority: int) -> None:
        if len(self.jobs) < 6:
            fields = {"tickers": sorted(tickers), "timeframes": [DAY], "mode": 2, "priority": priority}
            self.jobs.append(self.bridge(self.ingest.start(**fields)).backfill.backfill_id)

    @rule(number=NUMBERS, name=st.sampled_from(["PauseBackfill", "ResumeBackfill", "CancelBackfill"]))
    def steer(self, number: int, name: str) -> None:
        if not self.jobs:
            return
        job = self.jobs[number % len(self.jobs)]
        before = self._state(job)
        answer = self._call(name, backfill_id=job)
        if before in OPEN:
            wanted = {"PauseBackfill": {PAUSED}, "ResumeBackfill": {PENDING, RUNNING}, "CancelBackfill": {CANCELLED}}
            assert answer.backfill.state in wanted[name]
        elif (before, name) == (CANCELLED, "CancelBackfill"):
            assert answer.backfill.state == CANCELLED
        else:
            assert answer == "BACKFILL_FINISHED"

    @rule(number=NUMBERS)
    def retry(self, number: int) -> None:
        if not self.jobs:
            return
        job = self.jobs[number % len(self.jobs)]
        before = self._state(job)
        answer = self._call("RetryBackfill", backfill_id=job)
        if before in (SUCCEEDED, CANCELLED):
            assert answer == "BACKFILL_STATE"
        elif before == FAILED and answer != "NOTHING_TO_DO":
            assert answer.backfill.state == RUNNING

    @rule(number=NUMBERS, priority=st.integers(1, 3))
    def hurry(self, number: int, priority: int) -> None:
        if not self.jobs:
            return
        job = self.jobs[number % len(self.jobs)]
        before = self._state(job)
        answer = self._call("UpdateBackfill", backfill_id=job, priority=priority)
        assert (answer == "BACKFILL_FINISHED") if before not in OPEN else answer.backfill.priority == priority

    @rule()
    def take(self) -> None:
        async def take() -> Any:
            row = await self.ingest.claim()
            if row is not None and row["token"] == 1:
                await begin_backfills(self.ingest.server.db, row["slice_id"])
            return row

        row = self.bridge(take())
        if row is not None:
            assert row["slice_id"] not in {held["slice_id"] for held in self.held}
            wanted = "SELECT ingest.slice_wanted($1)"
            assert self.bridge(self.ingest.sql.fetchval(wanted, row["slice_id"])) is True
            self.held.append(row)

    @rule(number=NUMBERS, how=st.sampled_from(["done", "done", "failed", "given back"]))
    def end(self, number: int, how: str) -> None:
        """The worker ends its part if its token still counts, as the fence has it."""
        if not self.held:
            return
        row = self.held.pop(number % len(self.held))

        async def end() -> None:
            sql = "SELECT token = $2 AND state = 2 FROM ingest.slices WHERE slice_id = $1"
            if not await self.ingest.sql.fetchval(sql, row["slice_id"], row["token"]):
                return
            if how == "given back":
                await self.ingest.sql.execute(RETURN_SLICE, row["slice_id"], None)
                return
            await self.ingest.end(row["slice_id"], SLICE_FAILED if how == "failed" else 3, "a reason")
            await finish_backfills(self.ingest.server.db, row["slice_id"])

        self.bridge(end())

    @invariant()
    def jobs_and_slices_agree(self) -> None:
        async def read() -> tuple[Any, Any, Any]:
            sql = self.ingest.sql
            return await sql.fetch(JOBS), await sql.fetch(SLICES), await sql.fetch(LINKS)

        jobs, slices, links = self.bridge(read())
        by_id = {row["slice_id"]: row for row in slices}
        of_job: dict[Any, list[Any]] = {job["backfill_id"]: [] for job in jobs}
        of_slice: dict[int, list[Any]] = {row["slice_id"]: [] for row in slices}
        for link in links:
            of_job[link["backfill_id"]].append(by_id[link["slice_id"]])
            of_slice[link["slice_id"]].append(next(job for job in jobs if job["backfill_id"] == link["backfill_id"]))
        for job in jobs:
            _job_agrees(job, of_job[job["backfill_id"]])
        for row in slices:
            _slice_agrees(row, [job for job in of_slice[row["slice_id"]] if job["state"] in OPEN])

    @invariant()
    def callers_see_the_same(self) -> None:
        for job in self.jobs:
            seen = self._call("GetBackfill", backfill_id=job).backfill
            # A job whose shared slice another one is fetching is shown as under way.
            assert seen.state == self._state(job) or (seen.state, self._state(job)) == (RUNNING, PENDING)
            progress = seen.progress
            assert 0 <= progress.slices_done <= progress.slices_total
            if seen.state in (SUCCEEDED, FAILED):
                assert progress.slices_done == progress.slices_total
                assert (progress.slices_failed > 0) == (seen.state == FAILED)


def _job_agrees(job: Any, slices: list[Any]) -> None:
    """An open job has work left; one that has ended says how, once and for all."""
    states = [row["state"] for row in slices]
    is_open = job["state"] in OPEN
    assert (job["finish_time"] is None) == is_open, job
    assert (job["totals"] is None) == is_open, job
    if is_open:
        assert SLICE_OPEN & set(states), (job, states)
    assert job["pause_reason"] == "" or job["state"] == PAUSED


def _slice_agrees(row: Any, open_jobs: list[Any]) -> None:
    """An open slice is wanted by an open job, held while all of them wait, and as urgent as the most urgent."""
    if row["state"] not in SLICE_OPEN:
        assert row["end_time"] is not None, row
        return
    assert open_jobs, row
    going = [job for job in open_jobs if job["state"] != PAUSED]
    assert row["held"] == (not going), (row, open_jobs)
    assert row["priority"] == max(job["priority"] for job in going or open_jobs), (row, open_jobs)
