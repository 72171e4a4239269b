"""Works on one claimed slice: asks for a page, sifts it, has it written, and decides what becomes of the slice."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from services.ingest.calendar import EVERY_DAY, XNYS, date_of, day_of
from services.ingest.claims import Claims
from services.ingest.inquiries import AskLaterError
from services.ingest.polygon import Question, next_start
from services.ingest.polygon_errors import (
    NOT_OUT,
    GrantExpiredError,
    KeyRefusedError,
    NotOutYetError,
    OutsidePlanError,
    PassingError,
    RefusedError,
)
from services.ingest.quality import sift
from services.ingest.slices import NoProgressError, SliceSpan
from services.ingest.store import parts, slices
from services.ingest.store.endings import begin_backfills
from services.ingest.store.instants import from_ms, to_ms
from services.ingest.store.refused import Reject
from services.ingest.tally import Tally
from services.kit.errors import MdwError
from services.kit.log import get
from services.kit.tickers import CRYPTO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from services.ingest.calendar import Sessions
    from services.ingest.inquiries import Inquiry
    from services.ingest.pages import Page
    from services.ingest.polygon import Again, Polygon
    from services.ingest.store.limiter import Grant, Limiter
    from services.ingest.store.slices import Claim
    from services.kit.db import Database

log = get(__name__)

# What Polygon's free plan reaches back to; it does not say the day.
PLAN_YEARS = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a slice is tried since it last got on, and how long it waits in between; seconds."""

    attempts: int = 10
    first_wait: float = 2.0
    longest_wait: float = 300.0
    throttled_wait: float = 15.0
    away_wait: float = 10.0
    """While a node of the database is away; the slices of other nodes go on."""

    def wait(self, attempts: int) -> float:
        """Returns the wait after so many failed attempts, at least 1: doubled each time, give or take a quarter."""
        doubled = self.first_wait * 2.0 ** min(attempts - 1, 30)
        return min(doubled, self.longest_wait) * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, hides nothing


def today() -> date:
    return datetime.now(UTC).date()


class Fetcher:
    """Handles claims, one at a time."""

    def __init__(
        self,
        *,
        db: Database,
        polygon: Polygon,
        limiter: Limiter,
        calendars: Mapping[str, Sessions],
        patience: Patience | None = None,
        tally: Tally | None = None,
        inquiries: Mapping[int, Inquiry] | None = None,
        today: Callable[[], date] = today,
    ) -> None:
        """Takes what works on slices of other kinds than RANGE, by kind."""
        self._db = db
        self._polygon = polygon
        self._limiter = limiter
        self._calendars = calendars
        self._patience = patience or Patience()
        self._tally = tally or Tally()
        self._claims = Claims(db, self._tally)
        self._inquiries = dict(inquiries or {})
        self._today = today
        self._request: asyncio.Task[Any] | None = None
        self._interrupted = False
        self.troubles = 0
        """Passing failures in a row, of whatever slices: a provider that is down fails them all."""

    @property
    def kinds(self) -> list[int]:
        """Returns the kinds of slices that it works on."""
        return [slices.RANGE, *self._inquiries]

    def interrupt(self) -> None:
        """Breaks off a request under way, now and from now on; a part that is being written ends first."""
        self._interrupted = True
        if self._request is not None:
            self._request.cancel()

    async def handle(self, claim: Claim, grant: Grant) -> None:
        """Brings a slice on by a page, or notes why not; raises MdwError when the database is away."""
        if claim.token == 1 or claim.cursor is None:
            await begin_backfills(self._db, claim.slice_id)
        if claim.attempts >= self._patience.attempts:
            await self._give_up(claim, slices.FAILED, claim.reason)
            return
        try:
            if claim.kind in self._inquiries:
                await self._inquire(claim, grant)
            else:
                await self._advance(claim, grant)
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            await self._claims.release(claim, reason=claim.reason)
        except Exception as error:  # noqa: BLE001 - told apart there; what nobody knows is logged
            await self._settle(claim, error)

    async def _settle(self, claim: Claim, error: Exception) -> None:
        """Decides what becomes of a slice that did not get on."""
        match error:
            case GrantExpiredError():
                await self._claims.release(claim, reason=claim.reason, sent=False)
            case NotOutYetError():
                wait = 0 if self._shorter(claim, str(error)) and not self._shorter(claim, claim.reason) else error.wait
                await self._claims.release(claim, reason=str(error), wait=wait)
            case AskLaterError():
                await self._claims.release(claim, reason=str(error), wait=error.wait)
            case KeyRefusedError():
                await self._claims.pause(claim, str(error))
            case OutsidePlanError():
                await self._leave_out(claim, error)
            case RefusedError():
                await self._give_up(claim, slices.FAILED, str(error))
            case PassingError():
                await self._try_later(claim, error)
            case NoProgressError():
                await self._try_later(claim, PassingError(str(error)))
            case MdwError():
                await self._claims.wait_for_database(claim, error, self._patience.away_wait)
            case _:
                # A part that fails by a bug is poisoned: it must not stop the others, nor come again for ever.
                log.error("part_failed", slice=claim.slice_id, ticker=claim.provider_ticker, exc_info=error)
                await self._try_later(claim, PassingError("a part failed; the worker's log says why"))

    async def _advance(self, claim: Claim, grant: Grant) -> None:
        span = self._span(claim)
        asked = self._shorter(claim, claim.reason) or span
        claim, page = await self._fetch(claim, asked, grant)
        part = replace(read_page(claim, asked, page), span=span)
        with self._tally.writing():
            written = await parts.write(self._db, part)
        self.troubles = 0
        if written is not None:
            self._tally.part(claim.key.timeframe, written)
            _log_part(claim, written)
        await self._claims.end(claim, written.state if written else None)

    async def _inquire(self, claim: Claim, grant: Grant) -> None:
        """Brings a slice of another kind on by an answer."""
        asked = 0

        async def ask(target: str) -> tuple[Claim, bytes]:
            nonlocal claim, grant, asked
            if asked:
                claim, grant = await self._once_more(claim)
            asked += 1
            return await self._ask(claim, lambda again: self._polygon.body(target, sent_by=grant.sent_by, again=again))

        state = await self._inquiries[claim.kind].advance(claim, ask)
        self.troubles = 0
        await self._claims.end(claim, state)

    async def _once_more(self, claim: Claim) -> tuple[Claim, Grant]:
        """Returns a grant for another request under the same claim; raises AskLaterError if there is none now."""
        grant = await self._limiter.take()
        noted = await slices.ask_again(self._db, claim) if grant else None
        if grant is None or noted is None:
            raise AskLaterError("waits for another request to be granted", wait=await self._limiter.wait())
        return noted, grant

    def _shorter(self, claim: Claim, reason: str) -> SliceSpan | None:
        """Returns what to ask for where the last session was not out: what lies before it, if anything does."""
        if NOT_OUT not in reason or claim.kind in self._inquiries:
            return None
        return self._span(claim).without_last_session()

    def _span(self, claim: Claim) -> SliceSpan:
        calendar = self._calendars[EVERY_DAY if claim.asset_class == CRYPTO else XNYS]
        cursor = None if claim.cursor is None else to_ms(claim.cursor)
        return SliceSpan.of(claim.key.timeframe, calendar, day_of(claim.first_date), day_of(claim.last_date), cursor)

    async def _fetch(self, claim: Claim, span: SliceSpan, grant: Grant) -> tuple[Claim, Page]:
        """Returns a page, and the claim with the time at which it was asked for."""
        question = Question(claim.provider_ticker, span.timeframe, span.start_ms, span.end_ms)
        return await self._ask(claim, lambda again: self._polygon.page(question, sent_by=grant.sent_by, again=again))

    async def _ask(self, claim: Claim, send: Callable[[Again], Awaitable[T]]) -> tuple[Claim, T]:
        """Returns an answer, and the claim with the time at which it was asked for; may be interrupted."""
        if self._interrupted:
            raise asyncio.CancelledError

        async def again() -> float | None:
            nonlocal claim
            more = await self._limiter.take()
            noted = await slices.ask_again(self._db, claim) if more else None
            claim = noted or claim
            return more.sent_by if more and noted else None

        async def ask() -> tuple[Claim, T]:
            with self._tally.asking():
                answer = await send(again)
            return claim, answer

        request = asyncio.ensure_future(ask())
        self._request = request
        try:
            return await request
        finally:
            self._request = None

    async def _try_later(self, claim: Claim, error: PassingError) -> None:
        """Puts a slice back to wait; too many requests say nothing about the slice and burn no attempt."""
        self.troubles += 1
        attempts = claim.attempts + (not error.throttled)
        log.warning(
            "page_failed", slice=claim.slice_id, ticker=claim.provider_ticker, attempt=attempts, error=str(error)
        )
        if attempts >= self._patience.attempts:
            await self._give_up(claim, slices.FAILED, f"{error}; {attempts} attempts")
            return
        wait = self._patience.throttled_wait if error.throttled else self._patience.wait(attempts)
        if error.retry_after is not None:
            wait = error.retry_after if error.throttled else max(wait, error.retry_after)
        await self._claims.release(claim, reason=str(error), wait=wait, attempt=not error.throttled)

    async def _leave_out(self, claim: Claim, error: OutsidePlanError) -> None:
        """Ends a slice that the subscription does not cover; one that is merely too old goes on two years back."""
        if claim.kind in self._inquiries:
            await self._claims.close(claim, slices.OUTSIDE_PLAN, str(error))
            return
        span = self._span(claim)
        reach = span.session_from(day_of(reach_back(self._today(), PLAN_YEARS)))
        if error.too_old and span.start_ms < span.start_of(reach) < span.end_ms:
            await self._give_up(claim, slices.OUTSIDE_PLAN, str(error), until=reach)
        else:
            await self._give_up(claim, slices.OUTSIDE_PLAN, str(error))

    async def _give_up(self, claim: Claim, state: int, reason: str, until: int | None = None) -> None:
        """Gives up what is left of a slice, or what lies before a day."""
        if claim.kind in self._inquiries:
            await self._claims.close(claim, state, reason)
            return
        span = self._span(claim)
        first, end = span.answered(span.end_ms if until is None else span.start_of(until))
        cursor = None if until is None else from_ms(span.start_of(until))
        found = await slices.give_up(
            self._db, claim, state=state, reason=reason, first=date_of(first), end=date_of(end), cursor=cursor
        )
        await self._claims.give_up(claim, found, reason)


def _log_part(claim: Claim, written: parts.Written) -> None:
    log.info(
        "part_written",
        slice=claim.slice_id,
        ticker=claim.provider_ticker,
        timeframe=claim.key.timeframe,
        until=from_ms(written.until_ms).isoformat(),
        inserted=written.inserted,
        updated=written.updated,
        unchanged=written.unchanged,
        rejected=written.rejected,
    )


def reach_back(day: date, years: int) -> date:
    """Returns the first date that a plan of so many years includes for sure, whatever the hour and the zone."""
    leap_day = (day.month, day.day) == (2, 29)
    return day.replace(year=day.year - years, day=28 if leap_day else day.day) + timedelta(days=2 if leap_day else 1)


def read_page(claim: Claim, span: SliceSpan, page: Page) -> parts.Part:
    """Makes a part of a page: possible bars, impossible ones with their raw text, and up to where it answers."""
    bars, off_grid = span.keyed(page.bars)
    until = span.reached(bars.ts, more=page.head.next_url is not None, next_ms=next_start(page.head))
    sifted = sift(bars, start_ms=span.start_ms, end_ms=span.end_ms, off_grid=off_grid)
    raw = page.raw(sifted.rejected.tolist())
    refused = [
        Reject(int(bars.ts[position]), str(reason), text)
        for position, reason, text in zip(sifted.rejected.tolist(), sifted.reasons, raw, strict=True)
    ]
    return parts.Part(claim, span, bars.take(sifted.kept), refused, until)
