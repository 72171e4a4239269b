"""Splits and dividends: how they are asked for and read, and what an answer changes. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from services.ingest.pages import PageError
from services.ingest.reading.adjust import DIVIDEND, REPEATED, SPLIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ABSURD = 2
"""The flag of a split whose ratio can hardly be true."""

_SAME_WITHIN = timedelta(days=7)
"""A split that comes again with the same ratio so soon is the same one."""

_MOST_SHARES = 1_000
_LONGEST_ID = 100
_LONGEST_CURRENCY = 8


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked for: the endpoint, the one that it took the place of, and the field with the ex-date."""

    name: str
    kind: int
    path: str
    old_path: str
    date_field: str

    def target(self, tickers: Sequence[str], first: date, last: date, *, old: bool = False) -> str:
        """Returns path and query for the actions from first to last, inclusive, oldest first; no tickers mean all."""
        name = self.date_field
        span = f"{name}.gte={first}&{name}.lte={last}"
        if old:
            return f"{self.old_path}?{_old_filter(tickers)}{span}&sort={name}&order=asc&limit=1000"
        return f"{self.path}?{_any_of(tickers)}{span}&sort={name}.asc&limit=5000"

    def target_of_date(self, tickers: Sequence[str], day: date, after: str, *, old: bool = False) -> str:
        """Returns path and query for the actions of one date, of tickers behind one, by ticker; no tickers mean all."""
        rest = [ticker for ticker in tickers if ticker > after]
        behind = f"ticker.gt={quote(after, safe='')}&" if after and not rest else ""
        if old:
            return (
                f"{self.old_path}?{_old_filter(rest)}{behind}{self.date_field}={day}&sort=ticker&order=asc&limit=1000"
            )
        return f"{self.path}?{_any_of(rest)}{behind}{self.date_field}={day}&sort=ticker.asc&limit=5000"


def _any_of(tickers: Sequence[str]) -> str:
    return f"ticker.any_of={quote(','.join(tickers), safe=',')}&" if tickers else ""


def _old_filter(tickers: Sequence[str]) -> str:
    """The old endpoints take one ticker or a range of them; whoever asks leaves out what lies between."""
    names = sorted(quote(ticker, safe="") for ticker in tickers)
    if not names:
        return ""
    return f"ticker={names[0]}&" if len(names) == 1 else f"ticker.gte={names[0]}&ticker.lte={names[-1]}&"


SUBJECTS = {
    "splits": Subject("splits", SPLIT, "/stocks/v1/splits", "/v3/reference/splits", "execution_date"),
    "dividends": Subject("dividends", DIVIDEND, "/stocks/v1/dividends", "/v3/reference/dividends", "ex_dividend_date"),
}


@dataclass(frozen=True, slots=True, order=True)
class Terms:
    """What an action is; amounts are a share, 0 where they do not belong to its kind."""

    ex_date: date
    kind: int
    split_from: float = 0.0
    split_to: float = 0.0
    cash_amount: float = 0.0
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """An action as the provider tells it."""

    ticker: str
    terms: Terms
    source_id: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """An action as it is stored; `covered` says that an answer which lacks it withdraws it."""

    action_id: int
    write_id: int
    terms: Terms
    source_id: str = ""
    flags: int = 0
    covered: bool = True


@dataclass(frozen=True, slots=True)
class Version:
    """A new version of an action; replaces is None for a new action."""

    terms: Terms
    source_id: str
    flags: int
    replaces: Known | None = None


@dataclass(slots=True)
class Learned:
    """What an answer changes in the actions of one symbol and kind."""

    versions: list[Version] = field(default_factory=list)
    withdrawn: list[Known] = field(default_factory=list)
    unchanged: int = 0
    """Known actions that the answer tells again."""

    @property
    def ended(self) -> list[Known]:
        """Returns the versions that are seen no longer."""
        return self.withdrawn + [one.replaces for one in self.versions if one.replaces]

    @property
    def moments(self) -> list[date]:
        """Returns the dates around which bars are to be judged again: of splits that count now, or no longer do."""
        before = {_effect(one.terms, one.flags) for one in self.ended}
        after = {_effect(one.terms, one.flags) for one in self.versions}
        return sorted({one.ex_date for one in before ^ after if one is not None})

    def __bool__(self) -> bool:
        return bool(self.versions or self.withdrawn)


def _effect(terms: Terms, flags: int) -> Terms | None:
    return terms if terms.kind == SPLIT and not flags & REPEATED else None


@dataclass(frozen=True, slots=True)
class ActionPage:
    """A page of actions, and those of its rows that cannot be, as they came."""

    facts: list[Fact]
    impossible: list[str]
    more: bool
    by_ticker: bool = False
    """In the order of tickers, and not of dates."""

    def until(self, first: date, last: date) -> date | None:
        """Returns up to where the page answers a span, exclusive; None if a single date does not fit in it."""
        if not self.more:
            return last + timedelta(days=1)
        end = self.facts[-1].terms.ex_date if self.facts else first
        return end if first < end else None

    def until_ticker(self) -> tuple[str, str]:
        """Returns the last ticker that is whole and the one after it, '' where the page is the last of its date.

        Raises PageError where not even one is whole.
        """
        if not self.more:
            return "", ""
        torn = self.facts[-1].ticker if self.facts else ""
        whole = [fact.ticker for fact in self.facts if fact.ticker != torn]
        if not whole:
            raise PageError("a page of one ticker on one date")
        return whole[-1], torn


def read_actions(subject: Subject, body: bytes, *, by_ticker: bool = False) -> ActionPage:
    """Decodes a page; raises PageError for what is none, or is not in order where more follows."""
    try:
        page: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PageError(f"no JSON: {error}") from error
    rows = (page.get("results") or []) if isinstance(page, dict) else None
    if not isinstance(rows, list):
        raise PageError("not a list of actions")
    more = bool(page.get("next_url"))
    facts, impossible = [], []
    for row in rows:
        fact = _fact(subject, row) if isinstance(row, dict) else None
        if fact is None:
            impossible.append(msgspec.json.encode(row).decode())
        else:
            facts.append(fact)
    order = [fact.ticker if by_ticker else str(fact.terms.ex_date) for fact in facts]
    if more and order != sorted(order):
        raise PageError("not in the order that was asked for")
    return ActionPage(facts, impossible, more, by_ticker)


def _fact(subject: Subject, row: dict[str, Any]) -> Fact | None:
    ticker, day = row.get("ticker"), _date(row.get(subject.date_field))
    if not isinstance(ticker, str) or not ticker or day is None:
        return None
    source_id = str(row.get("id") or "")[:_LONGEST_ID]
    if subject.kind == SPLIT:
        before, after = _positive(row.get("split_from")), _positive(row.get("split_to"))
        if before is None or after is None:
            return None
        return Fact(ticker, Terms(day, SPLIT, split_from=before, split_to=after), source_id)
    cash, currency = _positive(row.get("cash_amount")), str(row.get("currency") or "")[:_LONGEST_CURRENCY]
    return Fact(ticker, Terms(day, DIVIDEND, cash_amount=cash, currency=currency), source_id) if cash else None


def _date(value: Any) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _positive(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) and number > 0 else None


def learn(known: Sequence[Known], said: Iterable[Fact]) -> Learned:
    """Lays an answer over what is known of one symbol's actions of one kind.

    An action is the same if its terms are, whatever its id; or if its id is, with other terms.
    """
    rest, facts = list(known), list(dict.fromkeys(said))
    kept: list[tuple[Terms, str, Known | None]] = []
    for fact in _take_same(rest, facts, kept):
        same_id = [one for one in rest if fact.source_id and one.source_id == fact.source_id]
        if same_id:
            rest.remove(same_id[0])
        kept.append((fact.terms, fact.source_id, same_id[0] if same_id else None))
    kept += [(one.terms, one.source_id, one) for one in rest if not one.covered]
    return _changes(kept, [one for one in rest if one.covered])


def _take_same(rest: list[Known], facts: list[Fact], kept: list[tuple[Terms, str, Known | None]]) -> list[Fact]:
    """Pairs facts with known actions of the same terms, by id where there are several; returns the other facts."""
    known = {(one.terms, one.source_id) for one in rest}
    by_id = sorted(facts, key=lambda fact: (fact.terms, fact.source_id) not in known)
    others = []
    for fact in by_id:
        same = [one for one in rest if one.terms == fact.terms]
        same.sort(key=lambda one, fact=fact: one.source_id != fact.source_id)  # type: ignore[misc]
        if same:
            rest.remove(same[0])
            kept.append((fact.terms, same[0].source_id, same[0]))
        else:
            others.append(fact)
    return others


def _changes(kept: Sequence[tuple[Terms, str, Known | None]], withdrawn: list[Known]) -> Learned:
    """Flags all actions anew, oldest ones first, and compares them with what they were."""
    learned = Learned(withdrawn=withdrawn)
    counted: list[Terms] = []
    in_order = sorted(kept, key=lambda one: (one[2] is None, one[2].action_id if one[2] else 0, one[0]))
    for terms, source_id, old in in_order:
        flags = ABSURD if _is_absurd(terms) else 0
        if any(_repeats(terms, other) for other in counted):
            flags |= REPEATED
        else:
            counted.append(terms)
        if old is not None and (old.terms, old.flags) == (terms, flags):
            learned.unchanged += old.covered
        else:
            learned.versions.append(Version(terms, source_id, flags, old))
    return learned


def _is_absurd(terms: Terms) -> bool:
    if terms.kind != SPLIT:
        return False
    before, after = terms.split_from, terms.split_to
    return before == after or max(before, after) >= min(before, after) * _MOST_SHARES


def _repeats(terms: Terms, other: Terms) -> bool:
    """Says whether an action tells what another one told already."""
    if terms.kind != SPLIT:
        return terms == other
    same_ratio = abs(terms.split_from * other.split_to - terms.split_to * other.split_from) <= (
        1e-9 * terms.split_from * other.split_to
    )
    return same_ratio and abs(terms.ex_date - other.ex_date) <= _SAME_WITHIN
