"""Finds the symbols that a request names by ticker, by symbol_id, by class, or as all that are active.

A bare ticker means its present holder, else its last one: FB finds Meta. Without an asset class all classes count, and
a ticker that fits symbols of several is ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from services.kit import tickers
from services.kit.errors import FailedPrecondition, InvalidArgument, MdwError, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.store.symbols import Symbol, SymbolStore

MAX_SYMBOLS = 20_000
_NAMED_IN_ERRORS = 20
_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Names symbols in exactly one of four ways; asset_class 0 means any, and narrows tickers where they are given."""

    tickers: Sequence[str] = ()
    asset_class: int = 0
    symbol_ids: Sequence[int] = ()
    all_active: bool = False
    tickers_field: str = "tickers"
    """What the request calls the field that the tickers stand in."""

    def field_of(self, position: int) -> str:
        """Returns what an error calls a ticker by its place."""
        return f"tickers[{position}]" if self.tickers_field == "tickers" else self.tickers_field

    def check(self, maximum: int = MAX_SYMBOLS) -> None:
        """Raises InvalidArgument unless the symbols are named in one way and are not too many."""
        ways = [bool(self.tickers), bool(self.symbol_ids), self.all_active]
        if sum(ways) > 1 or not (any(ways) or self.asset_class):
            raise InvalidArgument("tickers", "needs one of tickers, symbol_ids, asset_class alone, or all_active")
        if self.asset_class and (self.symbol_ids or self.all_active):
            raise InvalidArgument("asset_class", "goes with tickers, or stands alone")
        if self.asset_class and self.asset_class not in tickers.CLASSES:
            raise InvalidArgument("asset_class", f"is {self.asset_class}, which is no asset class")
        for name, named in (("tickers", self.tickers), ("symbol_ids", self.symbol_ids)):
            if len(named) > maximum:
                raise InvalidArgument(name, f"has {len(named)} entries, at most {maximum} are allowed")


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Says what was asked for and could not be found, and the error that it alone would be answered with."""

    ticker: str
    symbol_id: int
    error: MdwError


@dataclass(slots=True)
class Resolution:
    """Holds the symbols found, in the order asked for, each once, and what was not found."""

    symbols: list[Symbol] = field(default_factory=list)
    unresolved: list[Unresolved] = field(default_factory=list)


async def resolve(
    store: SymbolStore, wanted: Wanted, *, strict: bool = False, maximum: int = MAX_SYMBOLS
) -> Resolution:
    """Finds what is wanted; raises for what cannot be found if it stands alone, or with strict."""
    wanted.check(maximum)
    if wanted.tickers:
        found = await _by_tickers(store, wanted)
    elif wanted.symbol_ids:
        found = await _by_ids(store, wanted.symbol_ids)
    else:
        return Resolution(await store.active(wanted.asset_class or None))
    if found.unresolved and (strict or not found.symbols):
        raise _told_together(found.unresolved)
    return Resolution(list({symbol.symbol_id: symbol for symbol in found.symbols}.values()), found.unresolved)


async def resolve_one(store: SymbolStore, ticker: str, asset_class: int, symbol_id: int) -> Symbol:
    """Finds one symbol, named by ticker (and class) or by symbol_id."""
    if bool(ticker) == bool(symbol_id):
        raise InvalidArgument("ticker", "needs either a ticker or a symbol_id")
    if symbol_id and asset_class:
        raise InvalidArgument("asset_class", "goes with a ticker, not with a symbol_id")
    wanted = Wanted(
        tickers=[ticker] if ticker else (),
        asset_class=asset_class,
        symbol_ids=[symbol_id] if symbol_id else (),
        tickers_field="ticker",
    )
    return (await resolve(store, wanted)).symbols[0]


async def _by_ids(store: SymbolStore, symbol_ids: Sequence[int]) -> Resolution:
    known = {
        symbol.symbol_id: symbol
        for symbol in await store.by_ids([each for each in symbol_ids if 0 < each <= _LARGEST_ID])
    }
    resolution = Resolution()
    for each in symbol_ids:
        if each in known:
            resolution.symbols.append(known[each])
        else:
            error = NotFound("SYMBOL_NOT_FOUND", f"there is no symbol {each}", symbol_id=str(each))
            resolution.unresolved.append(Unresolved("", each, error))
    return resolution


async def _by_tickers(store: SymbolStore, wanted: Wanted) -> Resolution:
    meanings = [_meanings(text, wanted, position) for position, text in enumerate(wanted.tickers)]
    spelled = {meaning.ticker for found in meanings if not isinstance(found, MdwError) for meaning in found}
    holders: dict[str, list[Symbol]] = {}
    for symbol in await store.by_tickers(sorted(spelled)):
        for ticker in {span.ticker for span in symbol.spans}:
            holders.setdefault(ticker, []).append(symbol)
    resolution = Resolution()
    for text, found in zip(wanted.tickers, meanings, strict=True):
        picked = found if isinstance(found, MdwError) else _pick(text, found, holders)
        if isinstance(picked, MdwError):
            resolution.unresolved.append(Unresolved(text, 0, picked))
        else:
            resolution.symbols.append(picked)
    return resolution


def _told_together(unresolved: Sequence[Unresolved]) -> MdwError:
    """Returns one error for all that failed alike, misspelled ones first, so that nobody mends them one by one."""
    first = min((one.error for one in unresolved), key=lambda error: not isinstance(error, InvalidArgument))
    alike = [one for one in unresolved if one.error.reason == first.reason]
    if isinstance(first, InvalidArgument):
        return InvalidArgument.many(
            each for one in alike if isinstance(one.error, InvalidArgument) for each in one.error.violations
        )
    if len(alike) == 1 or not isinstance(first, NotFound):
        return first
    names = ", ".join(one.ticker or str(one.symbol_id) for one in alike[:_NAMED_IN_ERRORS])
    more = f" and {len(alike) - _NAMED_IN_ERRORS} more" if len(alike) > _NAMED_IN_ERRORS else ""
    return NotFound(first.reason, f"there are no symbols {names}{more}", **dict.fromkeys(first.metadata, names))


def _meanings(text: str, wanted: Wanted, position: int) -> tuple[tickers.Spelling, ...] | MdwError:
    try:
        return tickers.readings(text, wanted.asset_class)
    except tickers.TickerError as broken:
        return InvalidArgument(wanted.field_of(position), str(broken))


def _pick(text: str, meanings: Sequence[tickers.Spelling], holders: dict[str, list[Symbol]]) -> Symbol | MdwError:
    """Returns who holds a ticker, or else held it last; past holders count only where there is no present one."""
    held = [
        (until, meaning, symbol)
        for meaning in meanings
        for symbol in holders.get(meaning.ticker, ())
        if (until := symbol.held_until(meaning.asset_class, meaning.ticker))
    ]
    present = [found for found in held if found[0] == date.max]
    last_of = {meaning: symbol for _, meaning, symbol in sorted(present or held, key=lambda found: found[0])}
    candidates = list({symbol.symbol_id: symbol for symbol in last_of.values()}.values())
    if not candidates:
        return NotFound("SYMBOL_NOT_FOUND", f"there is no symbol {text}", ticker=text)
    return candidates[0] if len(candidates) == 1 else _ambiguous(text, candidates)


def _ambiguous(text: str, candidates: list[Symbol]) -> MdwError:
    names = ", ".join(
        f"{symbol.ticker} ({tickers.CLASSES[symbol.asset_class]}, symbol_id {symbol.symbol_id})"
        for symbol in candidates
    )
    return FailedPrecondition(
        "SYMBOL_AMBIGUOUS", f"{text} could mean {names}: name the asset class", ticker=text, candidates=names
    )
