"""Records calls: reads by group commit, changes inside their own transaction."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Self

import asyncpg

from services.kit import entries
from services.kit.committer import COMMAND_SECONDS, Committer
from services.kit.db import FAILURES, LOCK_NOT_AVAILABLE, begin, is_lost, roll_back, terminate
from services.kit.errors import Unauthenticated, Unavailable
from services.kit.floods import Floods
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType
    from uuid import UUID

    from services.kit.calls import Call
    from services.kit.db import Connection, Database
    from services.kit.exporter import Histogram

log = get(__name__)

LOCK_KEYS = "SELECT auth.lock_keys()"
CHANGE_COMMITTED = "SELECT auth.change_committed($1, $2, $3)"

CONCURRENT_CHANGES = 4
"""More at once are slower: they all take their seq from one row."""

RESOLVE_SECONDS = 5.0
LOCK_SECONDS = 10.0

_REFUSED = "MD001"


class Recorder:
    """What a process records with: one writer, one chain of reads and one of changes."""

    def __init__(self, db: Database, *, service: str) -> None:
        self._db = db
        self._service = service
        self._slots = asyncio.Semaphore(CONCURRENT_CHANGES)
        self._open_changes = 0
        self._committer = Committer(connect=self._connect, service=service)
        self._committer.may_rotate = lambda: self._open_changes == 0
        self._task: asyncio.Task[None] | None = None
        self.floods = Floods(self._committer.submit)

    @property
    def service(self) -> str:
        return self._service

    @property
    def writer(self) -> UUID:
        return self._committer.writer

    @property
    def down(self) -> bool:
        """True while rows cannot be written: new calls are refused before their handler runs."""
        return self._committer.down

    @property
    def waiting(self) -> int:
        """How many rows wait for their commit."""
        return self._committer.waiting

    @property
    def histograms(self) -> tuple[Histogram, Histogram]:
        """Sizes of the batches, and how long each took to commit."""
        return self._committer.sizes, self._committer.seconds

    def lag(self) -> float:
        """Returns for how many seconds the oldest row has waited; may be called from any thread."""
        return self._committer.lag()

    async def start(self) -> asyncio.Task[None]:
        """Starts the committer; the task ends only by `close` or by a bug, which should end the process."""
        self._task = asyncio.create_task(self._committer.run(), name="committer")
        return self._task

    async def close(self) -> None:
        """Writes what waits, at most two seconds, and stops."""
        if self._task is None:
            return
        self.floods.flush()
        await self._committer.drain(2.0)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def submit(self, entry: entries.Entry) -> asyncio.Future[bool]:
        """Queues a row of a read; the future says whether the key was refused."""
        return self._committer.submit(entry)

    @asynccontextmanager
    async def change(self, call: Call) -> AsyncIterator[Connection]:
        """Lends a transaction for a change; the call's row is written last and commits with it.

        Raises Unauthenticated, and rolls back, if the key does not count any more.
        """
        async with self._slots, self._db.connection() as connection:
            with self._opened():
                await begin(connection)
                try:
                    yield connection
                    await self._record(connection, call)
                except BaseException:
                    await roll_back(connection)
                    raise
                await self._commit(connection, call)

    @asynccontextmanager
    async def key_change(self, call: Call) -> AsyncIterator[Connection]:
        """Lends a transaction for a change of auth.keys: the audit lock, then the row, then the caller's statements.

        The row comes before the change, because a key that revokes itself would else refuse itself.
        """
        async with self._slots, self._db.connection() as connection:
            with self._opened():
                await lock_keys(connection, call.remaining(LOCK_SECONDS))
                try:
                    await self._record(connection, call)
                    yield connection
                except BaseException:
                    await roll_back(connection)
                    raise
                await self._commit(connection, call)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Keeps the writer while a change is open: who asks later whether it committed needs the same one."""
        self._open_changes += 1
        try:
            yield
        finally:
            self._open_changes -= 1

    async def _connect(self) -> asyncpg.Connection:
        return await self._db.connect(f"mdw {self._service} recorder", command_timeout=COMMAND_SECONDS)

    async def _record(self, connection: Connection, call: Call) -> None:
        row = entries.entry(call, 0, messages=1, count=0 if call.recorded else 1)
        try:
            await connection.fetchval(
                entries.RECORD, self.writer, entries.CHANGES, None, self._service, *entries.columns([row])
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate == _REFUSED:
                raise Unauthenticated(getattr(error, "detail", None) or "KEY_INVALID") from None
            raise

    async def _commit(self, connection: Connection, call: Call) -> None:
        """Commits to the end even if the caller goes away meanwhile."""
        task = asyncio.ensure_future(self._settle(connection, call))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                await asyncio.wait([task])
            raise

    async def _settle(self, connection: Connection, call: Call) -> None:
        try:
            await connection.execute("COMMIT")
        except FAILURES as error:
            if not is_lost(error):
                raise
            terminate(connection)
            if not await self._resolve(call):
                raise
        call.recorded = True

    async def _resolve(self, call: Call) -> bool:
        """Says whether a change whose COMMIT was not answered is in; raises COMMIT_UNKNOWN if nobody can say."""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                while True:
                    with suppress(*FAILURES):
                        return await self._ask(call)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            row = entries.entry(call, Unavailable.code, "COMMIT_UNKNOWN")
            self._hold_writer_until(self.submit(row))
            call.recorded = True
            log.error("commit_unknown", call_id=call.call_id, method=call.method)  # noqa: TRY400 - a timeout has no story
            raise Unavailable(
                "COMMIT_UNKNOWN", "the change may have happened; repeat it with the same request_id", retry_after=1.0
            ) from None

    async def _ask(self, call: Call) -> bool:
        connection = await self._connect()
        try:
            return bool(await connection.fetchval(CHANGE_COMMITTED, self.writer, self._service, call.call_id))
        finally:
            connection.terminate()

    def _hold_writer_until(self, future: asyncio.Future[bool]) -> None:
        self._open_changes += 1

        def release(done: asyncio.Future[bool]) -> None:
            self._open_changes -= 1
            if not done.cancelled():
                done.exception()

        future.add_done_callback(release)


async def lock_keys(connection: Connection, seconds: float) -> None:
    """Begins a transaction that holds the audit lock exclusively; raises Unavailable if it cannot be had in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        await begin(connection)
        try:
            await connection.execute(LOCK_KEYS)
        except asyncpg.PostgresError as error:
            await roll_back(connection)
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
        except BaseException:
            await roll_back(connection)
            raise
        else:
            return
        if asyncio.get_running_loop().time() >= deadline:
            raise Unavailable("DATABASE_UNAVAILABLE", "the audit lock could not be had in time", retry_after=1.0)
        # Not at once and not all together: whoever holds the lock needs a moment.
        await asyncio.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - no secret hangs on it
