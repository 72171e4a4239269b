"""Reads corporate actions with their versions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.ingest.calendar import day_of
from services.ingest.reading.adjust import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from services.ingest.store.snapshots import Snapshot
    from services.kit.db import Database

# All versions: two instants can be told from one read.
ACTIONS = """
SELECT symbol_id, write_id, ended_write_id, ex_date, kind, split_from, split_to, cash_amount, currency, flags
FROM ingest.actions
WHERE symbol_id = ANY($1::integer[])
  AND (kind = 1 OR $2::boolean)
"""


@dataclass(frozen=True, slots=True)
class _Version:
    action: Action
    write_id: int
    ended_write_id: int | None

    def seen(self, snapshot: Snapshot) -> bool:
        if not snapshot.sees(self.write_id):
            return False
        return self.ended_write_id is None or not snapshot.sees(self.ended_write_id)


@dataclass(slots=True)
class KnownActions:
    """Holds versions of actions by symbol."""

    versions: dict[int, list[_Version]] = field(default_factory=lambda: defaultdict(list))

    def of(self, symbol_id: int, snapshot: Snapshot) -> list[Action]:
        """Returns the actions of a symbol that were known in a snapshot."""
        return [version.action for version in self.versions.get(symbol_id, ()) if version.seen(snapshot)]


async def known_actions(db: Database, symbol_ids: Sequence[int], *, dividends: bool) -> KnownActions:
    """Returns the splits of symbols, and their dividends if these count, too."""
    known = KnownActions()
    for row in await db.fetch(ACTIONS, symbol_ids, dividends):
        version = _Version(_action(row), row["write_id"], row["ended_write_id"])
        known.versions[row["symbol_id"]].append(version)
    return known


def _action(row: asyncpg.Record) -> Action:
    return Action(
        ex_day=day_of(row["ex_date"]),
        kind=row["kind"],
        split_from=row["split_from"] or 1.0,
        split_to=row["split_to"] or 1.0,
        cash_amount=row["cash_amount"] or 0.0,
        currency=row["currency"],
        flags=row["flags"],
    )
