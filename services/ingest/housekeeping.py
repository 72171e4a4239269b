"""What the server does beside its calls: ends jobs that nobody ended, and drops what is kept no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.store import endings
from services.kit.log import get

if TYPE_CHECKING:
    from services.ingest.store.rejects import Rejects
    from services.kit.background import Background
    from services.kit.db import Database
    from services.kit.requests import Requests

log = get(__name__)

FINISH_SECONDS = 5.0
SETTLE_SECONDS = 30.0
DROP_SECONDS = 3_600.0

BATCH = 2_000
"""Rows dropped in one statement, so that no lock is held for long."""


class Housekeeping:
    """Runs on every replica; each verb may run on several at once."""

    def __init__(
        self, *, db: Database, rejects: Rejects, requests: Requests, slice_days: int, reject_days: int
    ) -> None:
        self._db = db
        self._rejects = rejects
        self._requests = requests
        self._slice_days = slice_days
        self._reject_days = reject_days

    def add_to(self, background: Background) -> None:
        """Adds the verbs to what the server runs in the background."""
        background.every(FINISH_SECONDS, "finish_backfills", self.finish)
        background.every(SETTLE_SECONDS, "settle_backfills", self.settle)
        background.every(DROP_SECONDS, "drop_old_rows", self.drop)

    async def finish(self) -> None:
        """Ends jobs whose last slice ended under a process that died before it could end them."""
        ended = await endings.finish_all(self._db)
        if ended:
            log.info("backfills_finished", count=ended)

    async def settle(self) -> None:
        """Puts slices right that a change could not reach, and closes the writes of cancelled ones."""
        await endings.settle_all(self._db)
        await endings.close_writes(self._db)

    async def drop(self) -> None:
        """Drops slices, refused bars and stored answers that are kept no longer."""
        while await endings.drop_slices(self._db, self._slice_days, BATCH) == BATCH:
            pass
        while await self._rejects.drop(self._reject_days, BATCH) == BATCH:
            pass
        await self._requests.sweep(self._db)
