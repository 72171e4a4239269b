"""The few rows that the migrator writes besides the schema: keys and seeds, each change with its audit row."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from migrator.errors import TryAgain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TypeVar

    T = TypeVar("T")

SERVICE = "migrator"
RETRY_FOR = 30.0
RETRY_EVERY = 0.05

RECORD_CALL = """
SELECT auth.record_calls(
  $1, 'changes', NULL, $2,
  ARRAY[$3::uuid], ARRAY[NULL::uuid], ARRAY[''], ARRAY[$4::text], ARRAY[''],
  ARRAY[0::smallint], ARRAY[''], ARRAY[''], ARRAY[$5::text],
  ARRAY[$6::bigint], ARRAY[1::bigint], ARRAY[1])
"""
LOCK_KEYS = "SELECT auth.lock_keys()"
MAKE_PARTITIONS = "SELECT auth.make_partitions()"


@dataclass(slots=True)
class Changes:
    """One recorder: what it changes has its row in the audit, under the service `migrator`, in the same transaction."""

    conn: asyncpg.Connection
    writer: UUID = field(default_factory=uuid4)

    async def make_partitions(self) -> None:
        """Makes sure that today's audit has a partition, also where no service has run for weeks."""
        await retried(lambda: self.conn.execute(MAKE_PARTITIONS))

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[float]:
        """Opens a transaction that ends in COMMIT, or in ROLLBACK where its body raises; gives the instant it began."""
        started = time.monotonic()
        await self.conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            yield started
        except BaseException:
            if not self.conn.is_closed():
                await self.conn.execute("ROLLBACK")
            raise
        await self.conn.execute("COMMIT")

    async def lock_keys(self) -> None:
        """Takes the audit lock: before any row of auth.keys, as everybody who changes keys does."""
        await self.conn.execute(LOCK_KEYS)

    async def record(self, method: str, subject: str, started: float) -> None:
        """Writes the audit row of the change under way; `subject` says what was changed."""
        microseconds = int((time.monotonic() - started) * 1_000_000)
        await self.conn.execute(RECORD_CALL, self.writer, SERVICE, uuid4(), method, subject, microseconds)


async def retried(change: Callable[[], Awaitable[T]]) -> T:
    """Runs a change again while its lock is not granted: locks on keys are given up after 200 ms, by rule."""
    deadline = time.monotonic() + RETRY_FOR
    while True:
        try:
            return await change()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if time.monotonic() >= deadline:
                raise TryAgain.of("", f"{error}, for {RETRY_FOR:.0f} s; nothing was changed", "run it again") from error
        await asyncio.sleep(RETRY_EVERY)
