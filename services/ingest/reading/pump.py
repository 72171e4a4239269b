"""Hands out the messages of many series, one after the other, at the pace of whoever reads them.

A task of its own reads from the database and encodes; the caller takes messages from it. Whoever has not taken one for
STALL_SECONDS must not hold a connection and a snapshot: what is being read is ended, and goes on from the next bar, as
of the same instant, once the message has been taken. In the same way an answer goes on elsewhere when the replica that
it is read from goes away.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncIterator, Iterable, Iterator

    from services.ingest.store.sources import View
    from services.kit.db import Connection

STALL_SECONDS = 2.0
WANTED_STALL_SECONDS = 0.1
"""The same while others wait for a connection."""

TURN_SECONDS = 0.5
"""How long one answer holds a connection while others wait; ending and resuming a COPY takes some milliseconds."""


class PausedError(Exception):
    """Ends a read that is to go on later, from where the series stands."""


class Sender(Protocol):
    """A series that has messages to send."""

    @property
    def outbox(self) -> deque[bytes]: ...

    @property
    def symbol_id(self) -> int: ...


S = TypeVar("S", bound=Sender)


class Pump(Generic[S]):
    """Answers for many series; a subclass says how one is answered. `messages` may be used once."""

    def __init__(self, view: View, series: Iterable[S]) -> None:
        self._view = view
        self._db = view.sources.primary
        self._series = series
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._undelivered: bytes | None = None
        self._turn_ends = 0.0
        self._failure: BaseException | None = None

    async def answer(self, connection: Connection, series: S) -> None:
        """Reads and sends all of a series; called again for the same series after PausedError."""
        raise NotImplementedError

    @asynccontextmanager
    async def messages(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yields the iterator of encoded messages; leaving the context ends the work at once."""
        task = asyncio.create_task(self._produce())
        try:
            yield self._take()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def send(self, series: Sender) -> None:
        """Sends what a series has ready; raises PausedError if nobody takes it, or others are to have their turn."""
        while series.outbox:
            message = series.outbox.popleft()
            if not await self._put(message):
                self._undelivered = message
                raise PausedError
        if self._db.waiting and time.monotonic() > self._turn_ends:
            raise PausedError

    async def _put(self, message: bytes) -> bool:
        """Hands a message over; says whether somebody took it before he counted as stalled."""
        end = time.monotonic() + STALL_SECONDS
        while True:
            try:
                async with asyncio.timeout(WANTED_STALL_SECONDS):
                    await self._queue.put(message)
                    return True
            except TimeoutError:
                if self._db.waiting or time.monotonic() > end:
                    return False

    async def _take(self) -> AsyncIterator[bytes]:
        while (message := await self._queue.get()) is not None:
            yield message
        if self._failure is not None:
            raise self._failure

    async def _produce(self) -> None:
        try:
            following = iter(self._series)
            current = next(following, None)
            while current is not None:
                current = await self._stretch(current, following)
        except Exception as error:  # noqa: BLE001 - raised again where the messages are taken
            self._failure = error
        await self._queue.put(None)

    async def _stretch(self, current: S | None, following: Iterator[S]) -> S | None:
        """Works on one connection until the end, a pause, or a series of another node; returns what is to go on."""
        sources, snapshot = self._view.sources, self._view.snapshot
        self._db = sources.primary
        try:
            async with sources.reading(snapshot, current.symbol_id if current else None) as lent:
                self._db = lent.db
                self._turn_ends = time.monotonic() + TURN_SECONDS
                while current is not None:
                    await self.send(current)
                    await self.answer(lent.connection, current)
                    current = next(following, None)
                    if current is not None and sources.held_elsewhere(current.symbol_id, lent.db):
                        break
        except PausedError:
            if self._undelivered is not None:
                await self._queue.put(self._undelivered)
                self._undelivered = None
        except Exception as error:
            if not sources.passes_over(self._db, error):
                raise
        return current
