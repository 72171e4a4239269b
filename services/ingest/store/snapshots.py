"""What is seen at an instant: the writes that had committed by then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from services.kit.db import Database

# The newest write by then, and whether there is a later one. Both in one statement: a time between the two answers
# would be taken for one after the newest write.
SEEN_AT = """
SELECT commit_time, high, open,
       EXISTS (SELECT FROM ingest.writes WHERE commit_time > $1) AS later
FROM ingest.writes
WHERE commit_time <= $1
ORDER BY commit_time DESC
LIMIT 1
"""

NEWEST = """
SELECT commit_time, high, open
FROM ingest.writes
WHERE commit_time IS NOT NULL
ORDER BY commit_time DESC
LIMIT 1
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
        return Snapshot(row["commit_time"], row["high"], tuple(row["open"]), commit_time=row["commit_time"])

    async def at(self, as_of: datetime) -> Snapshot:
        """Returns what was seen at an instant; one later than the newest write is lowered to it."""
        row = await self._db.fetchrow(SEEN_AT, as_of)
        if row is None:  # before the first write: write_id 0, which has no bars
            return Snapshot(as_of, 1)
        newest = row["commit_time"]
        lowered = not row["later"] and newest < as_of
        return Snapshot(
            newest if lowered else as_of, row["high"], tuple(row["open"]), lowered=lowered, commit_time=newest
        )
