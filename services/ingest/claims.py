"""What becomes of claimed slices: they wait, end or rest; one that another worker has by then is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.store import slices
from services.ingest.store.endings import finish_backfills, pause_backfills
from services.kit.db import is_disk_full, is_node_away
from services.kit.log import get

if TYPE_CHECKING:
    from services.ingest.store.slices import Claim
    from services.ingest.tally import Tally
    from services.kit.db import Database
    from services.kit.errors import MdwError

log = get(__name__)

NODE_AWAY = "a node of the database is away"


class Claims:
    """Hands claims back, says what became of them and counts it."""

    def __init__(self, db: Database, tally: Tally) -> None:
        self._db = db
        self._tally = tally

    async def release(
        self, claim: Claim, *, reason: str, wait: float = 0, attempt: bool = False, sent: bool = True
    ) -> None:
        """Puts a slice back, to be taken again in `wait` seconds."""
        if not await slices.release(self._db, claim, reason=reason, wait=wait, attempt=attempt, sent=sent):
            self._lose(claim)

    async def end(self, claim: Claim, state: int | None) -> None:
        """Notes the state in which a slice was left; None where it was no longer the claim's."""
        if state is None:
            self._lose(claim)
            return
        self._tally.ended(state)
        if state in slices.ENDED:
            await finish_backfills(self._db, claim.slice_id)

    async def close(self, claim: Claim, state: int, reason: str) -> None:
        """Ends a slice, whatever of it is not done."""
        await self.give_up(claim, await slices.close(self._db, claim, state, reason), reason)

    async def give_up(self, claim: Claim, state: int | None, reason: str) -> None:
        """Notes that what is left of a slice, or some of it, was given up, and the state in which that left it."""
        if state is not None:
            subject = claim.provider_ticker or claim.subject
            log.warning("slice_given_up", slice=claim.slice_id, ticker=subject, state=state, reason=reason)
        await self.end(claim, state)

    async def pause(self, claim: Claim, reason: str, *, sent: bool = True) -> None:
        """Pauses the slice's jobs for an operator; no attempt is burned."""
        log.error("backfill_paused", slice=claim.slice_id, ticker=claim.provider_ticker, reason=reason)
        await self.release(claim, reason=reason, sent=sent)
        await pause_backfills(self._db, claim.slice_id, reason)

    async def wait_for_database(self, claim: Claim, error: MdwError, wait: float, *, sent: bool = True) -> None:
        """Puts a slice back that cannot be written now, no attempt burned; raises where nothing can be done at all."""
        if is_disk_full(error.__cause__):
            await self.pause(claim, f"the database cannot write: {error.__cause__}", sent=sent)
        elif is_node_away(error.__cause__):
            log.warning("node_away", slice=claim.slice_id, ticker=claim.provider_ticker, error=str(error.__cause__))
            await self.release(claim, reason=NODE_AWAY, wait=wait, sent=sent)
        else:
            raise error

    def _lose(self, claim: Claim) -> None:
        self._tally.lease_losses += 1
        log.warning("lease_lost", slice=claim.slice_id, token=claim.token)
