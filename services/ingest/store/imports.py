"""Starts imports of files: a job with one slice, which lists what there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from services.ingest.store.jobs import read_job
from services.ingest.store.starts import INSERT_JOB, NEXT_TURN
from services.ingest.store.steering import begin_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.ingest.store.jobs import Job
    from services.ingest.store.starts import Original
    from services.kit.calls import Call
    from services.kit.recorder import Recorder
    from services.kit.requests import Requests

FILES = 5
"""mdw.ingest.v1.Backfill.Kind."""

INSERT_LISTING = """
WITH listing AS (
  INSERT INTO ingest.slices (kind, mode, priority, turn, timeframe, asset_class, provider_ticker)
  VALUES (3, $2, $3, $4, $5, $6, $7)
  RETURNING slice_id
)
INSERT INTO ingest.backfill_slices (backfill_id, slice_id)
SELECT $1, slice_id
FROM listing
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A file or a folder, relative to the import folder; timeframe and class are 0 where the path says them."""

    path: str
    timeframe: int
    asset_class: int
    mode: int
    priority: int


class Imports:
    """Writes jobs that import files."""

    def __init__(self, recorder: Recorder, requests: Requests) -> None:
        self._recorder = recorder
        self._requests = requests

    async def start(self, call: Call, ask: Ask, original: Original, answer: Callable[[Job], bytes]) -> bytes:
        """Writes the job and returns the answer, or the first answer to a repeat of the request."""
        async with self._recorder.change(call) as conn:
            stored = await self._requests.claim(conn, call, original.request_id, original.body)
            if stored is not None:
                return stored
            await begin_change(conn)
            backfill_id, turn = uuid4(), await conn.fetchval(NEXT_TURN)
            timeframes = [ask.timeframe] if ask.timeframe else []
            job = (backfill_id, FILES, ask.mode, ask.priority, timeframes, None, None)
            await conn.execute(INSERT_JOB, *job, original.summary, call.key_id)
            kind = (ask.timeframe or None, ask.asset_class)
            await conn.execute(INSERT_LISTING, backfill_id, ask.mode, ask.priority, turn, *kind, ask.path)
            reply = answer(await read_job(conn, backfill_id))
            await self._requests.store(conn, call, original.request_id, reply)
        return reply
