"""Group commit: calls that finish while a batch is under way share the next one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg

from services.kit import entries
from services.kit.db import FAILURES, is_lost
from services.kit.errors import Unavailable
from services.kit.exporter import Histogram
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = get(__name__)

MAX_BATCH = 512
QUIET_TURNS = 10
"""So many turns of the event loop without a new row end the gathering: some 40 us when nothing goes on, and under load
fuller batches, which halve what Postgres does for a call."""

GATHER_SECONDS = 0.01
LINGER_FROM = 16
LINGER_SECONDS = 0.001
LINGER_TURNS = 2
"""From a batch of so many on, the next one waits a millisecond, twice at most, for as many again: callers just answered
call again, and half-full batches in turns cost gRPC, the service and Postgres more than the wait does."""

COMMAND_SECONDS = 2.0
GIVE_UP_SECONDS = 2.0
"""After this a waiting call is answered UNAVAILABLE; its row is still written when the database is back."""

DOWN_SECONDS = 0.5
"""So long a failing database is a hiccup that calls wait for; then new ones are refused before their handler runs."""

SLOW_SECONDS = 1.5
"""So long a batch may take without an error: longer than a stopped change of a key can hold it up."""

BATCHES_A_WRITER = 10_000
"""The recorder's row is hot: under a long snapshot, such as a dump, its versions pile up."""

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BACKOFF = (0.05, 0.1, 0.2, 0.5)
_TICK = 0.25
_UNKNOWN_SEQ = "MD002"
_CLIENT_ENCODING: tuple[type[BaseException], ...] = (TypeError, ValueError, OverflowError)


@dataclass(slots=True)
class Waiting:
    """A row and who waits for it: the future says whether the key was refused."""

    entry: entries.Entry
    future: asyncio.Future[bool]
    since: float


class Committer:
    """Writes batches of reads over one connection, one batch in flight, until cancelled."""

    def __init__(self, *, connect: Callable[[], Awaitable[asyncpg.Connection]], service: str) -> None:
        self._connect = connect
        self._service = service
        self._connection: asyncpg.Connection | None = None
        self._queue: deque[Waiting] = deque()
        self._flight: list[Waiting] = []
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._flight_since = 0.0
        self._expected = 0
        self._failing = False
        self._dead = False
        self._batches = 0
        self._seq = 0
        self.writer = uuid4()
        self.sizes = Histogram("mdw_audit_batch_rows", "Rows of a batch of the audit log.", _SIZES)
        self.seconds = Histogram("mdw_audit_commit_seconds", "How long a batch takes to commit.", _SECONDS)
        self.may_rotate: Callable[[], bool] = lambda: True
        """Says whether no change is open that was begun as the present writer."""

    @property
    def down(self) -> bool:
        """True while the database has failed for longer than a hiccup, or this committer has died."""
        if self._dead:
            return True
        if not self._flight:
            return False
        age = time.monotonic() - self._flight_since
        return age > (DOWN_SECONDS if self._failing else SLOW_SECONDS)

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._flight)

    def lag(self) -> float:
        """Returns for how many seconds the oldest row has waited; may be called from any thread."""
        oldest = [waiting.since for waiting in (*self._flight[:1], *self._queue.copy())][:1]
        return max(0.0, time.monotonic() - oldest[0]) if oldest else 0.0

    def submit(self, entry: entries.Entry) -> asyncio.Future[bool]:
        """Queues a row; the future is done when it is committed, or fails with Unavailable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        if self._dead:
            _fail(future)
            return future
        self._queue.append(Waiting(entry, future, time.monotonic()))
        self._wake.set()
        if self._timer is None:
            self._timer = loop.call_later(_TICK, self._give_up)
        return future

    async def run(self) -> None:
        """Commits batch after batch. Should it ever end, all who wait are told."""
        try:
            while True:
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                await self._gather()
                await self._linger()
                self._rotate()
                self._flight = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
                self._flight_since = time.monotonic()
                await self._commit(self._flight)
                self._expected = len(self._flight) + len(self._queue)
                self._flight = []
        finally:
            self._die()

    async def _gather(self) -> None:
        """Lets calls join that are about to end: waits while rows still arrive, and only a few turns of the loop."""
        limit = time.monotonic() + GATHER_SECONDS
        quiet = 0
        while quiet < QUIET_TURNS and len(self._queue) < MAX_BATCH and time.monotonic() < limit:
            before = len(self._queue)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._queue) == before else 0

    async def _linger(self) -> None:
        """Waits for the callers of the last batch, if they were many."""
        for _ in range(LINGER_TURNS if self._expected >= LINGER_FROM else 0):
            if len(self._queue) >= min(self._expected, MAX_BATCH):
                return
            await asyncio.sleep(LINGER_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Waits until all rows are committed, at most so long."""
        futures = [waiting.future for waiting in (*self._flight, *self._queue)]
        if futures:
            await asyncio.wait(futures, timeout=seconds)

    async def _commit(self, batch: list[Waiting]) -> None:
        """Writes one batch, however often it takes: the same seq and the same bytes until it is in."""
        columns = entries.columns(waiting.entry for waiting in batch)
        attempt = 0
        while True:
            try:
                refused = await self._send(self._seq + 1, columns)
            except (*FAILURES, *_CLIENT_ENCODING) as error:
                if _is_poison(error):
                    return await self._isolate(batch, error)
                await self._recover(error, attempt)
                attempt += 1
            else:
                return self._committed(batch, refused)

    async def _send(self, seq: int, columns: Any) -> frozenset[UUID]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        refused = await self._connection.fetchval(
            entries.RECORD, self.writer, entries.READS, seq, self._service, *columns, timeout=COMMAND_SECONDS
        )
        return frozenset(refused)

    def _committed(self, batch: list[Waiting], refused: frozenset[UUID]) -> None:
        self._seq += 1
        self._batches += 1
        seconds = time.monotonic() - self._flight_since
        self.sizes.observe(len(batch))
        self.seconds.observe(seconds)
        if self._failing:
            self._failing = False
            log.info("recorder_recovered", seconds=round(seconds, 3))
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_result(waiting.entry.call_id in refused)

    async def _recover(self, error: BaseException, attempt: int) -> None:
        if getattr(error, "sqlstate", None) == _UNKNOWN_SEQ:
            self._start_anew()
            return
        if not self._failing:
            self._failing = True
            log.warning("recorder_failed", error=type(error).__name__, detail=str(error))
        if self._connection is not None and (is_lost(error) or attempt):
            self._connection.terminate()
            self._connection = None
        await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])

    async def _isolate(self, batch: list[Waiting], error: BaseException) -> None:
        """Halves a batch that holds a row the database cannot read, until that row stands alone."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._commit(batch[:middle])
            await self._commit(batch[middle:])
            return
        log.error("audit_row_unreadable", call_id=batch[0].entry.call_id, error=type(error).__name__)
        replacement = entries.placeholder(batch[0].entry)
        if replacement == batch[0].entry:
            raise error
        batch[0].entry = replacement
        await self._commit(batch)

    def _rotate(self) -> None:
        if self._batches >= BATCHES_A_WRITER and self.may_rotate():
            self._start_anew()

    def _start_anew(self) -> None:
        self.writer = uuid4()
        self._seq = self._batches = 0

    def _give_up(self) -> None:
        """One timer for all who wait: a wait_for a call costs half of a client's CPU."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_TICK, self._give_up) if self.waiting else None
        limit = time.monotonic() - GIVE_UP_SECONDS
        for waiting in self._flight:
            if waiting.since <= limit and not waiting.future.done():
                _fail(waiting.future)
        for waiting in self._queue:
            if waiting.since > limit:
                break
            if not waiting.future.done():
                # Not sent yet, so the row can still say what the caller is told.
                if waiting.entry.code == 0:
                    waiting.entry = waiting.entry._replace(code=14, reason="DATABASE_UNAVAILABLE")
                _fail(waiting.future)

    def _die(self) -> None:
        self._dead = True
        if self._timer:
            self._timer.cancel()
        for waiting in (*self._flight, *self._queue):
            if not waiting.future.done():
                _fail(waiting.future)
        self._flight = []
        self._queue.clear()
        if self._connection is not None:
            self._connection.terminate()


def away() -> Unavailable:
    """Returns what a call is told whose row cannot be written."""
    return Unavailable("DATABASE_UNAVAILABLE", "the audit log cannot be written", retry_after=1.0)


def _fail(future: asyncio.Future[bool]) -> None:
    future.set_exception(away())
    future.exception()  # seen, even if nobody waits


def _is_poison(error: BaseException) -> bool:
    """Says whether an error is about the rows themselves: SQLSTATE class 22, or asyncpg could not encode them."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith("22")
    return isinstance(error, _CLIENT_ENCODING) and not isinstance(error, asyncpg.InterfaceError)
