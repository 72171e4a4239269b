"""Works on slices of corporate actions: asks for a page of splits or dividends, and has it learned."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING

from services.ingest.calendar import XNYS
from services.ingest.corporate_actions import SUBJECTS, ActionPage, Fact, Subject, read_actions
from services.ingest.inquiries import AskLaterError
from services.ingest.pages import PageError
from services.ingest.polygon_errors import MissingError, PassingError
from services.ingest.slices import NoProgressError
from services.ingest.store import learning, slices
from services.ingest.store.learning import LISTED, OutdatedError, Said
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from services.ingest.calendar import Sessions
    from services.ingest.inquiries import Ask
    from services.ingest.store.slices import Claim
    from services.kit.db import Database

log = get(__name__)

BY_TICKER = ">"
"""How a slice's page begins while a date is asked for by ticker; the last ticker that is in follows."""

FEW = 20
"""Actions that an answer may lack without being doubted."""


class ActionsInquiry:
    """Brings slices of actions on, a page a claim: splits or dividends from one date to another, oldest first."""

    def __init__(self, db: Database, calendars: Mapping[str, Sessions]) -> None:
        self._db = db
        self._sessions = calendars[XNYS]
        self._old: set[str] = set()
        """Subjects whose present endpoint was not there."""

    async def advance(self, claim: Claim, ask: Ask) -> int | None:
        subject = SUBJECTS[claim.subject]
        tickers = claim.provider_ticker.split(",") if claim.provider_ticker else []
        first = claim.cursor.astimezone(UTC).date() if claim.cursor else claim.first_date
        by_ticker, after = claim.page.startswith(BY_TICKER), claim.page.removeprefix(BY_TICKER)
        if by_ticker:
            target = partial(subject.target_of_date, tickers, first, after)
        else:
            target = partial(subject.target, tickers, first, claim.last_date)
        claim, page = await self._fetch(subject, target, ask, by_ticker=by_ticker)
        said, onward = self._reach(claim, tickers, page, first, after)
        said = await self._resolve(claim, said, page)
        try:
            return await self._take_in(claim, said, onward)
        except OutdatedError:
            raise AskLaterError("a later answer was taken in meanwhile") from None

    @staticmethod
    def _reach(
        claim: Claim, tickers: Sequence[str], page: ActionPage, first: date, after: str
    ) -> tuple[Said, tuple[date | None, str]]:
        """Returns what a page covers, without facts yet, and where the next one goes on: date and page of the slice.

        A date whose actions do not fit into a page is asked for by ticker.
        """
        day_after, last = first + timedelta(days=1), claim.last_date
        if page.by_ticker:
            try:
                whole, until = page.until_ticker()
            except PageError as error:
                raise NoProgressError(str(error)) from error
            said = Said(subject=claim.subject, tickers=tickers, first=first, end=day_after, after=after, until=until)
            return said, ((first, BY_TICKER + whole) if until else (day_after if day_after <= last else None, ""))
        end = page.until(first, last)
        if end is None:
            return Said(subject=claim.subject, tickers=tickers, first=first, end=first), (first, BY_TICKER)
        said = Said(subject=claim.subject, tickers=tickers, first=first, end=end)
        return said, (end if end <= last else None, "")

    async def _fetch(
        self, subject: Subject, target: Callable[..., str], ask: Ask, *, by_ticker: bool
    ) -> tuple[Claim, ActionPage]:
        old = subject.name in self._old
        try:
            claim, body = await ask(target(old=old))
        except MissingError:
            if old:
                self._old.discard(subject.name)
                raise
            self._old.add(subject.name)
            raise AskLaterError(f"{subject.path} is not there: {subject.old_path} is asked") from None
        try:
            return claim, read_actions(subject, body, by_ticker=by_ticker)
        except PageError as error:
            raise PassingError(f"the answer is {error}") from error

    async def _resolve(self, claim: Claim, said: Said, page: ActionPage) -> Said:
        """Finds out whose actions a page tells, by the tickers at their dates."""
        told = [fact for fact in page.facts if said.covers(fact)]
        names, days = [fact.ticker for fact in told], [fact.terms.ex_date for fact in told]
        holders = await learning.resolve(self._db, names, days, LISTED)
        facts: dict[int, list[Fact]] = {}
        for position, symbol_id in holders.items():
            facts.setdefault(symbol_id, []).append(told[position])
        for raw in page.impossible:
            log.warning("action_impossible", slice=claim.slice_id, raw=raw)
        return replace(said, facts=facts, impossible=len(page.impossible), unknown=len(told) - len(holders))

    async def _take_in(self, claim: Claim, said: Said, onward: tuple[date | None, str]) -> int | None:
        """Takes in an answer, symbols with changed splits one by one; returns the slice's state."""
        survey = await learning.survey(self._db, said)
        if survey.withdrawn > FEW and survey.withdrawn * 2 > survey.known:
            raise PassingError(f"the answer lacks {survey.withdrawn} of {survey.known} known actions")
        for symbol_id in survey.moved:
            step = await learning.take_in_splits(self._db, claim, said, symbol_id, self._sessions)
            if step is None or step.state in slices.ENDED:
                return None if step is None else step.state
            claim = step.claim
        day, page = onward
        cursor = None if day is None else datetime.combine(day, time(), UTC)
        step = await learning.take_in(self._db, claim, said, set(survey.moved), (cursor, page))
        if step is None:
            return None
        log.info(
            "actions_learned",
            slice=claim.slice_id,
            subject=said.subject,
            until=str(said.end),
            told=sum(map(len, said.facts.values())),
            unknown=said.unknown,
            judged_again=len(survey.moved),
        )
        return step.state
