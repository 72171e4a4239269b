"""Spellings of tickers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.tickers import CRYPTO, ETF, MAX_LENGTH, STOCK, Spelling, TickerError, readings, spell

BITCOIN = Spelling(CRYPTO, "BTC-USD", "X:BTCUSD")


@pytest.mark.parametrize("text", ["BTC", "BTCUSD", "BTC-USD", "X:BTCUSD", "X:BTC-USD", "btc", "btc/usd", " BTC-USD "])
def test_all_spellings_of_a_pair_are_one(text):
    """Each usual spelling of a crypto pair gives the same ticker and the same provider ticker."""
    assert spell(text, CRYPTO) == BITCOIN


@pytest.mark.parametrize(
    ("text", "ticker", "provider"),
    [
        ("ETH-BTC", "ETH-BTC", "X:ETHBTC"),
        ("X:ETHBTC", "ETH-BTC", "X:ETHBTC"),
        ("USDT", "USDT-USD", "X:USDTUSD"),
        ("USDCUSD", "USDC-USD", "X:USDCUSD"),
        ("BTCUSDT", "BTC-USDT", "X:BTCUSDT"),
        ("1INCH", "1INCH-USD", "X:1INCHUSD"),
        ("WBTC-USD", "WBTC-USD", "X:WBTCUSD"),
        ("BTC-CHF", "BTC-CHF", "X:BTCCHF"),
        ("ETHETH", "ETHETH-USD", "X:ETHETHUSD"),
    ],
)
def test_pairs_with_other_quotes(text, ticker, provider):
    """Quotes other than USD are read, money and coins alike."""
    assert spell(text, CRYPTO) == Spelling(CRYPTO, ticker, provider)


def test_a_word_that_may_be_two_pairs_is_refused():
    """WBTC may be the coin or W against BTC: looked up it is either, registered it is neither."""
    with pytest.raises(TickerError, match="W-BTC or WBTC-USD"):
        spell("WBTC", CRYPTO)
    assert [found.ticker for found in readings("WBTC", CRYPTO)] == ["W-BTC", "WBTC-USD"]


@pytest.mark.parametrize("text", ["AAPL", "BRK.B", "KIMpL", "AAC.WS", "JWr", "BTC", "TSTrw", "BF.Aw"])
@pytest.mark.parametrize("asset_class", [STOCK, ETF])
def test_listed_tickers_keep_case_and_dots(text, asset_class):
    """What is listed is kept as it is, class shares and preferreds too."""
    assert spell(text, asset_class) == Spelling(asset_class, text, text)


@pytest.mark.parametrize("text", ["aapl", "Aapl", "BRK-B", "BTC-USD", "X:BTCUSD", "", "  ", "A B", "A.", "A" * 33, "É"])
def test_what_is_no_listed_ticker_is_refused(text):
    """Other case, other separators, pairs, blanks and other alphabets are refused with the rule."""
    with pytest.raises(TickerError, match=r"must|at most"):
        spell(text, STOCK)


NO_PAIRS = ["", "X:", "X:BTC", "X:USD", "EUR", "USD-USD", "BTC-XYZ", "BTC-", "-USD", "B.C", "A-B-C", "\u017f"]


@pytest.mark.parametrize("text", NO_PAIRS)
def test_what_is_no_pair_is_refused(text):
    """Unknown quotes, money as a coin, half pairs and other alphabets are refused with the rule."""
    with pytest.raises(TickerError, match="must"):
        spell(text, CRYPTO)


def test_without_a_class_a_text_may_mean_several():
    """BTC is a stock, an ETF or the coin; BTC-USD only the coin; AAPL in small letters nothing."""
    assert [found.asset_class for found in readings("BTC")] == [STOCK, ETF, CRYPTO]
    assert readings("BTC-USD") == readings("x:btcusd") == (BITCOIN,)
    assert [found.asset_class for found in readings("KIMpL")] == [STOCK, ETF]
    for text in ("aapl", "", "a b", "A" * 33):
        with pytest.raises(TickerError):
            readings(text)


def test_no_class_is_no_class_to_register_in():
    """A spelling to be kept needs its class."""
    with pytest.raises(TickerError, match="asset class"):
        spell("AAPL", 0)


words = st.text(st.sampled_from("ABTCUSDEHXp:-/. é"), max_size=MAX_LENGTH + 2)


@given(words, st.sampled_from([STOCK, ETF, CRYPTO]))
def test_a_kept_spelling_reads_as_itself(text, asset_class):
    """Whatever was typed: ticker and provider ticker that come out of it lead back to the same pair of them."""
    try:
        found = readings(text, asset_class)
    except TickerError:
        return
    for spelling in found:
        assert spell(spelling.ticker, asset_class) == spell(spelling.provider_ticker, asset_class) == spelling
        assert len(spelling.provider_ticker) <= 40


@given(words, words)
def test_two_pairs_never_share_a_provider_ticker(one, other):
    """Provider tickers of pairs are as different as the tickers, and never a listed one's."""
    try:
        first, second = spell(one, CRYPTO), spell(other, CRYPTO)
    except TickerError:
        return
    assert (first.ticker == second.ticker) == (first.provider_ticker == second.provider_ticker)
    with pytest.raises(TickerError):
        spell(first.provider_ticker, STOCK)
