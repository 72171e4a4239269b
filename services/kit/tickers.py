"""Spellings of tickers: what people type, what the registry keeps, what Polygon wants.

    class    typed                                         kept      Polygon
    stock    AAPL                                          AAPL      AAPL
    stock    BRK.B, KIMpL (case and dots are kept)         KIMpL     KIMpL
    crypto   BTC, BTCUSD, BTC-USD, X:BTCUSD, btc/usd       BTC-USD   X:BTCUSD

A coin alone means its pair with USD. Classes are numbers of mdw.type.v1.AssetClass.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

STOCK, ETF, CRYPTO = 1, 2, 3
CLASSES = {STOCK: "stock", ETF: "ETF", CRYPTO: "crypto"}

MAX_LENGTH = 32

# Lower case only as Polygon's marks: p preferred, r rights, w when issued.
_LISTED = re.compile(r"[A-Z][A-Z0-9]*(?:[prw]{1,2}[A-Z0-9]*)?(?:\.[A-Z0-9]+[prw]?)*", re.ASCII)
_LISTED_RULE = "must look like AAPL, BRK.B or KIMpL: capitals, digits, dots, and p, r or w as marks"
_ANY_RULE = "must look like AAPL, BRK.B, KIMpL or BTC-USD"
_COIN = re.compile(r"[A-Z0-9]{1,20}", re.ASCII)
_PAIR_RULE = "must look like BTC, BTCUSD, BTC-USD or X:BTCUSD"

_MONEY = ("USDT", "USDC", "USD", "EUR", "GBP", "JPY", "AUD", "CAD")
# Other coins' names end with these (WBTC, STETH, XSGD), so they are read as quotes only after a dash or X:.
# No quote may end with another one: a pair in one word could then be split in two ways.
_DASHED_ONLY = ("BTC", "ETH", "CHF", "NZD", "SGD", "HKD", "KRW", "INR", "BRL", "TRY", "MXN", "ZAR", "PLN", "SEK", "NOK")
_COIN_QUOTES = ("BTC", "ETH")
_STABLE = ("USDT", "USDC")
_NO_COINS = frozenset((*_MONEY, *_DASHED_ONLY)) - frozenset((*_STABLE, *_COIN_QUOTES))


class TickerError(ValueError):
    """A text is no ticker of its class; the message is the rule that it breaks."""


@dataclass(frozen=True, slots=True, order=True)
class Spelling:
    """One ticker of one class, as the registry keeps it and as Polygon wants it."""

    asset_class: int
    ticker: str
    provider_ticker: str


def spell(text: str, asset_class: int) -> Spelling:
    """Returns the one spelling that is kept; raises TickerError, also where the text could mean two pairs."""
    found = _readings(text, asset_class)
    if len(found) > 1:
        raise TickerError(f"could mean {' or '.join(spelling.ticker for spelling in found)}: write it with the dash")
    return found[0]


def readings(text: str, asset_class: int = 0) -> tuple[Spelling, ...]:
    """Returns all that a text may mean, in every class if asset_class is 0; raises TickerError if nothing."""
    if asset_class:
        return _readings(text, asset_class)
    stripped = text.strip()
    if not 0 < len(stripped) <= MAX_LENGTH:
        raise TickerError(_length_rule(stripped))
    found: list[Spelling] = []
    for each in CLASSES:
        # Small letters are no other spelling of a stock, so without a class they are none of a coin alone either.
        if each == CRYPTO and stripped != stripped.upper() and not re.search("[-/:]", stripped):
            continue
        with suppress(TickerError):
            found.extend(_readings(stripped, each))
    if not found:
        raise TickerError(_ANY_RULE)
    return tuple(found)


def _readings(text: str, asset_class: int) -> tuple[Spelling, ...]:
    stripped = text.strip()
    if not 0 < len(stripped) <= MAX_LENGTH:
        raise TickerError(_length_rule(stripped))
    if asset_class == CRYPTO:
        if not stripped.isascii():
            raise TickerError(_PAIR_RULE)
        return tuple(
            Spelling(CRYPTO, f"{base}-{quote}", f"X:{base}{quote}") for base, quote in _pairs(stripped.upper())
        )
    if asset_class not in CLASSES:
        raise TickerError("needs an asset class")
    if not _LISTED.fullmatch(stripped):
        raise TickerError(_LISTED_RULE)
    return (Spelling(asset_class, stripped, stripped),)


def _length_rule(text: str) -> str:
    return f"has {len(text)} characters, at most {MAX_LENGTH} are allowed" if text else "must not be empty"


def _pairs(text: str) -> list[tuple[str, str]]:
    """Returns the coins and quotes that an upper-case text may mean, the likeliest first."""
    prefixed, body = text.startswith("X:"), text.removeprefix("X:")
    base, dash, quote = body.replace("/", "-").partition("-")
    if dash:
        return [_checked(base, quote)]
    if prefixed:
        return [_checked(*_split(body, (*_MONEY, *_DASHED_ONLY)))]
    base, quote = _split(body, _MONEY)
    if quote:
        return [_checked(base, quote)]
    base, quote = _split(body, _COIN_QUOTES)
    other = [_checked(base, quote)] if quote and base != quote else []
    return [*other, _checked(body, "USD")]


def _split(body: str, quotes: tuple[str, ...]) -> tuple[str, str]:
    """Returns coin and quote of a pair written as one word; the quote is empty if it ends with none of these."""
    for quote in quotes:
        if body.endswith(quote) and body != quote:
            return body.removesuffix(quote), quote
    return body, ""


def _checked(base: str, quote: str) -> tuple[str, str]:
    if not _COIN.fullmatch(base):
        raise TickerError(_PAIR_RULE)
    if quote not in _MONEY and quote not in _DASHED_ONLY:
        raise TickerError(f"{_PAIR_RULE}; {quote or base!r} is no quote that the warehouse knows")
    if base == quote or base in _NO_COINS:
        raise TickerError(f"{_PAIR_RULE}; {base} is no coin")
    return base, quote
