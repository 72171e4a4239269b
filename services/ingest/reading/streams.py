"""Streams the answers of many series, one after the other, at the pace of whoever reads them.

A task of its own copies out of the database and encodes; the caller takes messages from it. Whoever has not taken one
for STALL_SECONDS must not hold a connection and a snapshot: the COPY is ended, and goes on from the next bar, as of
the same instant, once the message has been taken.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.ingest.reading.blocks import RunMerger
from services.ingest.reading.pages import expected_sessions
from services.ingest.reading.wire import CHUNK
from services.ingest.store import bars

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from services.ingest.reading.blocks import Block
    from services.ingest.reading.receipts import Receipt
    from services.ingest.reading.series import Series
    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Connection, Database

STALL_SECONDS = 2.0
# Revisions come before all bars and are kept until their time comes; with more, a series is read in several spans.
MAX_REVISIONS = 100_000


class _PausedError(Exception):
    """Ends a COPY that is to go on later, from where the series stands."""


class Stream:
    """Answers one question for many series; `messages` may be read once."""

    def __init__(self, db: Database, snapshot: Snapshot, series: Sequence[Series], receipt: Receipt) -> None:
        self._db = db
        self._snapshot = snapshot
        self._series = series
        self._receipt = receipt
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._undelivered: bytes | None = None
        self._failure: BaseException | None = None
        self.pauses = 0

    @asynccontextmanager
    async def messages(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yields the iterator of encoded messages; leaving the context ends the work at once."""
        task = asyncio.create_task(self._produce())
        try:
            yield self._take()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

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

    async def _stretch(self, current: Series | None, following: Iterator[Series]) -> Series | None:
        """Works on one connection until the end, or a pause; returns the series that is to go on."""
        try:
            async with bars.reading(self._db) as connection:
                while current is not None:
                    await self._answer(connection, current)
                    current = next(following, None)
        except _PausedError:
            self.pauses += 1
        if self._undelivered is not None:
            await self._queue.put(self._undelivered)
            self._undelivered = None
        return current

    async def _answer(self, connection: Connection, series: Series) -> None:
        await self._deliver(series)
        expected = 0
        if not series.known_empty:
            await series.find_start(connection)
            if not series.copied:
                await self._copy(connection, series)
            series.finish()
            await self._deliver(series)
            account = series.answer.account
            expected = await expected_sessions(connection, series.question, series.symbol.symbol_id, account)
        self._receipt.add_account(series.symbol, series.answer.account, bars=series.bars, expected=expected)

    async def _copy(self, connection: Connection, series: Series) -> None:
        merger = RunMerger(CHUNK)

        async def take(data: bytes) -> None:
            for block in merger.feed(data):
                await self._push(series, merger, block)

        await bars.copy(connection, series.span, self._snapshot, take, revision_limit=MAX_REVISIONS)
        for block in merger.finish():
            await self._push(series, merger, block)
        series.copied = True

    async def _push(self, series: Series, merger: RunMerger, block: Block) -> None:
        """Answers with a block; beyond the last of too many revisions there may be others, that were not read."""
        cut = merger.revisions >= MAX_REVISIONS and int(block.bars.ts[-1]) > merger.last_revision_ms
        series.push(block.take(block.bars.ts <= merger.last_revision_ms) if cut else block)
        await self._deliver(series)
        if cut:
            raise _PausedError

    async def _deliver(self, series: Series) -> None:
        while series.outbox:
            message = series.outbox.popleft()
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await self._queue.put(message)
            except TimeoutError:
                self._undelivered = message
                raise _PausedError from None
