"""The provider's lists of symbols: how they are asked for and read, and what they change. Pure functions.

Delisted symbols come first: whoever holds a ticker now then begins the day after the one before left it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from services.ingest.pages import PageError
from services.kit.tickers import CRYPTO, ETF, STOCK, TickerError, spell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MARKETS = ("stocks", "crypto")
PAGE_ROWS = 1_000
MAX_NAME = 200

_ETF_TYPES = frozenset({"ETF", "ETN", "ETV", "ETS"})
_CODES = {
    "exchange": re.compile(r"[A-Z0-9]{4}", re.ASCII),
    "type": re.compile(r"[A-Z0-9_]{1,16}", re.ASCII),
    "figi": re.compile(r"[A-Z0-9]{12}", re.ASCII),
}


def list_target(market: str, after: str, *, active: bool) -> str:
    """Returns path and query for the symbols of a market behind a ticker, by ticker."""
    behind = f"&ticker.gt={quote(after, safe=':')}" if after else ""
    return (
        f"/v3/reference/tickers?market={market}&active={str(active).lower()}{behind}"
        f"&sort=ticker&order=asc&limit={PAGE_ROWS}"
    )


def details_target(ticker: str) -> str:
    """Returns the path of what is known of one ticker."""
    return f"/v3/reference/tickers/{quote(ticker, safe=':')}"


def events_target(figi: str) -> str:
    """Returns path and query for the ticker changes of a company."""
    return f"/vX/reference/tickers/{quote(figi)}/events?types=ticker_change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A symbol as the provider lists it; '' where it says nothing."""

    provider_ticker: str
    asset_class: int
    name: str = ""
    exchange: str = ""
    type: str = ""
    figi: str = ""
    delist_date: date | None = None


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a list, those of its rows that are of no use, and up to which ticker it is whole; '' at the end."""

    listings: list[Listing]
    useless: int
    until: str


def read_list(market: str, body: bytes, *, active: bool) -> ListPage:
    """Decodes a page; raises PageError. Of the last ticker there may be more on the next page: it is asked again."""
    page = _decode(body)
    rows = page.get("results") or []
    if not isinstance(rows, list):
        raise PageError("not a list of symbols")
    names = [str(row.get("ticker") or "") if isinstance(row, dict) else "" for row in rows]
    until = ""
    if page.get("next_url"):
        whole = sorted({name for name in names if name and name != names[-1]})
        if not whole:
            raise PageError("a page of one ticker")
        until = whole[-1]
        rows = [row for row, name in zip(rows, names, strict=True) if name != names[-1]]
    listings = [_listing(market, row, active=active) if isinstance(row, dict) else None for row in rows]
    found = [one for one in listings if one is not None]
    return ListPage(found, len(listings) - len(found), until)


def _listing(market: str, row: dict[str, Any], *, active: bool) -> Listing | None:
    """Returns a listing; None for one whose ticker the registry cannot hold, or that left at an unknown date."""
    kind = str(row.get("type") or "")
    asset_class = CRYPTO if market == "crypto" else ETF if kind in _ETF_TYPES else STOCK
    left = None if active else _date(row.get("delisted_utc"))
    try:
        spelling = spell(str(row.get("ticker") or ""), asset_class)
    except TickerError:
        return None
    if spelling.provider_ticker != row.get("ticker") or (left is None and not active):
        return None
    codes = {
        name: text if pattern.fullmatch(text := str(row.get(key) or "")) else ""
        for (name, pattern), key in zip(_CODES.items(), ("primary_exchange", "type", "composite_figi"), strict=True)
    }
    name = str(row.get("name") or "").strip()[:MAX_NAME]
    return Listing(
        provider_ticker=spelling.provider_ticker, asset_class=asset_class, name=name, delist_date=left, **codes
    )


def read_list_date(body: bytes) -> date | None:
    """Returns since when a symbol is listed; None where the provider does not say; raises PageError."""
    results = _decode(body).get("results")
    return _date(results.get("list_date")) if isinstance(results, dict) else None


def read_change(body: bytes, ticker: str) -> date | None:
    """Returns the date from which a company has this ticker, None if it says nothing of it; raises PageError."""
    results = _decode(body).get("results")
    events = results.get("events") if isinstance(results, dict) else None
    dates = [
        _date(event.get("date"))
        for event in (events if isinstance(events, list) else ())
        if isinstance(event, dict) and (event.get("ticker_change") or {}).get("ticker") == ticker
    ]
    return max((day for day in dates if day), default=None)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        page: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PageError(f"no JSON: {error}") from error
    if not isinstance(page, dict):
        raise PageError("not an object")
    return page


def _date(value: Any) -> date | None:
    try:
        return date.fromisoformat(value[:10]) if isinstance(value, str) else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A symbol while it holds or held a ticker, as the registry has it; dates inclusive."""

    symbol_id: int
    provider_ticker: str
    from_date: date
    to_date: date | None
    name: str = ""
    exchange: str = ""
    type: str = ""
    figi: str = ""
    delist_date: date | None = None

    def holds(self, day: date | None) -> bool:
        """Says whether it holds its ticker at a date, None meaning now."""
        if day is None:
            return self.to_date is None
        return self.from_date <= day and (self.to_date is None or day <= self.to_date)


@dataclass(slots=True)
class ListPlan:
    """What a page of a list changes in the registry."""

    new: list[tuple[Listing, date | None]] = field(default_factory=list)
    """Symbols to register, each with its first date under the ticker, None meaning from ever."""
    updates: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    renamed: list[tuple[Holder, Listing]] = field(default_factory=list)
    """Symbols that are listed under another ticker than they hold, or held last."""
    reused: list[tuple[int, Listing]] = field(default_factory=list)
    """Listings whose ticker another company holds at that time as the registry has it, or the same one never."""
    unchanged: int = 0


def plan_list(listings: Iterable[Listing], holders: Sequence[Holder]) -> ListPlan:
    """Compares listings with who holds their tickers, or has their FIGI."""
    plan = ListPlan()
    by_ticker: dict[str, list[Holder]] = defaultdict(list)
    for holder in holders:
        by_ticker[holder.provider_ticker].append(holder)
    by_figi = {one.figi: one for one in sorted(holders, key=lambda one: one.to_date or date.max) if one.figi}
    for one in sorted(listings, key=lambda listing: (listing.provider_ticker, listing.delist_date or date.max)):
        spans = by_ticker[one.provider_ticker]
        at_date = [holder for holder in spans if holder.holds(one.delist_date)]
        elsewhere = by_figi.get(one.figi)
        if at_date:
            _compare(plan, one, at_date[0])
        elif elsewhere is not None and one.delist_date is None:
            plan.renamed.append((elsewhere, one))
        elif elsewhere is not None:
            plan.reused.append((elsewhere.symbol_id, one))
        else:
            first = _first_free(spans, one.delist_date)
            plan.new.append((one, first))
            made = Holder(
                symbol_id=0,
                provider_ticker=one.provider_ticker,
                from_date=first or date.min,
                to_date=one.delist_date,
                figi=one.figi,
                delist_date=one.delist_date,
            )
            spans.append(made)
    return plan


def _compare(plan: ListPlan, one: Listing, holder: Holder) -> None:
    """Updates whoever holds a ticker from its listing, if that is the same company."""
    known_apart = bool(one.figi and holder.figi and one.figi != holder.figi)
    same = bool(one.figi) and one.figi == holder.figi
    if known_apart or (one.delist_date != holder.delist_date and one.delist_date is not None and not same):
        plan.reused.append((holder.symbol_id, one))
        return
    changed: dict[str, Any] = {
        name: getattr(one, name)
        for name in ("name", "exchange", "type", "figi")
        if getattr(one, name) and getattr(one, name) != getattr(holder, name)
    }
    if one.delist_date is not None and holder.to_date is None:
        changed["delist_date"] = one.delist_date
    if changed and holder.symbol_id:
        plan.updates.append((holder.symbol_id, changed))
    else:
        plan.unchanged += 1


def _first_free(spans: Sequence[Holder], until: date | None) -> date | None:
    """Returns the day after the ticker was last left before a date; None if nobody held it before."""
    ends = [one.to_date for one in spans if one.to_date is not None and (until is None or one.to_date < until)]
    return max(ends) + timedelta(days=1) if ends else None
