"""Answers Polygon's splits and dividends, as the present endpoints spell them and as the old ones did, page by page."""

from __future__ import annotations

from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING, Any

from deploy.local.aggregates import BadRequestError
from deploy.local.cursors import make_cursor
from deploy.local.reference import Row, asked_of, limit_of, within

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploy.local.market import Dividend, Market, Split

LIMIT = (100, 5000)
OLD_LIMIT = (10, 1000)
DISTRIBUTIONS = {"CD": "recurring", "SC": "special"}
OLD_PATHS = {"splits": "/v3/reference/splits", "dividends": "/v3/reference/dividends"}
PATHS = {"splits": "/stocks/v1/splits", "dividends": "/stocks/v1/dividends"}
DATES = {"splits": "execution_date", "dividends": "ex_dividend_date"}


def actions(market: Market, subject: str, params: Mapping[str, str], *, old: bool) -> tuple[list[Row], str | None]:
    """Returns a page of splits or dividends, newest first unless asked otherwise, and path and query of the next."""
    asked, date_field = asked_of(params), DATES[subject]
    rows = _split_rows(market, old=old) if subject == "splits" else _dividend_rows(market, old=old)
    wanted = set(asked["ticker.any_of"].split(",")) if "ticker.any_of" in asked and not old else None
    found = [
        row
        for row in rows
        if (wanted is None or row["ticker"] in wanted)
        and within(row["ticker"], "ticker", asked)
        and within(row[date_field], date_field, asked)
    ]
    field, descending = _order(asked, date_field, old=old)
    found.sort(key=lambda row: (row[field], row["ticker"], row["id"]), reverse=descending)
    limit, first = limit_of(asked, *(OLD_LIMIT if old else LIMIT)), _marker(asked)
    page = found[first : first + limit]
    if len(found) <= first + limit:
        return page, None
    following = {**asked, "limit": str(limit), "page_marker": str(first + limit)}
    path = (OLD_PATHS if old else PATHS)[subject]
    return page, f"{path}?cursor={make_cursor(following)}"


def _marker(asked: Mapping[str, str]) -> int:
    text = asked.get("page_marker", "0")
    if not text.isdigit():
        raise BadRequestError("Could not parse the cursor")
    return int(text)


def _order(asked: Mapping[str, str], date_field: str, *, old: bool) -> tuple[str, bool]:
    """Returns by which field, and whether the largest comes first: `sort=F&order=asc` of old, now `sort=F.asc`."""
    name, _, way = asked.get("sort", date_field).partition(".")
    if name not in ("ticker", date_field) or (way and old) or way not in ("", "asc", "desc"):
        raise BadRequestError(f"Could not parse the parameter 'sort': {asked.get('sort')}")
    return name, (asked.get("order", "desc") if old else way or "desc") != "asc"


def _split_rows(market: Market, *, old: bool) -> list[Row]:
    return [_split_row(split, market.splits, old=old) for split in market.splits]


def _split_row(split: Split, known: Sequence[Split], *, old: bool) -> Row:
    day = split.execution_date.isoformat()
    row: Row = {
        "execution_date": day,
        "id": _id(split.ticker, day),
        "split_from": _whole(split.split_from),
        "split_to": _whole(split.split_to),
        "ticker": split.ticker,
    }
    if old:
        return row
    later = [one for one in known if one.ticker == split.ticker and one.execution_date >= split.execution_date]
    kind = "forward_split" if split.split_to > split.split_from else "reverse_split"
    factor = prod(one.split_from / one.split_to for one in later)
    return row | {"adjustment_type": kind, "historical_adjustment_factor": factor}


def _dividend_rows(market: Market, *, old: bool) -> list[Row]:
    return [_dividend_row(one, market.splits, old=old) for one in market.dividends]


def _dividend_row(dividend: Dividend, splits: Sequence[Split], *, old: bool) -> Row:
    day = dividend.ex_date.isoformat()
    row: Row = {
        "cash_amount": _whole(dividend.cash),
        "currency": "USD",
        "ex_dividend_date": day,
        "frequency": dividend.frequency,
        "id": _id(dividend.ticker, day, dividend.cash),
        "ticker": dividend.ticker,
    }
    if old:
        return row | {"dividend_type": dividend.type}
    later = [one for one in splits if one.ticker == dividend.ticker and one.execution_date > dividend.ex_date]
    factor = prod(one.split_from / one.split_to for one in later)
    adjusted = round(dividend.cash * factor, 10)
    return row | {"distribution_type": DISTRIBUTIONS[dividend.type], "split_adjusted_cash_amount": adjusted}


def _id(*parts: Any) -> str:
    return f"E{sha256('|'.join(map(str, parts)).encode()).hexdigest()}"


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value
