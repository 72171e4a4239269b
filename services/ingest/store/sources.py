"""Where bars are read: replicas in turn, each once it holds what an answer must show, else the primary."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg

from services.kit.errors import MdwError
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Database

log = get(__name__)

# Writes commit in the order of their times, so that a replica which has this one has all before it.
HAS_WRITE = "SELECT EXISTS (SELECT FROM ingest.writes WHERE commit_time = $1)"

AWAY_SECONDS = 5.0
"""How long a replica that could not answer is not asked again."""


class _Replica:
    """One replica, and up to which write it is known to be."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._has: datetime | None = None
        self._away_until = 0.0

    async def holds(self, snapshot: Snapshot) -> bool:
        """Says whether it can serve a snapshot now; one that is away or behind cannot."""
        if snapshot.commit_time is None or (self._has is not None and snapshot.commit_time <= self._has):
            return True
        if time.monotonic() < self._away_until:
            return False
        try:
            held = bool(await self.db.fetchval(HAS_WRITE, snapshot.commit_time))
        except (MdwError, asyncpg.PostgresError) as error:
            log.warning("read_database_away", error=type(error).__name__)
            self._away_until = time.monotonic() + AWAY_SECONDS
            return False
        if held:
            self._has = snapshot.commit_time
        return held


class Sources:
    """Picks the database for each read."""

    def __init__(self, primary: Database, replicas: Sequence[Database] = ()) -> None:
        self._primary = primary
        self._replicas = [_Replica(db) for db in replicas]
        self._turn = 0

    async def pick(self, snapshot: Snapshot) -> Database:
        """Returns the next replica that holds a snapshot, or the primary."""
        for _ in self._replicas:
            self._turn = (self._turn + 1) % len(self._replicas)
            replica = self._replicas[self._turn]
            if await replica.holds(snapshot):
                return replica.db
        return self._primary
