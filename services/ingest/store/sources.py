"""Where bars are read: replicas or nodes in turn, each once it holds what an answer must show, else the primary."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from services.kit.errors import MdwError
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Database

log = get(__name__)

# Writes commit in the order of their times, so that a replica which has this one has all before it.
HAS_WRITE = "SELECT EXISTS (SELECT FROM ingest.writes WHERE commit_time = $1)"

# A cluster's node has the bars and none of the other tables; what a snapshot shows was waited for (Snapshots.settle).
IS_NODE = """
SELECT NOT pg_is_in_recovery()
  AND EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'ingest.bars'::regclass)
"""

AWAY_SECONDS = 5.0
"""How long a replica that could not answer is not asked again."""

ASK_SECONDS = 1.0
"""How long a connection is waited for, to ask a replica."""

T = TypeVar("T")


class _Replica:
    """One replica or node, and up to which write it is known to be."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._has: datetime | None = None
        self._is_node = False
        self._away_until = 0.0

    async def holds(self, snapshot: Snapshot) -> bool:
        """Says whether it can serve a snapshot now; one that is away or behind cannot."""
        if time.monotonic() < self._away_until:
            return False
        if self._knows(snapshot):
            return True
        try:
            return await self._ask(snapshot)
        except (MdwError, asyncpg.PostgresError) as error:
            self.lost(error)
            return False

    def lost(self, error: BaseException) -> None:
        """Passes over it for a while, and asks it again then."""
        log.warning("read_database_away", error=str(error.__cause__ or error))
        self._has, self._is_node = None, False
        self._away_until = time.monotonic() + AWAY_SECONDS

    def _knows(self, snapshot: Snapshot) -> bool:
        if self._is_node:
            return snapshot.spread
        return snapshot.commit_time is None or (self._has is not None and snapshot.commit_time <= self._has)

    async def _ask(self, snapshot: Snapshot) -> bool:
        async with self.db.connection(timeout=ASK_SECONDS) as connection:
            try:
                held = bool(await connection.fetchval(HAS_WRITE, snapshot.commit_time))
            except asyncpg.UndefinedTableError:
                self._is_node = bool(await connection.fetchval(IS_NODE))
                return self._knows(snapshot)
        if held:
            self._has = snapshot.commit_time
        return held


class Sources:
    """Picks the database for each read."""

    def __init__(self, primary: Database, replicas: Sequence[Database] = ()) -> None:
        self.primary = primary
        self._replicas = [_Replica(db) for db in replicas]
        self._turn = 0

    async def pick(self, snapshot: Snapshot) -> Database:
        """Returns the next replica that holds a snapshot, or the primary."""
        for _ in self._replicas:
            self._turn = (self._turn + 1) % len(self._replicas)
            replica = self._replicas[self._turn]
            if await replica.holds(snapshot):
                return replica.db
        return self.primary

    def passes_over(self, db: Database, error: BaseException) -> bool:
        """Notes that a read from `db` failed; says whether another database may answer instead."""
        for replica in self._replicas:
            if replica.db is db and isinstance(error, (MdwError, asyncpg.PostgresError)):
                replica.lost(error)
                return True
        return False

    async def read(self, snapshot: Snapshot, work: Callable[[Database], Awaitable[T]]) -> T:
        """Does a read; where a replica fails in the middle, does it again elsewhere, at last on the primary."""
        while True:
            db = await self.pick(snapshot)
            try:
                return await work(db)
            except Exception as error:
                if not self.passes_over(db, error):
                    raise


@dataclass(frozen=True, slots=True)
class View:
    """What an answer is read from, as of its snapshot."""

    sources: Sources
    snapshot: Snapshot
