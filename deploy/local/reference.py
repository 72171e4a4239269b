"""Answers Polygon's grouped daily bars and its reference data: tickers and their events."""

from __future__ import annotations

from datetime import UTC, date
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from deploy.local.aggregates import BadRequestError
from deploy.local.cursors import asked_in, make_cursor
from deploy.local.market import render
from deploy.local.windows import NEW_YORK, day_end, midnight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.local.market import BaseBar, Listing, Market

CLOSE = 16 * 3_600_000  # of the exchange, after midnight in New York
COMPARISONS = ("gte", "gt", "lte", "lt")
TICKERS_LIMIT = (100, 1000)

Row = dict[str, Any]


class NotFoundError(Exception):
    """Polygon's 404; the text is its `message`."""


def grouped(market: Market, locale: str, day_text: str, params: Mapping[str, str]) -> list[bytes]:
    """Returns the bars of one day of all tickers of a locale (us, global), stamped with the end of their window."""
    day = read_day(day_text, "date")
    adjusted = params.get("adjusted", "true") == "true"
    crypto = locale == "global"
    rows = []
    for listing in market.listings:
        series = market.find(listing.ticker, "day")
        if series is None or (listing.market == "crypto") != crypto:
            continue
        first, last = series.span(*_bounds(day, crypto=crypto))
        bars = series.adjusted_bars if adjusted else series.bars
        rows += [stamped(listing.ticker, bar, day, crypto=crypto) for bar in bars[first:last]]
    return rows


def tickers(market: Market, params: Mapping[str, str], today: date) -> tuple[list[Row], str | None]:
    """Returns a page of listings and the path and query of the next."""
    asked = asked_of(params)
    day = read_day(asked["date"], "date") if "date" in asked else today
    rows = [_row(listing) for listing in market.listings if _listed(listing, day, asked)]
    rows.sort(key=lambda row: row["ticker"], reverse=asked.get("order") == "desc")
    if marker := asked.get("page_marker"):
        found = [index for index, row in enumerate(rows) if row["ticker"] == marker.partition("|")[0]]
        rows = rows[found[0] :] if found else []
    limit = limit_of(asked, *TICKERS_LIMIT)
    if len(rows) <= limit:
        return rows, None
    following = rows[limit]["ticker"]
    asked = {"active": "true", "order": "asc", "sort": "ticker", **asked, "limit": str(limit)}
    asked["page_marker"] = f"{following}|{sha256(following.encode()).hexdigest()}"
    return rows[:limit], f"/v3/reference/tickers?cursor={make_cursor(asked)}"


def ticker(market: Market, name: str, params: Mapping[str, str], today: date) -> Row:
    """Returns what is known of one ticker at a date."""
    day = read_day(params["date"], "date") if "date" in params else today
    for listing in market.listings:
        if listing.ticker == name and listing.first_date <= day <= listing.last_date:
            return {
                **_row(listing),
                **({"list_date": listing.row["list_date"]} if listing.row.get("list_date") else {}),
            }
    raise NotFoundError("Ticker not found.")


def events(market: Market, name: str) -> Row:
    """Returns the ticker changes of a company, newest first, by ticker or composite FIGI."""
    named = [one for one in market.listings if name in (one.ticker, one.row.get("composite_figi"))]
    if not named:
        raise NotFoundError("Ticker not found.")
    row = named[-1].row
    figi = row.get("composite_figi", "")
    own = [one for one in market.listings if figi and one.row.get("composite_figi") == figi]
    changes = sorted(((one.first_date, one.ticker) for one in own if one.first_date > date.min), reverse=True)
    return {
        "name": row["name"],
        "composite_figi": figi,
        "cik": row["cik"],
        "events": [
            {"ticker_change": {"ticker": to}, "type": "ticker_change", "date": day.isoformat()} for day, to in changes
        ],
    }


def _bounds(day: date, *, crypto: bool) -> tuple[int, int]:
    zone = UTC if crypto else NEW_YORK
    return midnight(day, zone), day_end(day, zone)


def stamped(name: str, bar: BaseBar, day: date, *, crypto: bool) -> bytes:
    """Returns a day's bar with its ticker, at the end of its window: the close of the exchange, or of the UTC day."""
    end = _bounds(day, crypto=True)[1] if crypto else midnight(day, NEW_YORK) + CLOSE
    text = render(bar).replace(b'"t":%d' % bar.start, b'"t":%d' % end)
    return b'{"T":"%s",' % name.encode() + text[1:]


def _listed(listing: Listing, day: date, asked: Mapping[str, str]) -> bool:
    row = listing.row
    return (
        (asked.get("active", "true") == "true") == (listing.first_date <= day <= listing.last_date)
        and within(listing.ticker, "ticker", asked)
        and all(asked.get(name, value) == value for name, value in (("market", listing.market), ("type", row["type"])))
        and asked.get("exchange", row["primary_exchange"]) == row["primary_exchange"]
        and asked.get("search", "").lower() in f"{listing.ticker} {row['name']}".lower()
    )


def _row(listing: Listing) -> Row:
    row: Row = {"ticker": listing.ticker, "name": listing.row["name"], "market": listing.market}
    if listing.market == "crypto":
        base, quote = listing.ticker[2:-3], listing.ticker[-3:]
        names = listing.row["name"].split(" - ")
        row |= {"locale": "global", "active": True, "currency_symbol": quote, "currency_name": names[-1]}
        return row | {"base_currency_symbol": base, "base_currency_name": names[0]}
    row |= {"locale": "us", "primary_exchange": listing.row["primary_exchange"], "type": listing.row["type"]}
    row |= {"active": listing.last_date == date.max, "currency_name": "usd"}
    if listing.last_date != date.max:
        row["delisted_utc"] = f"{listing.last_date}T00:00:00Z"
    return row | {name: listing.row[name] for name in ("cik", "composite_figi") if listing.row.get(name)}


def within(value: str, name: str, asked: Mapping[str, str]) -> bool:
    """Says whether a value fits what is asked of a field: name=, name.gte=, name.gt=, name.lte=, name.lt=."""
    if asked.get(name, value) != value:
        return False
    limits = {rule: asked[f"{name}.{rule}"] for rule in COMPARISONS if f"{name}.{rule}" in asked}
    return all(
        {"gte": value >= limit, "gt": value > limit, "lte": value <= limit, "lt": value < limit}[rule]
        for rule, limit in limits.items()
    )


def limit_of(asked: Mapping[str, str], default: int, maximum: int) -> int:
    """Returns how many rows a page has; raises BadRequestError."""
    text = asked.get("limit", str(default))
    if not text.isdigit() or int(text) < 1:
        raise BadRequestError("Could not parse the parameter 'limit'")
    return min(int(text), maximum)


def read_day(text: str, name: str) -> date:
    """Returns the date that a parameter says; raises BadRequestError."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadRequestError(f"Could not parse the time parameter: '{name}'. Use YYYY-MM-DD") from error


def asked_of(params: Mapping[str, str]) -> dict[str, str]:
    """Returns what is asked, a cursor's part included; raises BadRequestError."""
    try:
        return asked_in(params)
    except ValueError as error:
        raise BadRequestError("Could not parse the cursor") from error
