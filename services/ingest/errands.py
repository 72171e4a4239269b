"""Works on slices that need no request to the provider: deletions and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from services.ingest.calendar import EVERY_DAY, XNYS, day_of
from services.ingest.claims import Claims
from services.ingest.fetching import Patience
from services.ingest.slices import SliceSpan
from services.ingest.store import deleting, slices
from services.ingest.store.endings import begin_backfills
from services.ingest.store.instants import from_ms, to_ms
from services.ingest.tally import Tally
from services.kit.errors import MdwError
from services.kit.log import get
from services.kit.tickers import CRYPTO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.ingest.calendar import Sessions
    from services.ingest.store.slices import Claim
    from services.kit.db import Database

log = get(__name__)


class HopelessError(Exception):
    """A slice that would fail again in the same way; the text says why."""


class Errand(Protocol):
    """Brings slices of one kind on."""

    async def advance(self, claim: Claim) -> int | None:
        """Does what one claim is for; returns the slice's state, None when it is no longer ours.

        Raises HopelessError, or MdwError when the database is away.
        """

    def interrupt(self) -> None:
        """Lets what is long end after the part under way."""


class Deleter:
    """Deletes bars, a part a claim."""

    def __init__(self, db: Database, calendars: Mapping[str, Sessions]) -> None:
        self._db = db
        self._calendars = calendars

    async def advance(self, claim: Claim) -> int | None:
        calendar = self._calendars[EVERY_DAY if claim.asset_class == CRYPTO else XNYS]
        cursor = None if claim.cursor is None else to_ms(claim.cursor)
        span = SliceSpan.of(claim.key.timeframe, calendar, day_of(claim.first_date), day_of(claim.last_date), cursor)
        deleted = await deleting.write(self._db, claim, span)
        if deleted is None:
            return None
        until = from_ms(deleted.until_ms).isoformat()
        log.info("bars_deleted", slice=claim.slice_id, ticker=claim.provider_ticker, until=until, bars=deleted.bars)
        return deleted.state

    def interrupt(self) -> None:
        """Has nothing to do: a claim is a part."""


class Errands:
    """Handles claims, one at a time."""

    def __init__(
        self,
        db: Database,
        errands: Mapping[int, Errand],
        patience: Patience | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._db = db
        self._errands = errands
        self._patience = patience or Patience()
        self._claims = Claims(db, tally or Tally())

    @property
    def kinds(self) -> list[int]:
        """Returns the kinds of slices that it works on."""
        return list(self._errands)

    def interrupt(self) -> None:
        """Ends long errands after the part under way."""
        for errand in self._errands.values():
            errand.interrupt()

    async def handle(self, claim: Claim) -> None:
        """Brings a slice on, or notes why not; raises MdwError when the database is away."""
        if claim.token == 1 or (claim.cursor is None and claim.position is None):
            await begin_backfills(self._db, claim.slice_id)
        try:
            state = await self._errands[claim.kind].advance(claim)
        except MdwError as error:
            await self._claims.wait_for_database(claim, error, self._patience.away_wait, sent=False)
        except HopelessError as error:
            await self._claims.close(claim, slices.FAILED, str(error))
        except Exception:  # it is poisoned: it must not stop the others, nor come again for ever
            log.exception("errand_failed", slice=claim.slice_id, name=claim.provider_ticker)
            await self._try_later(claim)
        else:
            await self._claims.end(claim, state)

    async def _try_later(self, claim: Claim) -> None:
        reason, attempts = "a part failed; the worker's log says why", claim.attempts + 1
        if attempts >= self._patience.attempts:
            await self._claims.close(claim, slices.FAILED, f"{reason}; {attempts} attempts")
        else:
            wait = self._patience.wait(attempts)
            await self._claims.release(claim, reason=reason, wait=wait, attempt=True, sent=False)
