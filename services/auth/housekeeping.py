"""What keeps the audit log going: partitions ahead, retention, usage, and its heads in the process's log."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from services.kit.errors import Aborted
from services.kit.log import get

if TYPE_CHECKING:
    from services.auth.store.audit import AuditStore
    from services.auth.store.keys import KeyStore
    from services.kit.db import Database
    from services.kit.requests import Requests

log = get("audit")

DAYS_AHEAD = 14
ALERT_DAYS = 7
HEADS_SECONDS = 60.0
KEEP_SECONDS = 3_600.0
_DROP_ATTEMPTS = 20
# Of the last minutes, not only of the last: a line too many does no harm, a missing one might.
_SPAN = timedelta(minutes=3)
_FIRST_SPAN = timedelta(days=1)


class Housekeeping:
    """Each verb may run in any number of replicas at once."""

    def __init__(
        self, *, audit: AuditStore, keys: KeyStore, requests: Requests, db: Database, retention_days: int
    ) -> None:
        self._audit = audit
        self._keys = keys
        self._requests = requests
        self._db = db
        self._retention_days = retention_days
        self._span = _FIRST_SPAN
        self.days_ahead = 0

    async def make_partitions(self) -> None:
        """Makes today's partitions and those of the next two weeks."""
        made = await self._audit.make_partitions(DAYS_AHEAD)
        if made:
            log.info("partitions_made", count=made)
        await self.look_ahead()

    async def look_ahead(self) -> str:
        """Returns what is wrong with the partitions ahead, or ''; without tomorrow's every call would soon fail."""
        today = await self._audit.today()
        days = set(await self._audit.days())
        self.days_ahead = 0
        while today + timedelta(days=self.days_ahead + 1) in days:
            self.days_ahead += 1
        if self.days_ahead < ALERT_DAYS:
            log.warning("partitions_short", days_ahead=self.days_ahead)
        return "" if self.days_ahead else "the audit log has no partition for tomorrow"

    async def keep(self) -> None:
        """Makes partitions, drops those beyond retention, folds usage and sweeps old request ids."""
        await self.make_partitions()
        await self.drop_partitions()
        await self._audit.fold_usage()
        await self._requests.sweep(self._db)

    async def drop_partitions(self) -> None:
        """Drops days beyond retention, one a transaction; behind a reader it gives way and tries again."""
        before = await self._audit.today() - timedelta(days=self._retention_days)
        for _ in range(_DROP_ATTEMPTS):
            try:
                day = await self._audit.drop_partition(before)
            except Aborted:
                continue
            if day is None:
                return
            log.info("partition_dropped", day=day.isoformat())

    async def log_heads(self) -> None:
        """Writes the heads of the chains where the database's owner cannot change them."""
        for head in await self._audit.heads(await self._audit.now() - _SPAN):
            log.warning(
                "audit_head", writer=str(head.writer), kind=head.kind, seq=head.last_seq, head_hash=head.head_hash.hex()
            )

    async def log_keys(self) -> None:
        """Writes the state of keys changed lately: a process that dies between a commit and its line leaves none."""
        for key in await self._keys.changed(self._span):
            log_key(str(key.key_id), key.version, key.state)
        self._span = _SPAN


def log_key(key_id: str, version: int, state: str) -> None:
    """Writes what `after-restore` reads: the state that a key has from this version on."""
    log.warning("key_changed", key_id=key_id, version=version, state=state)
