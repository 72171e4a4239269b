"""Streams whole answers: each series by one COPY, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from services.ingest.reading.blocks import RunMerger
from services.ingest.reading.pages import expected_sessions
from services.ingest.reading.pump import PausedError, Pump, Sender
from services.ingest.reading.series import Series
from services.ingest.reading.wire import CHUNK
from services.ingest.store import bars

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.ingest.reading.blocks import Block
    from services.ingest.reading.receipts import Receipt
    from services.ingest.store.sources import View
    from services.kit.db import Connection

# Revisions come before all bars and are kept until their time comes; with more, a series is read in several spans.
MAX_REVISIONS = 100_000

S = TypeVar("S", bound=Sender)


class Stream(Pump[S]):
    """Sends answers of many series and adds up their accounts."""

    def __init__(self, view: View, series: Iterable[S], receipt: Receipt) -> None:
        super().__init__(view, series)
        self._receipt = receipt

    async def send_whole(self, connection: Connection, series: Series) -> None:
        """Sends all of a series; may be called again after PausedError."""
        if series.known_empty and not series.done:
            series.close(expected=0)
        elif not series.done:
            await series.prepare(connection)
            await self.send(series)
            if not series.copied:
                await self._copy(connection, series)
            series.finish()
            series.close(await expected_sessions(connection, series.inquiry, series.answer.account))
        await self.send(series)
        self._receipt.add(series.receipt)

    async def _copy(self, connection: Connection, series: Series) -> None:
        merger = RunMerger(CHUNK)

        async def take(data: bytes) -> None:
            for block in merger.feed(data):
                await self._push(series, merger, block)

        snapshot = series.inquiry.question.snapshot
        await bars.copy(connection, series.span, snapshot, take, revision_limit=MAX_REVISIONS)
        for block in merger.finish():
            await self._push(series, merger, block)
        series.copied = True

    async def _push(self, series: Series, merger: RunMerger, block: Block) -> None:
        """Answers with a block; beyond the last of too many revisions there may be others, that were not read."""
        cut = merger.revisions >= MAX_REVISIONS and int(block.bars.ts[-1]) > merger.last_revision_ms
        series.push(block.take(block.bars.ts <= merger.last_revision_ms) if cut else block)
        await self.send(series)
        if cut:
            raise PausedError


class AnswerStream(Stream[Series]):
    """Sends the whole answers of many series."""

    async def answer(self, connection: Connection, series: Series) -> None:
        await self.send_whole(connection, series)
