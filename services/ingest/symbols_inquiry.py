"""Works on slices of symbols: asks for a page of the provider's lists, and has the registry brought up to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.pages import PageError
from services.ingest.polygon_errors import MissingError, PassingError, RefusedError
from services.ingest.store import holders
from services.ingest.symbol_lists import (
    ListPlan,
    details_target,
    events_target,
    list_target,
    plan_list,
    read_change,
    read_list,
    read_list_date,
)
from services.kit.log import get

if TYPE_CHECKING:
    from services.ingest.inquiries import Ask
    from services.ingest.registry import Registry
    from services.ingest.store.slices import Claim
    from services.ingest.symbol_lists import Holder, Listing
    from services.kit.db import Database

log = get(__name__)

DELISTED, LISTED, DETAILS = "delisted", "listed", "details"
PHASES = {"stocks": (DELISTED, LISTED, DETAILS), "crypto": (LISTED,)}
"""What is asked for, market by market, in this order."""


class SymbolsInquiry:
    """Brings slices of symbols on, a page a claim; where it stands is kept as phase and last ticker."""

    def __init__(self, db: Database, registry: Registry | None) -> None:
        """Takes None where there is no key to call the registry with."""
        self._db = db
        self._registry = registry

    async def advance(self, claim: Claim, ask: Ask) -> int | None:
        if self._registry is None:
            raise RefusedError("the workers have no SERVICE_KEY to register symbols with")
        phase, _, after = claim.page.partition("|")
        phase = phase or PHASES[claim.subject][0]
        try:
            if phase == DETAILS:
                return await self._date_next(self._registry, claim, ask, int(after or 0))
            return await self._list_next(self._registry, claim, ask, phase, after)
        except PageError as error:
            raise PassingError(f"the answer is {error}") from error

    async def _list_next(self, registry: Registry, claim: Claim, ask: Ask, phase: str, after: str) -> int | None:
        active = phase == LISTED
        claim, body = await ask(list_target(claim.subject, after, active=active))
        page = read_list(claim.subject, body, active=active)
        listings = page.listings
        known = await holders.read(self._db, [one.provider_ticker for one in listings], [one.figi for one in listings])
        plan = plan_list(listings, known)
        renamed = [await self._rename(registry, ask, holder, one) for holder, one in plan.renamed]
        changed = [await registry.update(symbol_id, fields) for symbol_id, fields in plan.updates]
        created, existed, refused = await registry.register(plan.new)
        notes = _reused(plan)
        done = changed + renamed
        counts = (
            created,
            sum(done),
            plan.unchanged + existed,
            refused + len(plan.reused) + len(done) - sum(done),
            page.useless,
        )
        log.info(
            "symbols_listed", slice=claim.slice_id, market=claim.subject, phase=phase, until=page.until, new=created
        )
        if page.until:
            return await self._end(claim, counts, f"{phase}|{page.until}", note=notes)
        return await self._end_phase(claim, counts, phase, note=notes)

    async def _rename(self, registry: Registry, ask: Ask, holder: Holder, one: Listing) -> bool:
        """Records a change of ticker from the date that the company's events say."""
        try:
            _, body = await ask(events_target(one.figi))
        except MissingError:
            return False
        first = read_change(body, one.provider_ticker)
        if first is None:
            return False
        if holder.delist_date is not None and not await registry.update(holder.symbol_id, {"delist_date": ""}):
            return False
        return await registry.rename(holder.symbol_id, one.provider_ticker, first)

    async def _date_next(self, registry: Registry, claim: Claim, ask: Ask, after: int) -> int | None:
        """Looks up since when the next symbol is listed; ends the phase when there is none."""
        undated = await holders.next_undated(self._db, after)
        if undated is None:
            return await self._end_phase(claim, (0, 0, 0, 0, 0), DETAILS)
        symbol_id, ticker = undated
        try:
            claim, body = await ask(details_target(ticker))
            listed = read_list_date(body)
        except MissingError:
            listed = None
        changed = listed is not None and await registry.update(symbol_id, {"list_date": listed})
        return await self._end(claim, (0, int(changed), 0, 0, int(listed is None)), f"{DETAILS}|{symbol_id}")

    async def _end_phase(
        self, claim: Claim, counts: tuple[int, int, int, int, int], phase: str, note: str = ""
    ) -> int | None:
        phases = PHASES[claim.subject]
        following = phases[phases.index(phase) + 1 :]
        page = f"{following[0]}|" if following else ""
        return await self._end(claim, counts, page, done=not following, note=note)

    async def _end(
        self, claim: Claim, counts: tuple[int, int, int, int, int], page: str, *, done: bool = False, note: str = ""
    ) -> int | None:
        step = await holders.end_step(self._db, claim, counts, page, done=done, note=note)
        return None if step is None else step.state


def _reused(plan: ListPlan) -> str:
    """Says which tickers are another company's than the registry has it, for the log and for people."""
    notes = []
    for symbol_id, one in plan.reused:
        left = str(one.delist_date or "")
        log.warning(
            "ticker_reused",
            ticker=one.provider_ticker,
            held_by=symbol_id,
            name=one.name,
            figi=one.figi,
            delist_date=left,
        )
        until = f"until {left}" if left else "now"
        notes.append(f"{one.provider_ticker} {until} is listed as {one.name or one.figi}, not as symbol {symbol_id}")
    return "; ".join(notes)
