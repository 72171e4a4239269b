"""Hands out the messages of many series, one after the other, at the pace of whoever reads them.

A task of its own reads from the database and encodes; the caller takes messages from it. Whoever has not taken one for
STALL_SECONDS must not hold a connection and a snapshot: what is being read is ended, and goes on from the next bar, as
of the same instant, once the message has been taken.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from services.ingest.store import bars

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncIterator, Iterable, Iterator

    from services.kit.db import Connection, Database

STALL_SECONDS = 2.0


class PausedError(Exception):
    """Ends a read that is to go on later, from where the series stands."""


class Sender(Protocol):
    """A series that has messages to send."""

    @property
    def outbox(self) -> deque[bytes]: ...


S = TypeVar("S", bound=Sender)


class Pump(Generic[S]):
    """Answers for many series; a subclass says how one is answered. `messages` may be used once."""

    def __init__(self, db: Database, series: Iterable[S]) -> None:
        self._db = db
        self._series = series
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._undelivered: bytes | None = None
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
        """Sends what a series has ready; raises PausedError if nobody takes it."""
        while series.outbox:
            message = series.outbox.popleft()
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await self._queue.put(message)
            except TimeoutError:
                self._undelivered = message
                raise PausedError from None

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
        """Works on one connection until the end, or a pause; returns the series that is to go on."""
        try:
            async with bars.reading(self._db) as connection:
                while current is not None:
                    await self.send(current)
                    await self.answer(connection, current)
                    current = next(following, None)
        except PausedError:
            if self._undelivered is not None:
                await self._queue.put(self._undelivered)
                self._undelivered = None
        return current
