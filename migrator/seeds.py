"""The 15 symbols that a new warehouse begins with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

STOCK, ETF, CRYPTO = 1, 2, 3  # numbers of mdw.type.v1.AssetClass
UNKNOWN_START = date(1900, 1, 1)


@dataclass(frozen=True, slots=True)
class Span:
    """A ticker and the dates on which the symbol held it, both inclusive; None while it does."""

    ticker: str
    provider_ticker: str
    from_date: date = UNKNOWN_START
    to_date: date | None = None


@dataclass(frozen=True, slots=True)
class Seed:
    """A symbol with its tickers in time."""

    asset_class: int
    name: str
    exchange: str
    type: str
    spans: tuple[Span, ...]
    list_date: date | None = None


def _stock(ticker: str, name: str) -> Seed:
    return Seed(STOCK, name, "XNAS", "CS", (Span(ticker, ticker),))


def _etf(ticker: str, name: str, exchange: str) -> Seed:
    return Seed(ETF, name, exchange, "ETF", (Span(ticker, ticker),))


def _coin(ticker: str, name: str) -> Seed:
    return Seed(CRYPTO, name, "", "", (Span(ticker, "X:" + ticker.replace("-", "")),))


# Meta's bars up to 2022-06-08 come under FB; META was another company's ETF until that January.
META = Seed(
    STOCK,
    "Meta Platforms, Inc. Class A Common Stock",
    "XNAS",
    "CS",
    (Span("FB", "FB", date(2012, 5, 18), date(2022, 6, 8)), Span("META", "META", date(2022, 6, 9))),
    list_date=date(2012, 5, 18),
)

SEEDS = (
    _stock("AAPL", "Apple Inc."),
    _stock("MSFT", "Microsoft Corp"),
    _stock("GOOGL", "Alphabet Inc. Class A Common Stock"),
    _stock("AMZN", "Amazon.Com Inc"),
    _stock("TSLA", "Tesla, Inc. Common Stock"),
    META,
    _stock("NVDA", "Nvidia Corp"),
    _stock("AMD", "Advanced Micro Devices"),
    _stock("INTC", "Intel Corp"),
    _stock("QCOM", "Qualcomm Inc"),
    _etf("SPY", "SPDR S&P 500 ETF Trust", "ARCX"),
    _etf("QQQ", "Invesco QQQ Trust, Series 1", "XNAS"),
    _etf("IWM", "iShares Russell 2000 ETF", "ARCX"),
    _coin("BTC-USD", "Bitcoin - United States dollar"),
    _coin("ETH-USD", "Ethereum - United States dollar"),
)
