"""Where bars are read: replicas or nodes in turn, each once it holds what an answer must show, else the primary."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from services.ingest.store.bars import reading
from services.kit.errors import MdwError, Unavailable
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Connection, Database

log = get(__name__)

# Asked over the connection that then reads, since there may be several servers behind one address. Writes commit in the
# order of their times, so that a replica which has this one has all before it.
HAS_WRITE = "SELECT EXISTS (SELECT FROM ingest.writes WHERE commit_time = $1)"

WHAT = """
SELECT to_regclass('ingest.writes') IS NOT NULL AS replica,
       to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL AND NOT pg_is_in_recovery() AS node
"""
# A cluster's node has the bars and none of the other tables; what a snapshot shows was waited for (Snapshots.settle).
HAS_BARS = "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass('ingest.bars'))"

# Where a node reads of itself, nothing passes a second server.
HOLDS = """
SELECT EXISTS (SELECT FROM pg_dist_placement
               WHERE shardid = get_shard_id_for_distribution_column('ingest.bars', $1::integer)
                 AND groupid = (SELECT groupid FROM pg_dist_local_group))
"""

KNOWN_SECONDS = 60.0
"""How long a node is taken to hold what it held: where a shard has moved meanwhile, it asks the other node."""

AWAY_SECONDS = 5.0
"""How long a replica that could not answer is not asked again."""

ASK_SECONDS = 1.0
"""How long one that is asked again may take to be connected to."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lent:
    """A connection for reads of bars, and the pool it is from."""

    db: Database
    connection: Connection


class _Replica:
    """One replica, or node of a cluster."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._is_node: bool | None = None
        self._away_until = 0.0
        self._held: dict[int, bool] = {}
        self._known_until = 0.0

    def holds(self, symbol_id: int | None) -> bool:
        """Says whether it is known to be the node that has this symbol's bars."""
        if time.monotonic() > self._known_until:
            self._held.clear()
            self._known_until = time.monotonic() + KNOWN_SECONDS
        return symbol_id is not None and self._held.get(symbol_id, False)

    async def lend(self, stack: AsyncExitStack, snapshot: Snapshot, symbol_id: int | None) -> Connection | None:
        """Lends a connection that can serve a snapshot now; None when it is away or behind."""
        if time.monotonic() < self._away_until:
            return None
        try:
            if self._is_node is None:
                self._is_node = await self._look()
            return await self._lend(stack, snapshot, symbol_id)
        except (MdwError, asyncpg.PostgresError) as error:
            self.lost(error)
            return None

    def lost(self, error: BaseException) -> None:
        """Passes over it for a while, and looks at it again then."""
        log.warning("read_database_away", error=str(error.__cause__ or error))
        self._is_node = None
        self._held.clear()
        self._away_until = time.monotonic() + AWAY_SECONDS

    async def _look(self) -> bool:
        """Says whether it is a node, and no replica; raises Unavailable when it is neither."""
        async with self.db.connection(timeout=ASK_SECONDS) as connection:
            found = await connection.fetchrow(WHAT)
            assert found is not None  # noqa: S101 - the query returns one row
            if found["replica"]:
                return False
            if found["node"] and await connection.fetchval(HAS_BARS):
                return True
        raise Unavailable("DATABASE_UNAVAILABLE", "a server of READ_DATABASE_URLS has no bars", retry_after=1.0)

    async def _lend(self, stack: AsyncExitStack, snapshot: Snapshot, symbol_id: int | None) -> Connection | None:
        if self._is_node and not snapshot.spread:
            return None
        async with AsyncExitStack() as own:
            connection = await own.enter_async_context(reading(self.db, spread=snapshot.spread))
            time_needed = None if self._is_node else snapshot.commit_time
            if time_needed is not None and not await connection.fetchval(HAS_WRITE, time_needed):
                return None
            if self._is_node and symbol_id is not None and symbol_id not in self._held:
                self._held[symbol_id] = await connection.fetchval(HOLDS, symbol_id)
            stack.push_async_exit(own.pop_all())
            return connection


class Sources:
    """Picks the database for each read."""

    def __init__(self, primary: Database, replicas: Sequence[Database] = ()) -> None:
        self.primary = primary
        self._replicas = [_Replica(db) for db in replicas]
        self._turn = 0

    @asynccontextmanager
    async def reading(self, snapshot: Snapshot, symbol_id: int | None = None) -> AsyncIterator[Lent]:
        """Lends a connection to the next replica that holds a snapshot, or to the primary.

        The node of a cluster that has the bars of `symbol_id` comes before the others.
        """
        async with AsyncExitStack() as stack:
            yield await self._lend(stack, snapshot, symbol_id)

    def held_elsewhere(self, symbol_id: int, db: Database) -> bool:
        """Says whether another node than that of `db` is known to have the bars of a symbol."""
        return any(replica.db is not db and replica.holds(symbol_id) for replica in self._replicas)

    def passes_over(self, db: Database, error: BaseException) -> bool:
        """Notes that a read from `db` failed; says whether another database may answer instead."""
        for replica in self._replicas:
            if replica.db is db and isinstance(error, (MdwError, asyncpg.PostgresError)):
                replica.lost(error)
                return True
        return False

    async def read(
        self, snapshot: Snapshot, work: Callable[[Connection], Awaitable[T]], *, symbol_id: int | None = None
    ) -> T:
        """Does a read; where a replica fails in the middle, does it again elsewhere, at last on the primary."""
        while True:
            db = self.primary
            try:
                async with self.reading(snapshot, symbol_id) as lent:
                    db = lent.db
                    return await work(lent.connection)
            except Exception as error:
                if not self.passes_over(db, error):
                    raise

    async def _lend(self, stack: AsyncExitStack, snapshot: Snapshot, symbol_id: int | None) -> Lent:
        for replica in self._in_turn(symbol_id):
            connection = await replica.lend(stack, snapshot, symbol_id)
            if connection is not None:
                return Lent(replica.db, connection)
        return Lent(self.primary, await stack.enter_async_context(reading(self.primary, spread=snapshot.spread)))

    def _in_turn(self, symbol_id: int | None) -> list[_Replica]:
        """Returns the replicas in the order in which they are to be asked."""
        self._turn = (self._turn + 1) % max(len(self._replicas), 1)
        order = [*self._replicas[self._turn :], *self._replicas[: self._turn]]
        return sorted(order, key=lambda replica: not replica.holds(symbol_id))


@dataclass(frozen=True, slots=True)
class View:
    """What an answer is read from, as of its snapshot."""

    sources: Sources
    snapshot: Snapshot
