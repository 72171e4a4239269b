"""What is seen at an instant: the writes that had committed by then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.kit.db import Database

# The newest write by then, and whether there is a later one. Both in one statement: a time between the two answers
# would be taken for one after the newest write.
SEEN_AT = """
SELECT commit_time, high, open, to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL AS spread,
       EXISTS (SELECT FROM ingest.writes WHERE commit_time > $1) AS later
FROM ingest.writes
WHERE commit_time <= $1
ORDER BY commit_time DESC
LIMIT 1
"""

NEWEST = """
SELECT commit_time, high, open, to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL AS spread
FROM ingest.writes
WHERE commit_time IS NOT NULL
ORDER BY commit_time DESC
LIMIT 1
"""

AWAIT_NODES = """
SELECT ingest.await_nodes($1::integer[])
"""

# Conditions are text, since COPY takes no parameters and an array of them would be searched from end to end; only
# integers come in.
_ALL_BELOW = "{column} < {high}"
_BUT_OPEN = "({column} < {low} OR ({column} < {high} AND {column} <> ALL ('{{{open}}}'::integer[])))"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Says which writes are seen: those below high that were not open; all of them had committed by as_of."""

    as_of: datetime
    high: int
    open: tuple[int, ...] = ()
    lowered: bool = False
    commit_time: datetime | None = None
    """Of the newest write that is seen; None before the first one."""
    spread: bool = False
    """Bars may be on the nodes of a cluster."""

    @property
    def low(self) -> int:
        """Returns the first write that is not seen."""
        return self.open[0] if self.open else self.high

    def sees(self, write_id: int) -> bool:
        return write_id < self.low or (write_id < self.high and write_id not in self.open)

    def condition(self, column: str) -> str:
        """Returns the SQL that says whether the write in this column is seen."""
        if not self.open:
            return _ALL_BELOW.format(column=column, high=int(self.high))
        numbers = ",".join(str(int(write_id)) for write_id in self.open)
        return _BUT_OPEN.format(column=column, low=int(self.low), high=int(self.high), open=numbers)


class Snapshots:
    """Looks up what is seen when."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def newest(self) -> Snapshot:
        """Returns what is seen now; its as_of is the newest commit_time, so that it means the same for ever."""
        row = await self._db.fetchrow(NEWEST)
        assert row is not None  # noqa: S101 - the migration seeds a row that nothing deletes
        newest = row["commit_time"]
        return Snapshot(newest, row["high"], tuple(row["open"]), commit_time=newest, spread=row["spread"])

    async def at(self, as_of: datetime) -> Snapshot:
        """Returns what was seen at an instant; one later than the newest write is lowered to it."""
        row = await self._db.fetchrow(SEEN_AT, as_of)
        if row is None:  # before the first write: write_id 0, which has no bars
            return Snapshot(as_of, 1)
        newest = row["commit_time"]
        lowered = not row["later"] and newest < as_of
        return Snapshot(
            newest if lowered else as_of,
            row["high"],
            tuple(row["open"]),
            lowered=lowered,
            commit_time=newest,
            spread=row["spread"],
        )

    async def settle(self, snapshot: Snapshot, symbol_ids: Sequence[int]) -> None:
        """Waits until the nodes of a cluster show all that a snapshot just taken says of these symbols.

        A node commits a moment later than the write is seen here; one that was lost in between does when it is back.
        Raises Unavailable where a node is away, or has not made up its mind within two seconds.
        """
        if snapshot.spread and symbol_ids:
            await self._db.execute(AWAIT_NODES, symbol_ids)
